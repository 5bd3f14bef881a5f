"""Views that a fit makes itself while it runs, such as pseudo-labels."""

from typing import Protocol

import torch
from torch import Tensor

from cus.splats.crops import Supervision

# means, quats, scales, opacities, sh, as `rasterization` takes them.
SceneTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class ViewSource(Protocol):
    """Makes supervision from the scene as it is. Beside its counts nothing of it changes from step to step.

    Attributes:
        counts: what came of it so far, a tensor on the CPU that a checkpoint keeps.
    """

    counts: Tensor

    def turns(self, images: int) -> int:
        """How many of its views join a round in which there are so many turns of images and their crops."""
        ...

    def draw(self, scene: SceneTensors, generator: torch.Generator) -> Supervision | None:
        """A view to compare the scene with, or None where none was found that shows enough.

        Args:
            scene: the Gaussians as they are; no gradient flows into them.
            generator: Of every random draw; on the CPU.
        """
        ...

    def identity(self) -> tuple[str, list[Tensor]]:
        """What a checkpoint belongs to beside the fit's own inputs: settings in words, and tensors."""
        ...
