"""Point clouds as alpha-composited discs: what PyTorch3D's PointsRasterizer and AlphaCompositor draw.

Around each projected point lies a disc; all discs have the same size. A pixel keeps the nearest few discs that reach
its centre and blends them front to back over black, with weights 1 - distance^2 / radius^2. ViewCrafter renders its
clouds this way, with the values that are the defaults here.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning, blank_conditioning
from cus.conditioning.cpu.discs import render_discs_cpu
from cus.conditioning.options import Backend, resolved_backend
from cus.conditioning.warp import EMPTY, winners
from cus.errors import InputError

RADIUS = 0.01
POINTS_PER_PIXEL = 10
# PyTorch3D's GPU kernels have the same limit.
MOST_POINTS_PER_PIXEL = 150
# Number of points processed at a time: about 100 MiB of intermediate values.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class DiscOptions:
    """Options shared by all discs (see `render_discs`).

    Attributes:
        radius: radius of the discs in PyTorch3D's normalised coordinates.
        points_per_pixel: number of nearest discs that a pixel blends.
    """

    radius: float
    points_per_pixel: int
    backend: Backend


def render_discs(
    points: Tensor,
    colors: Tensor,
    target_cameras: Cameras,
    *,
    radius: float = RADIUS,
    points_per_pixel: int = POINTS_PER_PIXEL,
    backend: Backend = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """Render the points of a cloud as alpha-composited discs of one size.

    Matches PyTorch3D's PointsRenderer (PointsRasterizer, AlphaCompositor) with `cameras_from_opencv_projection`. Of
    points at equal depth the one with the lower index is in front; points behind a camera are dropped.

    Args:
        points: [N, 3] world points.
        colors: [N, 3] RGB in [0, 1].
        target_cameras: T cameras of any size, on any device.
        radius: radius of the discs in PyTorch3D's normalised coordinates, where a picture's shorter side is 2 long.
        points_per_pixel: number of nearest discs that a pixel blends, 1 to 150.
        backend: "cpu": Numba kernels for float32 on the CPU, one thread per target; "torch": any device, the tests'
            reference; "auto": the first that fits.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning on the points' device, of the cameras' size. The mask is True where any disc reaches a pixel; the
        depth is that of the nearest such point.

    Raises:
        InputError: an empty cloud, no disc in any target, or backend="cpu" on another device or dtype.
        ValueError: inconsistent shapes, no target, or a radius or number out of range.
    """
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ValueError(f"expected points and colors [N, 3], got {tuple(points.shape)} and {tuple(colors.shape)}")
    if len(target_cameras) < 1:
        raise ValueError("expected at least one target camera")
    check_discs(radius, points_per_pixel, backend)
    if len(points) == 0:
        raise InputError("the point cloud is empty: no reference pixel has a depth; try other photographs")
    targets = target_cameras.to(points.device)

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(done, len(targets))

    conditioning = draw_discs(points, colors, targets, DiscOptions(radius, points_per_pixel, backend), report)
    if not bool(conditioning.masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: none of the {len(points)} points lands in any of the "
            f"{len(targets)} target cameras; aim the path at what the photographs show, or move it closer to them"
        )
    return conditioning


def draw_discs(
    points: Tensor, colors: Tensor, targets: Cameras, options: DiscOptions, on_target: Callable[[int], None]
) -> Conditioning:
    """`render_discs` without its checks; `on_target` gets the number of targets done."""
    conditioning = blank_conditioning(targets)
    radius = options.radius * min(targets.width, targets.height) / 2  # in pixels
    matrices = projection_matrices(targets)
    if resolved_backend(options.backend, (points, colors), "float32 points") == "cpu":
        render_discs_cpu(points, colors, matrices, radius, options.points_per_pixel, conditioning, on_target)
        return conditioning
    for index, matrix in enumerate(matrices.tolist()):
        _blend(_Cloud(points, colors, matrix, radius), options.points_per_pixel, conditioning, index)
        on_target(index + 1)
    return conditioning


def check_discs(radius: float, points_per_pixel: int, backend: str) -> None:
    """Raise ValueError for options out of range."""
    if not 0 < radius <= 1:
        raise ValueError(f"radius must lie in (0, 1], where the picture's shorter side is 2 long, got {radius}")
    if not 1 <= points_per_pixel <= MOST_POINTS_PER_PIXEL:
        raise ValueError(f"points_per_pixel must be 1 to {MOST_POINTS_PER_PIXEL}, got {points_per_pixel}")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")


def projection_matrices(cameras: Cameras) -> Tensor:
    """[T, 3, 4] float32: world point to homogeneous pixel, composed in float64."""
    return (cameras.Ks.double() @ cameras.viewmats[:, :3].double()).float()


@dataclass(frozen=True)
class _Cloud:
    """Points seen by one camera.

    Attributes:
        points: [N, 3] world points.
        colors: [N, 3] RGB in [0, 1].
        matrix: 3 rows of 4, world point to homogeneous pixel.
        radius: radius of the discs in pixels.
    """

    points: Tensor
    colors: Tensor
    matrix: list[list[float]]
    radius: float

    def project(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel coordinates and z-depths, [M] each, of points [M, 3]; meaningless unless z is positive."""
        a, b, c = points.unbind(1)
        x, y, z = (m[0] * a + m[1] * b + (m[2] * c + m[3]) for m in self.matrix)
        safe = z.clamp(min=1e-12)
        return x / safe, y / safe, z

    def next_nearest(self, blended: Tensor) -> Tensor:
        """Each pixel's next disc: the smallest key above `blended` [H, W] among the discs that reach it, or `EMPTY`.

        Keys are the depth's bits above the point's index.
        """
        nearest = torch.full_like(blended, EMPTY)
        height, width = blended.shape
        reach = range(math.floor(2 * self.radius) + 1)
        for first in range(0, len(self.points), _CHUNK):
            x, y, z = self.project(self.points[first : first + _CHUNK])
            near = (x > -self.radius) & (x < width + self.radius) & (y > -self.radius) & (y < height + self.radius)
            use = ((z > 0) & near).nonzero().squeeze(1)
            x, y = x[use], y[use]
            keys = (z[use].float().view(torch.int32).long() << 32) | (use + first)
            left, top = (torch.ceil(place - self.radius - 0.5).long() for place in (x, y))
            for down, right in itertools.product(reach, reach):
                column, row = left + right, top + down
                hit = _distance2(x, y, column, row) < self.radius**2
                hit &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
                pixels, reaching = (row * width + column)[hit], keys[hit]
                later = reaching > blended.view(-1)[pixels]
                nearest.view(-1).scatter_reduce_(0, pixels[later], reaching[later], "amin")
        return nearest


def _blend(cloud: _Cloud, points_per_pixel: int, conditioning: Conditioning, index: int) -> None:
    """Render one target of a conditioning: each round blends the next nearest disc of every pixel."""
    height, width = conditioning.depths.shape[1:]
    image = cloud.colors.new_zeros((height * width, 3))
    transmittance = cloud.colors.new_ones(height * width)
    blended = torch.full((height, width), -1, dtype=torch.int64, device=cloud.points.device)
    for layer in range(points_per_pixel):
        blended = cloud.next_nearest(blended)
        filled, points, depths = winners(blended)
        if layer == 0:
            conditioning.masks[index], conditioning.depths[index] = filled, depths
        pixels = filled.view(-1).nonzero().squeeze(1)
        if len(pixels) == 0:
            break
        points = points.view(-1)[pixels]
        x, y, _ = cloud.project(cloud.points[points])
        weights = 1 - _distance2(x, y, pixels % width, pixels // width) / cloud.radius**2
        image[pixels] += (transmittance[pixels] * weights)[:, None] * cloud.colors[points]
        transmittance[pixels] *= 1 - weights
    conditioning.images[index] = image.view(height, width, 3).permute(2, 0, 1)


def _distance2(x: Tensor, y: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Squared distance of points from pixel centres, in pixels squared."""
    dx, dy = column + 0.5 - x, row + 0.5 - y
    return dx * dx + dy * dy
