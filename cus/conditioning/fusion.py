"""Multi-view consistency: consistent pixels of many views become one global point cloud (Section III-D, Eq. 6)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras

# In units of the scene scale: VGGT's unit of length, in which the paper states 0.01.
GEOMETRIC_TOLERANCE = 0.01
COLOR_TOLERANCE = 0.1
# The paper asks for 10 of 25 frames.
_NEEDED_FRACTION = 0.4


@dataclass(frozen=True)
class FusedCloud:
    """What the views agree on.

    Attributes:
        points: [N, 3] world points, averages over the views that agree.
        colors: [N, 3] RGB in [0, 1], likewise.
        counts: [V, H, W] int64, how many *other* views agree with each pixel (M of Eq. 9); 0 where it has no depth.
        needed: the threshold tau_num: pixels with more than this many agreeing views became points.
    """

    points: Tensor
    colors: Tensor
    counts: Tensor
    needed: int

    @property
    def pixel_confidence(self) -> Tensor:
        """[V, H, W] in [0, 1]: min(M / tau_num, 1), Eq. 9; a threshold of 0 counts as 1."""
        return (self.counts / max(self.needed, 1)).clamp(max=1.0)


def default_needed(views: int) -> int:
    """tau_num for a number of views: 10 for the paper's 25 frames, in proportion for fewer, and always satisfiable.

    More than tau_num of the `views - 1` other views must agree: 2 views -> 0 (the other one), 3 -> 1 (both others),
    16 -> 6, 25 -> 10.
    """
    return max(min(int(_NEEDED_FRACTION * views), views - 2), 0)


@dataclass(frozen=True)
class _Match:
    """What another view holds where M of one view's points land.

    Attributes:
        points: [M] which points they are.
        pixels: [M] flat index of the other view's pixel.
        values: [6, M] its point (x, y, z) and its colour there.
    """

    points: Tensor
    pixels: Tensor
    values: Tensor


def fuse_views(
    images: Tensor,
    depths: Tensor,
    cameras: Cameras,
    *,
    scale: float | None = None,
    needed: int | None = None,
    geometric_tolerance: float = GEOMETRIC_TOLERANCE,
    color_tolerance: float = COLOR_TOLERANCE,
    on_progress: Callable[[int, int], None] | None = None,
) -> FusedCloud:
    """Check every pixel against every other view and fuse what agrees into a global point cloud (Eq. 6).

    A pixel's point p_i is projected into view j, where depth and colour are read between pixels (inverse depth,
    mask-aware and bilinear, which is exact on planes) and give p_j and c_j. They agree where |p_i - p_j| < tau_g and
    |c_i - c_j| < tau_c. Pixels with more than tau_num agreeing views become points: the average of all agreeing
    positions and colours. A pixel that an earlier point already averaged in gives no second point; views are taken from
    the most magnified to the least, so that the finest sampling of each surface stays.

    Args:
        images: [V, 3, H, W] RGB in [0, 1].
        depths: [V, H, W] z-depths in scene units, 0 = none.
        cameras: V cameras of H x W pixels.
        scale: the scene scale (`SceneEstimate.scale`); None: the mean distance of all points from the first camera.
        needed: tau_num; None is `default_needed(V)`.
        geometric_tolerance: tau_g in units of the scene scale.
        color_tolerance: tau_c, Euclidean distance in RGB.
        on_progress: called with (views done, V).

    Returns:
        FusedCloud; its points may be empty where nothing agrees.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check(images, depths, cameras)
    views = len(images)
    needed = default_needed(views) if needed is None else needed
    points = cameras.backproject(depths)
    if scale is None:
        distances = (points[depths > 0] - cameras.centers[0]).norm(dim=-1)
        scale = float(distances.mean()) if distances.numel() else 1.0
    maps = _sampling_maps(images, depths)
    counts = torch.zeros_like(depths, dtype=torch.int64)
    used = torch.zeros_like(depths, dtype=torch.bool)
    clouds: list[Tensor] = []
    for done, view in enumerate(_finest_first(depths, cameras)):
        known = (depths[view] > 0).flatten().nonzero().squeeze(1)
        own = torch.cat([points[view].flatten(0, 1).T, images[view].flatten(1)])[:, known]
        count = torch.zeros_like(known)
        total = own.clone()
        matches: list[tuple[int, _Match]] = []
        for other in range(views):
            if other == view:
                continue
            match = _consistent(own, maps[other], cameras[other], geometric_tolerance * scale, color_tolerance)
            count[match.points] += 1
            total[:, match.points] += match.values
            matches.append((other, match))
        counts[view].view(-1)[known] = count
        fused = (count > needed) & ~used[view].flatten()[known]
        for other, match in matches:
            used[other].view(-1)[match.pixels[fused[match.points]]] = True
        clouds.append(total[:, fused] / (count[fused] + 1))
        if on_progress is not None:
            on_progress(done + 1, views)
    cloud = torch.cat(clouds, dim=1).T.contiguous()
    return FusedCloud(cloud[:, :3], cloud[:, 3:], counts, needed)


def _check(images: Tensor, depths: Tensor, cameras: Cameras) -> None:
    views, height, width = len(cameras), cameras.height, cameras.width
    if images.shape != (views, 3, height, width) or depths.shape != (views, height, width):
        raise ValueError(
            f"{views} cameras of {width}x{height} need images {(views, 3, height, width)} and depths "
            f"{(views, height, width)}, got {tuple(images.shape)} and {tuple(depths.shape)}"
        )


def _sampling_maps(images: Tensor, depths: Tensor) -> Tensor:
    """[V, 5, H, W]: colour and inverse depth, both zero where there is no depth, and whether there is one."""
    known = (depths > 0).to(images.dtype)
    inverse = known / torch.where(depths > 0, depths, 1.0)
    return torch.cat([images * known[:, None], inverse[:, None], known[:, None]], dim=1)


def _finest_first(depths: Tensor, cameras: Cameras) -> list[int]:
    """The views by the size of their median pixel on the surface, smallest first."""
    footprints = []
    for depth, K in zip(depths, cameras.Ks, strict=True):
        known = depth[depth > 0]
        focal = float(torch.linalg.det(K[:2, :2]).abs().sqrt())
        footprints.append(float(known.median()) / focal if known.numel() else float("inf"))
    return sorted(range(len(depths)), key=footprints.__getitem__)


def _consistent(own: Tensor, maps: Tensor, camera: Cameras, distance: float, color_distance: float) -> _Match:
    """The points with colours [6, N] that agree with another view (M of Eq. 6)."""
    match = _match(own[:3], maps, camera)
    squares = (match.values - own[:, match.points]).square()
    good = (squares[:3].sum(dim=0) < distance**2) & (squares[3:].sum(dim=0) < color_distance**2)
    return _Match(match.points[good], match.pixels[good], match.values[:, good])


def _match(points: Tensor, maps: Tensor, camera: Cameras) -> _Match:
    """What another view holds where points [3, N] land on a pixel of it that has a depth."""
    viewmat, K = camera.viewmats[0], camera.Ks[0]
    x, y, z = K @ (viewmat[:3, :3] @ points + viewmat[:3, 3:])
    x, y = x / z, y / z
    landing = ((z > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)).nonzero().squeeze(1)
    x, y = x[landing], y[landing]
    grid = torch.stack([2 * x / camera.width - 1, 2 * y / camera.height - 1], dim=-1)
    sampled = F.grid_sample(maps[None], grid[None, None], mode="bilinear", align_corners=False)[0, :, 0]
    # A quarter is the share of the nearest pixel at worst: with less, that pixel has no depth.
    known = (sampled[4] > 0.249).nonzero().squeeze(1)
    sampled, landing, x, y = sampled[:, known] / sampled[4, known], landing[known], x[known], y[known]
    rays = torch.linalg.inv(K) @ torch.stack([x, y, torch.ones_like(x)])
    c2w = camera.c2w[0]
    matched = c2w[:3, :3] @ (rays / sampled[3]) + c2w[:3, 3:]
    return _Match(landing, y.long() * camera.width + x.long(), torch.cat([matched, sampled[:3]]))
