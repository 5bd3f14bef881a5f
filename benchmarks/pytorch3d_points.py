"""PyTorch3D's point rasterizer: a baseline for `render_points`, and the reference for `render_discs`.

Imported only if it is installed.
"""

from collections.abc import Callable

import torch
from pytorch3d.renderer import (  # type: ignore[import-not-found]
    AlphaCompositor,
    PointsRasterizationSettings,
    PointsRasterizer,
    PointsRenderer,
)
from pytorch3d.structures import Pointclouds  # type: ignore[import-not-found]
from pytorch3d.utils import cameras_from_opencv_projection  # type: ignore[import-not-found]
from torch import Tensor

from cus.cameras import Cameras


def nearest_points(points: Tensor, colors: Tensor, targets: Cameras) -> Callable[[], Tensor]:
    """A function that renders the nearest point of each pixel: images [T, H, W, 3], one scale only."""
    # The shorter side spans 2 units: discs with a pixel's diameter.
    rasterizers = _rasterizers(targets, 1 / min(targets.width, targets.height), 1)
    cloud = Pointclouds([points], features=[colors])

    def work() -> Tensor:
        found = [rasterizer(cloud).idx[0, ..., 0].long() for rasterizer in rasterizers]
        return torch.stack([torch.where(index[..., None] >= 0, colors[index], 0.0) for index in found])

    return work


def composited_discs(
    points: Tensor, colors: Tensor, targets: Cameras, radius: float, points_per_pixel: int
) -> tuple[Tensor, Tensor]:
    """Images [T, 3, H, W] and the depths of their nearest points [T, H, W], 0 where there are none."""
    cloud = Pointclouds([points], features=[colors])
    images, depths = [], []
    for rasterizer in _rasterizers(targets, radius, points_per_pixel):
        renderer = PointsRenderer(rasterizer=rasterizer, compositor=AlphaCompositor())
        images.append(renderer(cloud)[0].permute(2, 0, 1))
        depths.append(rasterizer(cloud).zbuf[0, ..., 0].clamp(min=0))
    return torch.stack(images), torch.stack(depths)


def _rasterizers(targets: Cameras, radius: float, points_per_pixel: int) -> list[PointsRasterizer]:
    """One rasterizer per target."""
    size = (targets.height, targets.width)
    # Without bins, which limit the number of points per bin.
    settings = PointsRasterizationSettings(
        image_size=size, radius=radius, points_per_pixel=points_per_pixel, bin_size=0
    )
    sizes = torch.tensor([size], device=targets.viewmats.device)
    rasterizers = []
    for index in range(len(targets)):
        viewmat, K = targets.viewmats[index : index + 1], targets.Ks[index : index + 1]
        cameras = cameras_from_opencv_projection(viewmat[:, :3, :3], viewmat[:, :3, 3], K, sizes)
        rasterizers.append(PointsRasterizer(cameras=cameras, raster_settings=settings))
    return rasterizers
