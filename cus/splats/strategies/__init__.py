"""Density control of a fit: explicit strategies with explicit state."""

from cus.splats.strategies.base import FixedStrategy, Strategy, StrategyState
from cus.splats.strategies.default import DefaultStrategy
from cus.splats.strategies.mcmc import MCMCStrategy

__all__ = ["DefaultStrategy", "FixedStrategy", "MCMCStrategy", "Strategy", "StrategyState"]
