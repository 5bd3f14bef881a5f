"""The results of a run's stages."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning
from cus.inference.fitting import Splat
from cus.inference.photographs import Batch, Inputs
from cus.inference.progress import STAGES
from cus.inference.verdict import Verdict
from cus.scene import SceneEstimate

__all__ = ["STAGES", "Results"]


@dataclass
class Results:
    """The results of a run so far; None for stages not reached yet. `antialiased` says how the scene was fitted.

    `verdict` is the expected quality of the close-up, `plain_crop` [H, W, 3] uint8 the photograph's own picture of it.
    `loading` is the time in seconds before the first stage, `seconds` that of each stage.
    """

    inputs: Inputs
    batch: Batch
    scene: SceneEstimate | None = None
    cameras: Cameras | None = None
    conditioning: Conditioning | None = None
    frames: Tensor | None = None
    splat: Splat | None = None
    antialiased: bool = True
    verdict: Verdict | None = None
    plain_crop: np.ndarray | None = None
    loading: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def keep(self, views: Sequence[int]) -> None:
        """Keep only these photographs: those that the scene estimate could place."""
        if len(views) < len(self.inputs.photos):
            self.inputs, self.batch = self.inputs.select(views), self.batch.select(views)
