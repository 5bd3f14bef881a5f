"""A reference view prepared for warping into many targets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.occlusion import sample_spacing
from cus.conditioning.reliability import confident, divide_reliability
from cus.conditioning.warp import Projection
from cus.scene import SceneEstimate

# Quantile of the gaps that the coarsest scale has to close; steep surfaces stretch the widest few without limit.
COVERED_QUANTILE = 0.95


@dataclass(frozen=True)
class Spacing:
    """Distances in target pixels between the projections of neighbouring source pixels.

    Attributes:
        typical: median distance.
        largest: largest distance except for the widest few (`COVERED_QUANTILE`).
    """

    typical: float
    largest: float


@dataclass(frozen=True)
class Reference:
    """A reference view.

    Attributes:
        colors: [N, 3] RGB of its N = H * W pixels.
        depths: [H, W] z-depths, 0 = none.
        reliable: [N] bool, whether the point's depth is reliable.
        unreliable: [N] bool, disjoint from `reliable`; both are False where there is no depth.
        hides: [N] bool, reliable points that are certain enough to suppress what lies behind them.
        spacing: [N] distance between the depths' samples of the surface, in its own pixels (`sample_spacing`).
        camera: one camera of H x W pixels.
    """

    colors: Tensor
    depths: Tensor
    reliable: Tensor
    unreliable: Tensor
    hides: Tensor
    spacing: Tensor
    camera: Cameras

    def projected_spacing(self, projection: Projection) -> Spacing:
        """Spacing of the reliable pixels projected into a target; 1 if too few neighbours are visible to tell.

        Measured on every other row and column.
        """
        height, width = self.depths.shape
        x, y = projection.x.view(height, width), projection.y.view(height, width)
        usable = (projection.visible & self.reliable).view(height, width)
        distances = []
        for dy, dx in ((0, 1), (1, 0)):
            here = (slice(0, height - dy, 2), slice(0, width - dx, 2))
            there = (slice(dy, None, 2), slice(dx, None, 2))
            both = usable[here] & usable[there]
            distances.append(torch.maximum((x[there] - x[here]).abs(), (y[there] - y[here]).abs())[both])
        distance = torch.cat(distances)
        if distance.numel() == 0:
            return Spacing(1.0, 1.0)
        ranks = ranks_of_spacing(distance.numel())
        typical, largest = (float(distance.kthvalue(rank).values) for rank in ranks)
        return Spacing(typical, largest)

    def spacing_in(self, target: Cameras, points: Tensor, depths: Tensor) -> Tensor:
        """Spacing in target pixels of the surface samples `points` (indices) that lie at target depths `depths`.

        A source pixel covers z / focal of a surface that faces it, which the target sees with focal' / z' pixels.
        """
        magnification = focal(target) / focal(self.camera) * self.depths.flatten()[points]
        return self.spacing[points] * magnification / torch.where(depths > 0, depths, 1.0)


def references_of(scene: SceneEstimate, spacing_of: Callable[[Tensor], Tensor] = sample_spacing) -> list[Reference]:
    """All views of a scene as references; `spacing_of` is an implementation of `sample_spacing`."""
    reliable, unreliable = divide_reliability(scene)
    hides = reliable & confident(scene.depths, scene.confidences)
    return [
        Reference(
            scene.images[view].flatten(1).T.contiguous(),
            scene.depths[view],
            reliable[view].flatten(),
            unreliable[view].flatten(),
            hides[view].flatten(),
            spacing_of(scene.depths[view]).flatten(),
            scene.cameras[view],
        )
        for view in range(len(scene.images))
    ]


def ranks_of_spacing(count: int) -> tuple[int, int]:
    """The ranks, from 1, of the typical and largest values of a `Spacing` among `count` ascending distances."""
    return max(1, round(0.5 * count)), max(1, round(COVERED_QUANTILE * count))


def focal(camera: Cameras) -> float:
    """Geometric mean of the focal lengths in pixels."""
    return float(torch.linalg.det(camera.Ks[0, :2, :2]).abs().sqrt())
