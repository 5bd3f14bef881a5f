"""PyTorch3D's point rasterizer, as a baseline for `render_points`; imported only where it is installed."""

from collections.abc import Callable

import torch
from pytorch3d.renderer import (  # type: ignore[import-not-found]
    PointsRasterizationSettings,
    PointsRasterizer,
)
from pytorch3d.structures import Pointclouds  # type: ignore[import-not-found]
from pytorch3d.utils import cameras_from_opencv_projection  # type: ignore[import-not-found]
from torch import Tensor

from cus.cameras import Cameras


def nearest_points(points: Tensor, colors: Tensor, targets: Cameras) -> Callable[[], Tensor]:
    """What renders the nearest point of each pixel, one target after the other: images [T, H, W, 3], one scale only."""
    size = (targets.height, targets.width)
    # The shorter side spans 2 units: discs with a pixel's diameter.
    settings = PointsRasterizationSettings(image_size=size, radius=1 / min(size), points_per_pixel=1)
    sizes = torch.tensor([size], device=points.device)
    rasterizers = []
    for index in range(len(targets)):
        viewmat, K = targets.viewmats[index : index + 1], targets.Ks[index : index + 1]
        cameras = cameras_from_opencv_projection(viewmat[:, :3, :3], viewmat[:, :3, 3], K, sizes)
        rasterizers.append(PointsRasterizer(cameras=cameras, raster_settings=settings))
    cloud = Pointclouds([points], features=[colors])

    def work() -> Tensor:
        found = [rasterizer(cloud).idx[0, ..., 0].long() for rasterizer in rasterizers]
        return torch.stack([torch.where(index[..., None] >= 0, colors[index], 0.0) for index in found])

    return work
