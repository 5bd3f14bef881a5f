"""What a run makes, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, FusedCloud
from cus.estimators import SceneEstimate
from cus.inference.labels import STAGES
from cus.inference.stages import Batch, Generated, Inputs
from cus.inference.verdict import Verdict
from cus.splats import Gaussians

__all__ = ["STAGES", "Results"]


@dataclass
class Results:
    """What a run has made so far; None where it has not come to it. `antialiased` says how the scene was fitted.

    `verdict` says what is to be expected of the close-up, `plain_crop` [H, W, 3] uint8 is the photograph's own picture.
    `loading` is the time in seconds that passed before the first stage, `seconds` those of each.
    `refined` are the cameras of frames and photographs, at the frames' size, where the fit has moved them.
    """

    inputs: Inputs
    batch: Batch
    scene: SceneEstimate | None = None
    cameras: Cameras | None = None
    conditioning: Conditioning | None = None
    structure: Conditioning | None = None
    frames: Tensor | None = None
    cloud: FusedCloud | None = None
    gaussians: Gaussians | None = None
    renders: Tensor | None = None
    antialiased: bool = True
    refined: Cameras | None = None
    verdict: Verdict | None = None
    plain_crop: np.ndarray | None = None
    loading: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def keep(self, views: Sequence[int]) -> None:
        """Go on with these photographs alone: those that the scene estimate could place."""
        if len(views) < len(self.inputs.photos):
            self.inputs, self.batch = self.inputs.select(views), self.batch.select(views)

    def generated(self) -> Generated:
        """The newest frames with what they were made from; the stages that make them must have run."""
        scene, cameras, warped, frames = self.scene, self.cameras, self.conditioning, self.frames
        assert scene is not None and cameras is not None and warped is not None and frames is not None
        return Generated(scene, cameras, warped, frames, self.batch.set.valid)
