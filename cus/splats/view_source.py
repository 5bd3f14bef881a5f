"""Views that a fit generates while it runs, such as pseudo-labels."""

from typing import Protocol

import torch
from torch import Tensor

from cus.splats.crops import Supervision

# means, quats, scales, opacities, sh, as `rasterization` takes them.
SceneTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class ViewSource(Protocol):
    """Generates supervision from the current scene; only its counts change between steps.

    Attributes:
        weight: weight of a view's loss relative to that of the image of the same step.
        counts: statistics of its draws so far, a tensor on the CPU that a checkpoint keeps.
    """

    weight: float
    counts: Tensor

    def draw(self, scene: SceneTensors, generator: torch.Generator) -> Supervision | None:
        """A view to compare the scene with, or None if none was found that shows enough.

        Args:
            scene: the current Gaussians; no gradient flows into them.
            generator: generator of every random draw, on the CPU.
        """
        ...

    def identity(self) -> tuple[str, list[Tensor]]:
        """Its part of a checkpoint's identity besides the fit's own inputs: settings in words, and tensors."""
        ...
