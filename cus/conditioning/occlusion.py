"""Occlusion-aware suppression of background that leaks through gaps of a sparse foreground (Section III-C, Eq. 5)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# In units of the scene scale: VGGT's unit of length, in which the paper states 0.2.
DEPTH_TOLERANCE = 0.2
# Points closer together than this many pixels close the surface as far as the eye can tell: nothing is dilated.
DENSE_SPACING = 1.25
LARGEST_RADIUS = 32


def dilation_radii(spacing: Tensor) -> Tensor:
    """Dilation radius of each point, in pixels, from the local density of the warp: the sparser, the larger.

    The density is taken a point at a time: a surface sampled once a source pixel has 1 / spacing^2 points a target
    pixel. Counting the valid pixels around would mix layers: a dense background hides how sparse the foreground is. The
    kernel of 2 r + 1 pixels holds at least one gap and both its ends. Dense points get radius 0.

    Args:
        spacing: distance between neighbouring points of the same surface, in target pixels.

    Returns:
        int64 radii of the same shape, 0 .. `LARGEST_RADIUS`.
    """
    radii = torch.ceil(spacing / 2).clamp(max=LARGEST_RADIUS).long()
    return torch.where(spacing > DENSE_SPACING, radii, 0)


def min_filter(values: Tensor, radius: int) -> Tensor:
    """Minimum over the square window of 2 * radius + 1 pixels: [H, W] -> [H, W]; outside counts as infinity."""
    if radius == 0:
        return values
    window = 2 * radius + 1
    for axis in (0, 1):
        pad = (radius, radius) if axis == 1 else (0, 0, radius, radius)
        values = F.pad(values, pad, value=math.inf)
        covered = 1
        while covered < window:
            # Windows of two sizes overlap: min over [0, a) and [s, s + a) is the min over [0, s + a) for s <= a.
            step = min(covered, window - covered)
            length = values.shape[axis] - step
            values = torch.minimum(values.narrow(axis, 0, length), values.narrow(axis, step, length))
            covered += step
    return values


def dilated_depths(depths: Sequence[Tensor], radii: Sequence[Tensor]) -> Tensor:
    """D_dilate of Eq. 5: each pixel's nearest depth among the sparse points whose kernel reaches it.

    Args:
        depths: for each source a [H, W] warped depth map, 0 means none.
        radii: for each source the [H, W] dilation radius of its points; points of radius 0 are not spread.

    Returns:
        [H, W] depths; infinity where no kernel reaches.
    """
    sparse = [torch.where(z > 0, r, 0) for z, r in zip(depths, radii, strict=True)]
    dilated = torch.full_like(depths[0], math.inf)
    levels = torch.cat([r.flatten() for r in sparse]).unique().tolist()
    for radius in levels:
        if radius == 0:
            continue
        nearest = torch.full_like(dilated, math.inf)
        for z, r in zip(depths, sparse, strict=True):
            nearest = torch.minimum(nearest, torch.where(r == radius, z, math.inf))
        dilated = torch.minimum(dilated, min_filter(nearest, radius))
    return dilated


def leaked_background(depths: Sequence[Tensor], spacings: Sequence[Tensor], tolerance: float) -> list[Tensor]:
    """Pixels whose point lies behind a sparse foreground that should hide it (M_occ = 0 in Eq. 5).

    The foreground of every source hides the background of all. A scene that is dense in the target has no kernel above
    one pixel and loses nothing.

    Args:
        depths: for each source the [H, W] depths of its confident points in the target at high resolution, 0 = none.
        spacings: for each source the [H, W] spacing of those points in target pixels.
        tolerance: tau_D in scene units: 0.2 x scene scale.

    Returns:
        For each source a [H, W] bool mask, True where its pixel is to become a hole.
    """
    radii = [dilation_radii(spacing) for spacing in spacings]
    dilated = dilated_depths(depths, radii)
    return [(z > 0) & (z - dilated > tolerance) for z in depths]
