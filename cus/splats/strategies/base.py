"""What a strategy is: when Gaussians are added, moved and forgotten during a fit."""

from typing import Any, Protocol

import torch
from torch import Tensor

from cus.splats.parameters import Parameters

# Everything a strategy remembers between steps, so that a checkpoint can hold it.
StrategyState = dict[str, Tensor]


class Strategy(Protocol):
    """Density control of a fit. The strategy itself holds settings only; what it learns is in the state."""

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """The state before the first step, for so many Gaussians."""
        ...

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """What joins the loss of every step, or None."""
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
            parameters: Already moved by their optimizer.
            state: Of this strategy.
            step: Steps done before this one.
            total: Steps of the whole fit.
            info: Of the rasterization, whose `means2d` holds its gradient.
            generator: Of every random draw; on the CPU.
        """
        ...


def steps_of(share: float, total: int) -> int:
    """A share of the run as a number of steps, at least one."""
    return max(1, round(share * total))
