"""What a stage of training adds to the loop."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class Stage(Protocol):
    """A model with its loss, its sample pictures and its export."""

    @property
    def module(self) -> nn.Module:
        """Everything that the stage calls in `loss`; what does not require gradients stays as it is."""
        ...

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch; `module` is `self.module` as wrapped by Accelerate."""
        ...

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures of the present (averaged) weights to `folder`; the measures returned are logged."""
        ...

    def export(self, folder: Path) -> None:
        """Write the present (averaged) weights in the form that inference loads."""
        ...
