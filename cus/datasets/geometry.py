"""Cameras and depths of a clip's pictures, from which a global point cloud is fused (Section III-D)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.scene import SceneEstimate

# Names of a clip's tensors that belong to its geometry.
_PREFIX = "geometry."
_NAMES = ("viewmats", "Ks", "depths", "confidences", "path_viewmats", "path_Ks", "shown")


@dataclass(frozen=True)
class Geometry:
    """The estimate for a clip's V references, and the cameras of its T whole frames.

    Attributes:
        cameras: cameras of the references.
        depths: [V, H', W'] float32 z-depths in scene units, 0 = none.
        confidences: [V, H', W'] float32 in [0, 1], confidences of the depths.
        path: cameras of the frames.
        shown: [T, H, W] float32, depths of the clip's own conditioning; 0 in its holes.
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
        """The scene estimate with references [V, 3, H', W']."""
        return SceneEstimate(references, self.cameras, self.depths, self.confidences)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors to be stored, by their names in a clip."""
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
    """Read a clip's geometry through a function that returns tensors by name."""
    viewmats, Ks, depths, confidences, path_viewmats, path_Ks, shown = (
        tensor_of(f"{_PREFIX}{name}") for name in _NAMES
    )
    cameras = Cameras(viewmats, Ks, depths.shape[-1], depths.shape[-2])
    path = Cameras(path_viewmats, path_Ks, shown.shape[-1], shown.shape[-2])
    return Geometry(cameras, depths, confidences, path, shown)
