"""The estimate of a scene, and checks of an estimator's input."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.alignment import Alignment
from cus.errors import InputError

RELIABLE_FRACTION = 0.9


@dataclass(frozen=True)
class SceneEstimate:
    """Images with their estimated cameras, depths and confidences.

    Attributes:
        images: [V, 3, H, W] float32 RGB in [0, 1].
        cameras: V cameras of H x W pixels, OpenCV conventions (docs/conventions.md).
        depths: [V, H, W] float32 z-depth in scene units; 0 means none.
        confidences: [V, H, W] float32 in [0, 1]; 0 where there is no depth.
        notes: messages for the user about the estimate, e.g. that a focal length was guessed.
        gains: [V, 3] factors that bring each view's colours to a common exposure; None: unknown.
        left_out: indices of the given photographs that could not be placed; the views are the others, in order.
        focal_range: 80 % interval in pixels of a focal length that was not known.
    """

    images: Tensor
    cameras: Cameras
    depths: Tensor
    confidences: Tensor
    notes: tuple[str, ...] = ()
    gains: Tensor | None = None
    left_out: tuple[int, ...] = ()
    focal_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        views, channels, height, width = self.images.shape
        if channels != 3:
            raise ValueError(f"images must be [V, 3, H, W], got {tuple(self.images.shape)}")
        for name, value in (("depths", self.depths), ("confidences", self.confidences)):
            if value.shape != (views, height, width):
                raise ValueError(f"{name} must be {(views, height, width)} like the images, got {tuple(value.shape)}")
        if self.gains is not None and self.gains.shape != (views, 3):
            raise ValueError(f"gains must be {(views, 3)}, got {tuple(self.gains.shape)}")
        if len(self.cameras) != views or (self.cameras.height, self.cameras.width) != (height, width):
            raise ValueError(
                f"cameras must be {views} of {width}x{height}, "
                f"got {len(self.cameras)} of {self.cameras.width}x{self.cameras.height}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def used(self) -> tuple[int, ...]:
        """The index of the given photograph for each view."""
        given = range(len(self) + len(self.left_out))
        return tuple(index for index in given if index not in self.left_out)

    @property
    def reliable(self) -> Tensor:
        """[V, H, W] bool: pixels with a depth whose confidence is among the top 90 % of their view."""
        has_depth = self.depths > 0
        mask = torch.zeros_like(has_depth)
        for view, known in enumerate(has_depth):
            confidence = self.confidences[view][known]
            if confidence.numel() == 0:
                continue
            dropped = round((1.0 - RELIABLE_FRACTION) * confidence.numel())
            threshold = torch.kthvalue(confidence, min(dropped + 1, confidence.numel())).values
            # At least, so that a map of equal confidences keeps all of its pixels.
            mask[view] = known & (self.confidences[view] >= threshold)
        return mask

    @property
    def scale(self) -> float:
        """Mean distance of the reliable points from the first camera, in scene units (the scene scale)."""
        reliable = self.reliable
        if not bool(reliable.any()):
            raise ValueError("the scene has no depth at all, so it has no scale")
        points = self.cameras.backproject(self.depths)[reliable]
        return float((points - self.cameras.centers[0]).norm(dim=-1).mean())

    def moved(self, alignment: Alignment) -> "SceneEstimate":
        """Transform cameras and depths to the world of an alignment; images and confidences stay."""
        return replace(self, cameras=alignment.cameras(self.cameras), depths=self.depths * alignment.scale)

    def in_own_unit(self) -> "SceneEstimate":
        """Choose the length unit such that `scale` is 1."""
        factor = 1.0 / self.scale
        viewmats = self.cameras.viewmats.clone()
        viewmats[:, :3, 3] *= factor
        return replace(self, cameras=replace(self.cameras, viewmats=viewmats), depths=self.depths * factor)

    def with_notes(self, *notes: str) -> "SceneEstimate":
        """The same estimate with additional notes."""
        return replace(self, notes=(*self.notes, *notes))

    def to(self, device: torch.device | str) -> "SceneEstimate":
        """The same estimate on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            cameras=self.cameras.to(device),
            depths=self.depths.to(device),
            confidences=self.confidences.to(device),
            gains=None if self.gains is None else self.gains.to(device),
        )


def check_arguments(
    images: Tensor,
    cameras: Cameras | None,
    valid: Tensor | None = None,
    focals: Tensor | None = None,
    sizes: Tensor | None = None,
) -> None:
    """Raise InputError for input that no estimator can use, and ValueError for wrong shapes."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [V, 3, H, W], got {tuple(images.shape)}")
    views, _, height, width = images.shape
    if views < 1:
        raise InputError("there is no photograph; give one of the scene, or better several")
    if cameras is not None and (len(cameras), cameras.height, cameras.width) != (views, height, width):
        raise ValueError(
            f"cameras must be {views} of {width}x{height} like the images, "
            f"got {len(cameras)} of {cameras.width}x{cameras.height}"
        )
    if valid is not None and valid.shape != (views, height, width):
        raise ValueError(f"valid must be {(views, height, width)}, got {tuple(valid.shape)}")
    if focals is not None and focals.shape != (views,):
        raise ValueError(f"focals must be [{views}], got {tuple(focals.shape)}")
    if sizes is not None and sizes.shape != (views, 2):
        raise ValueError(f"sizes must be [{views}, 2], got {tuple(sizes.shape)}")
