"""Multi-view consistency: consistent pixels of several views become one global point cloud (Section III-D, Eq. 6)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.scene import SceneEstimate

# In units of the scene scale, which is VGGT's unit of length; the paper states 0.01 in it.
GEOMETRIC_TOLERANCE = 0.01
COLOR_TOLERANCE = 0.1
# The area that a pixel averages over, bilinear sampling included, as a Gaussian: standard deviation in pixels.
_PIXEL_SIGMA = 0.5
# The paper asks for 10 of 25 frames.
_NEEDED_FRACTION = 0.4
# Photographs from all around overlap less than frames of one path: this many other agreeing views make a point.
_AGREEING = 1


@dataclass(frozen=True)
class FusedCloud:
    """The points that the views agree on.

    Attributes:
        points: [N, 3] world points, means over the agreeing views.
        colors: [N, 3] RGB in [0, 1], means over the agreeing views.
        counts: [V, H, W] int64, how many *other* views agree with each pixel (M of Eq. 9); 0 where it has no depth.
        needed: threshold tau_num; pixels with more than this many agreeing views became points.
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
    """tau_num for a number of views: 10 for the paper's 25 frames, proportionally less for fewer, always satisfiable.

    More than tau_num of the `views - 1` other views must agree: 2 views -> 0 (the other one), 3 -> 1 (both others),
    16 -> 6, 25 -> 10.
    """
    return max(min(int(_NEEDED_FRACTION * views), views - 2), 0)


@dataclass(frozen=True)
class _Match:
    """The pixels of another view where M points of one view land.

    Attributes:
        points: [M] indices of the points.
        pixels: [M] flat index of the other view's pixel.
        values: [6, M] position (x, y, z) and colour of the other view there.
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
    """Check every pixel against every other view and fuse consistent ones into a global point cloud (Eq. 6).

    A pixel's point p_i is projected into view j, where depth and colour are interpolated (inverse depth, mask-aware and
    bilinear, which is exact on planes) to give p_j and c_j. They agree if |p_i - p_j| < tau_g and |c_i - c_j| < tau_c.
    Where one view samples the surface more finely than the other, its colours are first averaged over the other's
    pixels: otherwise close-ups would disagree with the views they come from wherever there is detail. Pixels with more
    than tau_num agreeing views become points: the mean of all agreeing positions, and the pixel's own colour plus the
    mean difference of the agreeing colours to it. A pixel that already contributed to an earlier point gives no second
    point; views are processed from the most magnified to the least, so that the finest sampling of each surface stays.

    Args:
        images: [V, 3, H, W] RGB in [0, 1].
        depths: [V, H, W] z-depths in scene units, 0 = none.
        cameras: V cameras of H x W pixels.
        scale: scene scale (`SceneEstimate.scale`); None: the mean distance of all points from the first camera.
        needed: tau_num; None: `default_needed(V)`.
        geometric_tolerance: tau_g in units of the scene scale.
        color_tolerance: tau_c, Euclidean distance in RGB.
        on_progress: called with (views done, V).

    Returns:
        FusedCloud; without any points if nothing agrees.

    Raises:
        ValueError: inconsistent shapes.
    """
    _check(images, depths, cameras)
    views = len(images)
    needed = default_needed(views) if needed is None else needed
    points = cameras.backproject(depths)
    if scale is None:
        distances = (points[depths > 0] - cameras.centers[0]).norm(dim=-1)
        scale = float(distances.mean()) if distances.numel() else 1.0
    maps, footprints = _sampling_maps(images, depths), _footprints(depths, cameras)
    smooth = _Smooth(images, depths, footprints)
    counts = torch.zeros_like(depths, dtype=torch.int64)
    used = torch.zeros_like(depths, dtype=torch.bool)
    clouds: list[Tensor] = []
    for done, view in enumerate(sorted(range(views), key=footprints.__getitem__)):
        known = (depths[view] > 0).flatten().nonzero().squeeze(1)
        place = points[view].flatten(0, 1).index_select(0, known).T.contiguous()
        count = torch.zeros_like(known)
        difference = torch.zeros_like(torch.cat([place, place]))
        matches: list[tuple[int, _Match]] = []
        for other in range(views):
            if other == view:
                continue
            own = torch.cat([place, smooth.colors(view, other).flatten(1).index_select(1, known)])
            theirs = torch.cat([smooth.colors(other, view) * maps[other, 4], maps[other, 3:]])
            match, apart = _consistent(own, theirs, cameras[other], geometric_tolerance * scale, color_tolerance)
            count[match.points] += 1
            difference.index_add_(1, match.points, apart)
            matches.append((other, match))
        counts[view].view(-1)[known] = count
        fused = (count > needed) & ~used[view].flatten()[known]
        for other, match in matches:
            used[other].view(-1)[match.pixels[fused[match.points]]] = True
        start = torch.cat([place, images[view].flatten(1).index_select(1, known)])[:, fused]
        clouds.append(start + difference[:, fused] / (count[fused] + 1))
        if on_progress is not None:
            on_progress(done + 1, views)
    cloud = torch.cat(clouds, dim=1).T.contiguous()
    return FusedCloud(cloud[:, :3], cloud[:, 3:].clamp(0, 1), counts, needed)


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


def _footprints(depths: Tensor, cameras: Cameras) -> list[float]:
    """Median pixel size on the surface for each view; infinite if nothing has a depth."""
    footprints = []
    for depth, K in zip(depths, cameras.Ks, strict=True):
        known = depth[depth > 0]
        focal = float(torch.linalg.det(K[:2, :2]).abs().sqrt())
        footprints.append(float(known.median()) / focal if known.numel() else float("inf"))
    return footprints


class _Smooth:
    """The views' colours as coarser pixels would see them; holes are excluded."""

    def __init__(self, images: Tensor, depths: Tensor, footprints: list[float]) -> None:
        self.images, self.known, self.footprints = images, (depths > 0).to(images.dtype), footprints
        self.made: dict[tuple[int, int], Tensor] = {}

    def colors(self, view: int, other: int) -> Tensor:
        """[3, H, W] colours of a view, averaged over the other view's pixels if those are larger; to half an octave."""
        sizes = self.footprints[view], self.footprints[other]
        halves = round(2 * math.log2(sizes[1] / sizes[0])) if max(sizes) < math.inf else 0
        if halves <= 0:
            return self.images[view]
        if (view, halves) not in self.made:
            sigma = _PIXEL_SIGMA * math.sqrt(2.0**halves - 1)
            known = self.known[view]
            sums = _gaussian_blur(torch.cat([self.images[view] * known, known[None]]), sigma)
            self.made[view, halves] = sums[:3] / sums[3].clamp_min(1e-6)
        return self.made[view, halves]


def _gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [C, H, W] with zeros outside."""
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
    window = torch.exp(-0.5 * (offsets / sigma) ** 2)
    window = window / window.sum()
    rows = F.conv2d(maps[:, None], window.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(rows, window.view(1, 1, -1, 1), padding=(radius, 0))[:, 0]


def _consistent(
    own: Tensor, maps: Tensor, camera: Cameras, distance: float, color_distance: float
) -> tuple[_Match, Tensor]:
    """The points with colours [6, N] that agree with another view (M of Eq. 6), and their distances from it [6, M]."""
    match = _match(own[:3], maps, camera)
    apart = match.values - own.index_select(1, match.points)
    squares = apart.square()
    near = (squares[:3].sum(dim=0) < distance**2) & (squares[3:].sum(dim=0) < color_distance**2)
    good = near.nonzero().squeeze(1)
    points, pixels = match.points[good], match.pixels[good]
    return _Match(points, pixels, match.values.index_select(1, good)), apart.index_select(1, good)


def _match(points: Tensor, maps: Tensor, camera: Cameras) -> _Match:
    """The pixels with a depth of another view on which points [3, N] land."""
    viewmat, K = camera.viewmats[0], camera.Ks[0]
    x, y, z = K @ (viewmat[:3, :3] @ points + viewmat[:3, 3:])
    x, y = x / z, y / z
    landing = ((z > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)).nonzero().squeeze(1)
    x, y = x[landing], y[landing]
    grid = torch.stack([2 * x / camera.width - 1, 2 * y / camera.height - 1], dim=-1)
    sampled = F.grid_sample(maps[None], grid[None, None], mode="bilinear", align_corners=False)[0, :, 0]
    # The nearest pixel's share is at least a quarter: with less, that pixel has no depth.
    known = (sampled[4] > 0.249).nonzero().squeeze(1)
    sampled, landing, x, y = sampled.index_select(1, known), landing[known], x[known], y[known]
    sampled = sampled / sampled[4]
    rays = torch.linalg.inv(K) @ torch.stack([x, y, torch.ones_like(x)])
    c2w = camera.c2w[0]
    matched = c2w[:3, :3] @ (rays / sampled[3]) + c2w[:3, 3:]
    return _Match(landing, y.long() * camera.width + x.long(), torch.cat([matched, sampled[:3]]))


def fused_photos(scene: SceneEstimate, on_progress: Callable[[int, int], None] | None = None) -> FusedCloud:
    """`fuse_views` for photographs alone: two others have to agree with a pixel to make it a point."""
    with_depth = int((scene.depths > 0).flatten(1).any(dim=1).sum())
    needed = max(0, min(_AGREEING, with_depth - 2))
    return fuse_views(
        scene.images, scene.depths, scene.cameras, scale=scene.scale, needed=needed, on_progress=on_progress
    )
