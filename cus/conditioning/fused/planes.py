"""Surfaces of a depth map as planes, each as large as the evidence allows.

Where the picture does not change along the epipolar lines, as on a table whose grain runs along them, matching says
nothing about depth. What it does say, at shadows, edges and stains around, holds for the whole surface if that is flat.
So every pixel gets the value of a plane fitted around it, weighted by how well the pictures determine the depth there.
The window grows as long as the result stays within the errors of all smaller ones (the intersection of confidence
intervals; Goldenshluger and Nemirovski, "On spatially adaptive estimation of nonparametric regression", 1997): curved,
textured surfaces keep their shape, and flat ones without texture are averaged over many pixels. Windows end at depth
edges and thin out at edges of the picture (the recursive filter of Gastal and Oliveira, "Domain Transform for
Edge-Aware Image and Video Processing", 2011).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Planes are fitted on every second pixel; windows have these standard deviations in pixels of this grid.
STEP, WINDOWS = 2, (1.5, 3.0, 6.0, 12.0, 24.0)
# Passes of the recursive filter along both axes; each one halves the width.
PASSES = 2
# Relative change of 1 / z over which a window does not reach, and summed difference of R, G and B that counts as much
# as the whole width of a window.
JUMP, CONTRAST = 0.04, 1.2
# Noise of a pixel's gray value, all that matching may get wrong included, and half a confidence interval in standard
# deviations.
NOISE, INTERVAL = 0.004, 2.0
# Smallest variance, in squared pixels of the grid, of the positions that determine a slope.
RIDGE = 0.004
# Moments of a plane: of 1, x, y, x x, x y, y y, q, x q, y q.
MOMENTS = 9


@dataclass(frozen=True)
class Grid:
    """A depth map on every second pixel.

    Attributes:
        inverse: [h, w] float64 1 / z of the pixels on the grid, 0 = none.
        moments: [h, w, 9] float64, weighted sums over each pixel's block; x and y in pixels of the grid from its
            centre.
        across: [h, w] float64 in [0, 1], how much a pixel has in common with the one to its left: by depth.
        down: [h, w] the same for the one above.
        across_contrast: [h, w] difference of the colours from the pixel to the left, over CONTRAST.
        down_contrast: [h, w] the same for the one above.
    """

    inverse: Tensor
    moments: Tensor
    across: Tensor
    down: Tensor
    across_contrast: Tensor
    down_contrast: Tensor


def regressed(inverse: Tensor, information: Tensor, colors: Tensor) -> Tensor:
    """A depth map with each pixel on a plane fitted around it.

    Args:
        inverse: [H, W] float64 1 / z, 0 = none.
        information: [H, W] float64, squared change of the matched gray values per relative change of 1 / z: inverse
            variance of the pixel's ln(1 / z), for noise of 1.
        colors: [3, H, W] float32 RGB in [0, 1].

    Returns:
        [H, W] float64; 0 where `inverse` is.
    """
    grid = grid_of(inverse, information, colors)
    low, high = torch.full_like(grid.inverse, -math.inf), torch.full_like(grid.inverse, math.inf)
    growing = grid.inverse > 0
    planes = torch.stack([grid.inverse, torch.zeros_like(low), torch.zeros_like(low)], dim=-1)
    for window in WINDOWS:
        moments = filtered(grid, window)
        fitted = solved(moments)
        error = INTERVAL * NOISE * grid.inverse / (moments[..., 0] * 2 * window**2).clamp(min=1e-12).sqrt()
        low, high = torch.maximum(low, fitted[..., 0] - error), torch.minimum(high, fitted[..., 0] + error)
        growing = growing & (low <= high) & (moments[..., 0] > 0) & (fitted[..., 0] > 0)
        planes = torch.where(growing[..., None], fitted, planes)
    return spread(inverse, grid.inverse, planes)


def grid_of(inverse: Tensor, information: Tensor, colors: Tensor) -> Grid:
    """The grid of a depth map; arguments as for `regressed`."""
    q, weights = (_blocks(value) for value in (inverse, information))
    own = q[..., 0]
    weights = weights * ((q - own[..., None]).abs() <= JUMP * own[..., None]) * (q > 0)
    h, w = own.shape
    corner = torch.tensor([0.25 - 0.5, 0.75 - 0.5], dtype=torch.float64, device=q.device)
    y = torch.arange(h, device=q.device).double()[:, None, None] + 0.5 - h / 2 + corner.repeat_interleave(2)
    x = torch.arange(w, device=q.device).double()[None, :, None] + 0.5 - w / 2 + corner.repeat(2)
    x, y = x.expand_as(q), y.expand_as(q)
    values = (torch.ones_like(q), x, y, x * x, x * y, y * y, q, x * q, y * q)
    moments = torch.stack([(weights * value).sum(dim=-1) for value in values], dim=-1)
    picture = F.avg_pool2d(_even(colors)[None], STEP)[0].double()
    keeps, contrasts = [], []
    for axis in (1, 0):
        here, there = own.narrow(axis, 1, own.shape[axis] - 1), own.narrow(axis, 0, own.shape[axis] - 1)
        change = (here - there).abs() / torch.maximum(here, there).clamp(min=1e-12)
        keep = (-(change / JUMP).square()).exp() * (change < 2 * JUMP) * (torch.minimum(here, there) > 0)
        contrast = picture.diff(dim=axis + 1).abs().sum(dim=0) / CONTRAST
        pad = (1, 0) if axis else (0, 0, 1, 0)
        keeps.append(F.pad(keep, pad))
        contrasts.append(F.pad(contrast, pad))
    return Grid(own, moments, *keeps, *contrasts)


def filtered(grid: Grid, window: float) -> Tensor:
    """[h, w, 9] means of a grid's moments over windows of a standard deviation."""
    moments = grid.moments.clone()
    for index in range(PASSES):
        rate = -math.sqrt(2) / pass_width(window, index)
        for axis, keep, contrast in (
            (1, grid.across, grid.across_contrast),
            (0, grid.down, grid.down_contrast),
        ):
            shares = (keep * (rate * (1 + window * contrast)).exp())[..., None].unbind(axis)
            lines = list(moments.unbind(axis))
            for place in range(1, len(lines)):
                lines[place] = lines[place] + shares[place] * (lines[place - 1] - lines[place])
            for place in range(len(lines) - 2, -1, -1):
                lines[place] = lines[place] + shares[place + 1] * (lines[place + 1] - lines[place])
            moments = torch.stack(lines, dim=axis)
    return moments


def pass_width(window: float, index: int) -> float:
    """Standard deviation of one pass of the filter, of PASSES for a window."""
    return window * math.sqrt(3) * 2 ** (PASSES - index - 1) / math.sqrt(4**PASSES - 1)


def solved(moments: Tensor) -> Tensor:
    """[h, w, 3] planes by weighted least squares: value at the pixel of the grid, slopes to the right and down."""
    weight = moments[..., 0].clamp(min=1e-300)
    mx, my, xx, xy, yy, mq, xq, yq = (moments[..., k] / weight for k in range(1, MOMENTS))
    h, w = weight.shape
    x = torch.arange(w, device=mx.device).double() + 0.5 - w / 2
    y = torch.arange(h, device=mx.device).double()[:, None] + 0.5 - h / 2
    cxx, cxy, cyy = xx - mx * mx + RIDGE, xy - mx * my, yy - my * my + RIDGE
    cxq, cyq = xq - mx * mq, yq - my * mq
    determinant = cxx * cyy - cxy * cxy
    right, down = (cyy * cxq - cxy * cyq) / determinant, (cxx * cyq - cxy * cxq) / determinant
    return torch.stack([mq + right * (x - mx) + down * (y - my), right, down], dim=-1)


def spread(inverse: Tensor, own: Tensor, planes: Tensor) -> Tensor:
    """[H, W] the planes [h, w, 3] of a grid at all pixels of its surfaces; the others keep their values.

    Args:
        inverse: [H, W] 1 / z, 0 = none.
        own: [h, w] 1 / z of the pixels on the grid.
        planes: [h, w, 3] their planes, as from `solved`.
    """
    height, width = inverse.shape
    enlarged = torch.stack([own, *planes.unbind(-1)]).repeat_interleave(STEP, 1).repeat_interleave(STEP, 2)
    own, value, right, down = enlarged[:, :height, :width]
    corner = torch.tensor([-0.25, 0.25], dtype=torch.float64, device=inverse.device)
    dy, dx = corner.repeat(-(-height // STEP))[:height, None], corner.repeat(-(-width // STEP))[:width]
    found = value + right * dx + down * dy
    taken = (inverse > 0) & ((inverse - own).abs() <= JUMP * own) & (found > 0)
    return torch.where(taken, found, inverse)


def _even(values: Tensor) -> Tensor:
    """[..., H, W] continued by copies of the last row and column to even sizes."""
    height, width = values.shape[-2:]
    return F.pad(values[None], (0, width % STEP, 0, height % STEP), mode="replicate")[0]


def _blocks(values: Tensor) -> Tensor:
    """[h, w, 4] the pixels of each block of 2 x 2; those beyond the last row and column are 0."""
    height, width = values.shape
    padded = F.pad(values, (0, width % STEP, 0, height % STEP))
    return torch.stack([padded[i::STEP, j::STEP] for i in range(STEP) for j in range(STEP)], dim=-1)
