"""The interface of strategies: when Gaussians are added, moved and removed during a fit."""

from typing import Any, Protocol

import torch
from torch import Tensor

from cus.splats.parameters import Parameters

# Everything a strategy remembers between steps, for checkpoints.
StrategyState = dict[str, Tensor]


class Strategy(Protocol):
    """Density control of a fit. The strategy object holds only settings; what it learns is in the state."""

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """The state before the first step, for `count` Gaussians."""
        ...

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """A term added to the loss of every step, or None."""
        ...

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
        ...


def steps_of(share: float, total: int) -> int:
    """Convert a fraction of the run to a number of steps, at least one."""
    return max(1, round(share * total))
