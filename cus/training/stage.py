"""The interface between a training stage and the loop."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class Stage(Protocol):
    """A model with its loss, its sample pictures and its export."""

    @property
    def module(self) -> nn.Module:
        """Everything that `loss` calls; parameters that do not require gradients stay frozen.

        Its attribute `learning_rates`, if it has one, maps names of its parts to factors of their learning rates.
        """
        ...

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch; `module` is `self.module` as wrapped by Accelerate."""
        ...

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures made with the current (averaged) weights to `folder`; the returned measures are logged."""
        ...

    def export(self, folder: Path) -> None:
        """Write the current (averaged) weights in the format that inference loads."""
        ...
