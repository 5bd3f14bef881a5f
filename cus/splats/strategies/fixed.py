"""No new Gaussians: the cloud's own, without those that fade."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cus.splats.parameters import Parameters
from cus.splats.strategies.base import StrategyState


@dataclass(frozen=True)
class FixedStrategy:
    """Forget faint Gaussians half way and at the end. For clouds that are dense already, as fused ones are.

    Attributes:
        min_opacity: Fainter Gaussians go.
    """

    min_opacity: float = 0.02

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """Nothing to remember."""
        return {}

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """None."""
        return None

    def after_backward(
        self,
        parameters: Parameters,
        state: StrategyState,
        step: int,
        total: int,
        info: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        """See `Strategy.after_backward`."""
        if step in (total // 2, total - 1):
            parameters.prune(self.min_opacity)
