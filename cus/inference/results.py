"""What a run makes, stage by stage."""

from dataclasses import dataclass, field

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, FusedCloud
from cus.estimators import SceneEstimate
from cus.inference.stages import Batch, Inputs
from cus.splats import Gaussians

STAGES = {
    "scene": "Cameras and depth",
    "conditioning": "Conditioning images",
    "coarse": "Frames, first pass",
    "structure": "Global structure",
    "frames": "Frames, final pass",
    "cloud": "Point cloud",
    "splat": "Gaussian scene",
    "report": "Report",
}


@dataclass
class Results:
    """What a run has made so far; None where it has not come to it."""

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
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
