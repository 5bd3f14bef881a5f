"""Occlusion-aware suppression of background that leaks through gaps of a sparse foreground (Section III-C, Eq. 5)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.conditioning.reliability import EDGE_THRESHOLD

# In units of the scene scale, which is VGGT's unit of length; the paper states 0.2 in it.
DEPTH_TOLERANCE = 0.2
# Points at most this many pixels apart look like a closed surface: nothing is dilated.
DENSE_SPACING = 1.25
LARGEST_RADIUS = 32
# Samples of a depth map that are further apart than this, in its pixels, no longer form a surface.
LARGEST_SPACING = 8


def dilation_radii(spacing: Tensor) -> Tensor:
    """Dilation radius of each point in pixels, from the local density of the warp: the sparser, the larger.

    The density is that of the point's own surface, 1 / spacing^2. Counting valid pixels around it would mix surfaces: a
    dense background hides how sparse the foreground is. The kernel of 2 r + 1 pixels contains at least one gap and both
    its ends. Dense points get radius 0.

    Args:
        spacing: distance between neighbouring points of the same surface in target pixels; 0 for isolated points.

    Returns:
        int64 radii of the same shape, 0 .. `LARGEST_RADIUS`.
    """
    radii = torch.ceil(spacing / 2).clamp(max=LARGEST_RADIUS).long()
    return torch.where(spacing > DENSE_SPACING, radii, 0)


def sample_spacing(depths: Tensor) -> Tensor:
    """Distance between a depth map's samples of the surface at each pixel, in its own pixels.

    The smallest distance (the larger of rows and columns) within which two more pixels have a depth on the same
    surface, that is, with no depth edge between. A dense map has 1, even on thin structures; a map with a depth at
    every fourth row and column has 4. Confidence plays no part: an uncertain depth is not a gap.

    Args:
        depths: [H, W] z-depths, 0 means none.

    Returns:
        [H, W] float32; 0 where there is no depth, and where a sample has no neighbours within `LARGEST_SPACING` (an
        outlier: it hides nothing).
    """
    margin, depths = LARGEST_SPACING, depths.contiguous()
    samples = F.pad(depths, (margin, margin, margin, margin))
    stride = samples.shape[1]
    samples = samples.flatten()
    lone = (depths > 0).flatten().nonzero().squeeze(1)
    width = depths.shape[1]
    company = torch.zeros_like(lone)
    spacing = torch.zeros_like(depths)
    for distance in range(1, LARGEST_SPACING + 1):
        if len(lone) == 0:
            break
        places = (lone // width + margin) * stride + lone % width + margin
        own = samples[places]
        for row, column in _ring(distance):
            other = samples[places + row * stride + column]
            company += (other > 0) & ((other - own).abs() <= EDGE_THRESHOLD * torch.minimum(other, own))
        spacing.view(-1)[lone[company >= 2]] = distance
        lone, company = lone[company < 2], company[company < 2]
    return spacing


def _ring(distance: int) -> list[tuple[int, int]]:
    """The (row, column) offsets whose larger component is `distance`."""
    steps = range(-distance, distance + 1)
    return [(row, column) for row in steps for column in steps if max(abs(row), abs(column)) == distance]


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


def dilated_depths(depths: Sequence[Tensor], spacings: Sequence[Tensor]) -> Tensor:
    """D_dilate of Eq. 5: each pixel's nearest depth among the sparse points whose kernels reach it.

    A point at p with D_warp(p) - D_dilate(p) > tau_D is background that leaks through gaps in a foreground. The
    foreground of every source hides the background of all sources. Dense points have no kernel, so nothing is hidden
    where a scene is dense in the target.

    Args:
        depths: for each source the [H, W] depths of its confident points in the target at high resolution, 0 = none.
        spacings: for each source the [H, W] spacing of these points in target pixels, 0 for isolated ones.

    Returns:
        [H, W] depths; infinity where no kernel reaches.
    """
    radii = [torch.where(z > 0, dilation_radii(s), 0) for z, s in zip(depths, spacings, strict=True)]
    dilated = torch.full_like(depths[0], math.inf)
    used = sum(torch.bincount(r.flatten(), minlength=LARGEST_RADIUS + 1) for r in radii)
    for radius in torch.as_tensor(used).nonzero().flatten().tolist():
        if radius == 0:
            continue
        nearest = torch.full_like(dilated, math.inf)
        for z, r in zip(depths, radii, strict=True):
            nearest = torch.minimum(nearest, torch.where(r == radius, z, math.inf))
        dilated = torch.minimum(dilated, min_filter(nearest, radius))
    return dilated
