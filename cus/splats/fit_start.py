"""The inputs of a fit, and the Gaussians that it starts from."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats.complete import complete_cloud
from cus.splats.fit_config import FitConfig
from cus.splats.fit_views import Views
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points, initial_gaussians, sampling_distances
from cus.splats.view_source import ViewSource


class ColoredCloud(Protocol):
    """Anything with points [N, 3] and colours [N, 3] in [0, 1], such as a FusedCloud."""

    @property
    def points(self) -> Tensor: ...  # noqa: D102

    @property
    def colors(self) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class Fit:
    """Everything that determines the result of a fit.

    Attributes:
        views: The images with their cameras and weights.
        start: Points and colours [N, 3] each, or Gaussians to continue from.
        config: Settings of the fit.
        seed: Seed of every random draw.
        source: Source of extra views that take turns with the images, or None.
        kept: Number of the given Gaussians, from the first on, that do not change.
    """

    views: Views
    start: tuple[Tensor, Tensor] | Gaussians
    config: FitConfig
    seed: int
    source: ViewSource | None = None
    kept: int = 0

    def starting_gaussians(self) -> Gaussians:
        """The given Gaussians at the degree of the settings, or new ones from `starting_gaussians`."""
        if isinstance(self.start, tuple):
            return starting_gaussians(self.start, self.views, self.config)
        return self.start.to(self.views.images.device).with_degree(self.config.sh_degree)


def checked_cloud(points: Tensor | ColoredCloud, views: Views) -> tuple[Tensor, Tensor]:
    """Points and colours [N, 3] with the images' dtype and device; bare points take their colours from the images.

    Raises:
        ValueError: Inconsistent shapes.
        InputError: Values that are NaN or infinite.
    """
    positions = points if isinstance(points, Tensor) else points.points
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"expected points [N, 3], got {list(positions.shape)}")
    if not bool(torch.isfinite(positions).all()):
        raise InputError("the point cloud has values that are NaN or infinite")
    positions = positions.to(views.images)
    if isinstance(points, Tensor):
        return positions, colors_of_points(positions, views.images, views.cameras)
    if points.colors.shape != positions.shape:
        raise ValueError(f"expected colours {list(positions.shape)} like the points, got {list(points.colors.shape)}")
    if not bool(torch.isfinite(points.colors).all()):
        raise InputError("the point cloud has colours that are NaN or infinite")
    return positions, points.colors.to(views.images)


def starting_gaussians(cloud: tuple[Tensor, Tensor], views: Views, config: FitConfig) -> Gaussians:
    """Gaussians at the cloud's points and in the pixels that it leaves empty, thinned to the number in the settings."""
    positions, colors = cloud
    if config.fill_holes:
        usable = views.pixel_weights * views.image_weights[:, None, None] > 0
        positions, colors = complete_cloud(
            positions, colors, views.images, views.cameras, views.depths, usable, views.image_weights
        )
    if len(positions) < 4:
        raise InputError(
            f"only {len(positions)} points to start the Gaussians from: the views agree on nothing; "
            "check the depths and cameras, or lower the number of views that must agree"
        )
    spacings = sampling_distances(positions, views.cameras)
    positions, colors = downsample_points(positions, colors, config.start_gaussians, spacings)
    # The rasterizer processes Gaussians by depth, so successive reads should be close in memory.
    order = views.cameras[0].project(positions)[1][0].argsort(stable=True)
    positions, colors = positions[order], colors[order]
    return initial_gaussians(positions, colors, config.sh_degree, sampling_distances(positions, views.cameras))


def colors_of_points(points: Tensor, images: Tensor, cameras: Cameras) -> Tensor:
    """Mean colour of the nearest pixels of each point over the views that contain it [N, 3].

    Occlusion is ignored; points outside all views are grey.
    """
    total, count = points.new_zeros(len(points), 3), points.new_zeros(len(points), 1)
    for i in range(len(cameras)):
        pixels, depths = cameras[i].project(points)
        columns, rows = torch.floor(pixels[0]).long().unbind(1)
        inside = (depths[0] > 0) & (columns >= 0) & (columns < cameras.width) & (rows >= 0) & (rows < cameras.height)
        total[inside] += images[i][:, rows[inside], columns[inside]].T
        count[inside] += 1
    return torch.where(count > 0, total / count.clamp_min(1), torch.full_like(total, 0.5))
