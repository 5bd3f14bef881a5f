"""No new Gaussians: those of the cloud, minus those that fade."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cus.splats.parameters import Parameters
from cus.splats.strategies.base import StrategyState


@dataclass(frozen=True)
class FixedStrategy:
    """Prune faint Gaussians halfway and at the end. For clouds that are already dense, such as fused ones.

    Attributes:
        min_opacity: Fainter Gaussians are pruned.
    """

    min_opacity: float = 0.02

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """An empty state."""
        return {}

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """No penalty: None."""
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
        """Prune faint Gaussians halfway and after the last step."""
        if step in (total // 2, total - 1):
            parameters.prune(self.min_opacity)
