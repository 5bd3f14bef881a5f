"""Where a clip's pictures were taken and how deep they are: what a global point cloud is fused from (Section III-D)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.scene import SceneEstimate

# Names of a clip's tensors that are its geometry.
_PREFIX = "geometry."
_NAMES = ("viewmats", "Ks", "depths", "confidences", "path_viewmats", "path_Ks", "shown")


@dataclass(frozen=True)
class Geometry:
    """The estimate of a clip's V references, and the cameras of its T whole frames.

    Attributes:
        cameras: of the references.
        depths: [V, H', W'] float32 z-depth in scene units; 0 means none.
        confidences: [V, H', W'] float32 in [0, 1].
        path: of the frames.
        shown: [T, H, W] float32, the depths of the clip's own conditioning; 0 in its holes.
    """

    cameras: Cameras
    depths: Tensor
    confidences: Tensor
    path: Cameras
    shown: Tensor

    def __post_init__(self) -> None:
        frames = (len(self.path), self.path.height, self.path.width)
        views = (len(self.cameras), self.cameras.height, self.cameras.width)
        shapes = {"depths": views, "confidences": views, "shown": frames}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} must be {shape}, got {tuple(getattr(self, name).shape)}")

    def estimate(self, references: Tensor) -> SceneEstimate:
        """The estimate of the references [V, 3, H', W']."""
        return SceneEstimate(references, self.cameras, self.depths, self.confidences)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it, by the names of a clip's tensors."""
        values = (
            *(self.cameras.viewmats, self.cameras.Ks, self.depths, self.confidences),
            *(self.path.viewmats, self.path.Ks, self.shown),
        )
        named = zip(_NAMES, values, strict=True)
        return {f"{_PREFIX}{name}": value.to("cpu", torch.float32).contiguous() for name, value in named}


def has_geometry(names: Collection[str]) -> bool:
    """Whether a clip with tensors of these names has a geometry."""
    return f"{_PREFIX}shown" in names


def read_geometry(tensor_of: Callable[[str], Tensor]) -> Geometry:
    """The geometry of a clip, whose tensors are read by name."""
    viewmats, Ks, depths, confidences, path_viewmats, path_Ks, shown = (
        tensor_of(f"{_PREFIX}{name}") for name in _NAMES
    )
    cameras = Cameras(viewmats, Ks, depths.shape[-1], depths.shape[-2])
    path = Cameras(path_viewmats, path_Ks, shown.shape[-1], shown.shape[-2])
    return Geometry(cameras, depths, confidences, path, shown)
