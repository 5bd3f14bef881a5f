"""Forward warp: one-pixel z-buffered splats, at one resolution or at several (Eqs. 3 and 4).

A z-buffer is one int64 per pixel: the depth's bits above the point's index. Positive floats sort like their bits, so
the smallest key is the nearest point, and one scatter of minima resolves depth and identity together. A cell at a
resolution s times lower is the union of s x s pixels, so its nearest point is the nearest of theirs: warping at a
lower resolution is a minimum over blocks of the z-buffer, and the points are scattered only once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.reliability import EDGE_THRESHOLD

# Above the key of every depth, and exact in float64, which padding needs.
EMPTY = 0x7FFFFFFF << 32
# Rounding noise must not decide which pixel gets a point exactly between two (integer zooms have many of these).
TIE = 1e-3


@dataclass(frozen=True)
class Projection:
    """Points of a source picture projected into a target picture, in the source's pixel order.

    Attributes:
        x, y: [N] target pixel coordinates; meaningless where the depth is not positive.
        depths: [N] z-depths in the target camera; 0 where the source has no depth or the point is behind the target.
        width, height: the target's size in pixels.
        visible: [N] bool, the points that land in the picture.
    """

    x: Tensor
    y: Tensor
    depths: Tensor
    width: int
    height: int
    visible: Tensor


def _projection(x: Tensor, y: Tensor, z: Tensor, known: Tensor | None, target: Cameras) -> Projection:
    """Projection from homogeneous pixels (x, y, z) of any shape and whether each is valid."""
    front = z > 0 if known is None else (z > 0) & known
    z = torch.where(front, z, 0.0).flatten()
    safe = z.clamp(min=1e-12)
    x, y = x.flatten() / safe, y.flatten() / safe
    visible = (x >= -TIE) & (x < target.width - TIE) & (y >= -TIE) & (y < target.height - TIE) & front.flatten()
    return Projection(x, y, z, target.width, target.height, visible)


def project_depths(depths: Tensor, source: Cameras, target: Cameras) -> Projection:
    """Project the pixels of a depth map into another camera.

    Args:
        depths: [H, W] z-depths of the source, 0 means none.
        source: one camera of H x W pixels.
        target: one camera.
    """
    if len(source) != 1 or len(target) != 1:
        raise ValueError(f"expected one source and one target camera, got {len(source)} and {len(target)}")
    if depths.shape != (source.height, source.width):
        raise ValueError(f"depths must be {(source.height, source.width)} like the source, got {tuple(depths.shape)}")
    M, v = pixel_map(source, target)
    u = torch.arange(source.width, dtype=torch.float32, device=depths.device) + 0.5
    w = torch.arange(source.height, dtype=torch.float32, device=depths.device)[:, None] + 0.5
    x, y, z = (depths * (m[0] * u + (m[1] * w + m[2])) + offset for m, offset in zip(M, v, strict=True))
    return _projection(x, y, z, depths > 0, target)


def pixel_map(source: Cameras, target: Cameras) -> tuple[list[list[float]], list[float]]:
    """M [3, 3] and v [3] of two cameras: source pixel p at depth z lands at the homogeneous pixel z * M @ p + v."""
    # Composed in float64, so that equal cameras give the identity.
    K_source, K_target = source.Ks[0].double(), target.Ks[0].double()
    target_from_source = target.viewmats[0].double() @ torch.linalg.inv(source.viewmats[0].double())
    M = K_target @ target_from_source[:3, :3] @ torch.linalg.inv(K_source)
    return M.tolist(), (K_target @ target_from_source[:3, 3]).tolist()


def project_points(points: Tensor, target: Cameras) -> Projection:
    """Project world points [N, 3] into one camera."""
    if len(target) != 1:
        raise ValueError(f"expected one target camera, got {len(target)}")
    M = (target.Ks[0].double() @ target.viewmats[0, :3].double()).tolist()
    x, y, z = (points @ points.new_tensor(m[:3]) + m[3] for m in M)
    return _projection(x, y, z, None, target)


def splat(projection: Projection, chosen: Tensor | None = None) -> Tensor:
    """Z-buffer of the points that land in the target, one pixel each: the nearest wins, then the lowest index.

    Args:
        projection: N points in the target.
        chosen: [N] bool, the points to use; None: all.

    Returns:
        [H, W] int64 keys for `winners`; `EMPTY` where no point lands.
    """
    visible = projection.visible if chosen is None else projection.visible & chosen
    points = visible.nonzero().squeeze(1)
    keys = (projection.depths[points].view(torch.int32).long() << 32) | points
    buffer = torch.full((projection.height * projection.width,), EMPTY, device=points.device)
    buffer.scatter_reduce_(0, _pixels(projection, points), keys, "amin")
    return buffer.view(projection.height, projection.width)


def surface_means(colors: Tensor, projection: Projection, chosen: Tensor, keys: Tensor) -> Tensor:
    """Mean colour of the points on the nearest surface in each pixel, for targets with many points per pixel.

    The nearest point alone would alias. Points behind the nearest by a depth edge belong to another surface.

    Args:
        colors: [N, 3] colours of all points.
        projection: the N points projected into the target.
        chosen: [N] bool, the points of the z-buffer.
        keys: [H, W] z-buffer of the chosen points.

    Returns:
        [H * W, 3]; 0 where no point lands.
    """
    points = (projection.visible & chosen).nonzero().squeeze(1)
    pixels = _pixels(projection, points)
    _, _, nearest = winners(keys.flatten())
    same = projection.depths[points] <= (1 + EDGE_THRESHOLD) * nearest[pixels]
    points, pixels = points[same], pixels[same]
    weighted = torch.cat([colors[points], colors.new_ones((len(points), 1))], dim=1)
    sums = colors.new_zeros((keys.numel(), 4)).index_add_(0, pixels, weighted)
    return sums[:, :3] / sums[:, 3:].clamp(min=1)


def _pixels(projection: Projection, points: Tensor) -> Tensor:
    """Flat pixel index of visible points [M]."""
    column = torch.floor(projection.x[points] + TIE).long()
    return torch.floor(projection.y[points] + TIE).long() * projection.width + column


def winners(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unpack a z-buffer [h, w] -> (filled bool, point index int64, 0 in holes, z-depth float32, 0 in holes)."""
    filled = keys != EMPTY
    known = torch.where(filled, keys, 0)
    return filled, known & 0x7FFFFFFF, (known >> 32).to(torch.int32).view(torch.float32)


def coarsen(keys: Tensor, factor: int) -> Tensor:
    """The z-buffer of a `factor` times lower resolution: [h, w] -> [ceil(h / factor), ceil(w / factor)]."""
    if factor == 1:
        return keys
    height, width = keys.shape
    padded = F.pad(keys, (0, -width % factor, 0, -height % factor), value=EMPTY)
    blocks = [padded[row::factor, column::factor] for row in range(factor) for column in range(factor)]
    coarse = blocks[0]
    for block in blocks[1:]:
        coarse = torch.minimum(coarse, block)
    return coarse


def pyramid(keys: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Z-buffers at each of the ascending `scales`, each taken from the coarsest earlier one that divides it."""
    levels = {1: keys}
    for scale in scales:
        base = max(known for known in levels if scale % known == 0)
        levels[scale] = coarsen(levels[base], scale // base)
    return [levels[scale] for scale in scales]


def coarsen_any(mask: Tensor, factor: int) -> Tensor:
    """The cells at a `factor` times lower resolution that hold a True: [h, w] -> [ceil(h / f), ceil(w / f)], bool."""
    height, width = mask.shape
    padded = F.pad(mask, (0, -width % factor, 0, -height % factor), value=False)
    cells = torch.zeros_like(padded[::factor, ::factor])
    for row in range(factor):
        for column in range(factor):
            cells |= padded[row::factor, column::factor]
    return cells
