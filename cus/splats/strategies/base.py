"""The interface of strategies: when Gaussians are added, moved and removed during a fit; and one that only prunes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cus.splats.parameters import Parameters

# Everything a strategy remembers between steps, for checkpoints.
StrategyState = dict[str, Tensor]


class Strategy(ABC):
    """Density control of a fit. The strategy object holds only settings; what it learns is in the state."""

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """The state before the first step, for `count` Gaussians; by default empty."""
        return {}

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """A term added to the loss of every step, or None, the default."""
        return None

    @abstractmethod
    def after_backward(
        self,
        parameters: Parameters,
        state: StrategyState,
        step: int,
        total: int,
        info: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        """Act after step `step` (from 0) of `total`; parameters and state change in place.

        Args:
            parameters: Gaussians after the optimizer's step.
            state: State of this strategy.
            step: Number of steps done before this one.
            total: Number of steps of the whole fit.
            info: Info of the rasterization, whose `means2d` holds its gradient.
            generator: Generator of every random draw, on the CPU.
        """


def steps_of(share: float, total: int) -> int:
    """Convert a fraction of the run to a number of steps, at least one."""
    return max(1, round(share * total))


@dataclass(frozen=True)
class FixedStrategy(Strategy):
    """Prune faint Gaussians halfway and at the end. For clouds that are already dense, such as fused ones.

    Attributes:
        min_opacity: Fainter Gaussians are pruned.
    """

    min_opacity: float = 0.02

    def after_backward(
        self,
        parameters: Parameters,
        state: StrategyState,
        step: int,
        total: int,
        info: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        """Prune faint Gaussians halfway and after the last step."""
        if step in (total // 2, total - 1):
            parameters.prune(self.min_opacity)
