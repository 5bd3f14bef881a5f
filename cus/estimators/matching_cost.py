"""Matching costs between the reference and its sources on a set of planes: a soft census, fused with the warp.

Neighbour differences are compared after a clamp (a census with more than one bit): invariant to a brightness offset,
robust to outliers, and smooth enough for subpixel depth. `cost_volume` is the compiled form for the CPU;
`cost_volume_torch` is its reference in tensor operations, also for other devices.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from cus.kernels.simd import LANES, lanes, larger, load, negative_magnitude, smaller, store
from cus.kernels.threads import in_pieces

CONTRAST = 0.06  # difference between neighbours, in [0, 1] grey, at which the cost saturates
UNKNOWN_COST = 0.5  # cost of two random patches
# Rows of the picture and planes that are compared together: their costs fit into a core's cache, and sixteen costs of
# a pixel fill the cache line that they are written to.
_ROWS, _PLANES = 16, 16
_HALF, _ZERO, _ONE, _TINY = np.float32(0.5), np.float32(0), np.float32(1), np.float32(1e-6)
_UNKNOWN, _UNSEEN = np.float32(UNKNOWN_COST), np.float32(2)


class Views(NamedTuple):
    """A reference and its sources as arrays (`cus.estimators.plane_sweep.Sweep`).

    Attributes:
        reference: [H + 2 reach, W + 2 reach] grey values of the reference, with its border repeated outwards.
        sources: [S, H, W] grey values of the sources.
        valid: [S, H, W] bool, False on padding.
        rays: [S, 3, H, W] homogeneous source pixels of the reference's pixels at infinity.
        shifts: [S, 3] homogeneous displacement per unit of inverse depth.
    """

    reference: np.ndarray
    sources: np.ndarray
    valid: np.ndarray
    rays: np.ndarray
    shifts: np.ndarray
    complete: np.ndarray


def cost_volume(
    gray: Tensor, sources: Tensor, sources_valid: Tensor, rays: Tensor, shifts: Tensor, planes: Tensor, window: int
) -> Tensor:
    """Dissimilarity in [0, 1] between each pixel and its sources on each plane.

    Of several sources the better half counts: a source that does not see the point is no evidence about it.

    Args:
        gray: [H, W] grey values of the reference.
        sources: [S, H, W] pictures of the sources.
        sources_valid: [S, H, W] bool, False on padding.
        rays: [S, 3, H, W] homogeneous source pixels of the reference's pixels at infinity.
        shifts: [S, 3] homogeneous displacement per unit of inverse depth.
        planes: [D] inverse depths.
        window: side of the compared window in pixels, odd.

    Returns:
        [H, W, D] float32; `UNKNOWN_COST` where no source sees the hypothesis.
    """
    if gray.device.type != "cpu":
        return cost_volume_torch(gray, sources, sources_valid, rays, shifts, planes, window)
    reach = window // 2
    padded = F.pad(gray[None, None] / CONTRAST, (reach,) * 4, mode="replicate")[0, 0]
    padded = F.pad(padded, (0, -gray.shape[1] % LANES))
    further = F.pad(sources[None] / CONTRAST, (0, 1, 0, 1), mode="replicate")[0]
    complete = sources_valid.flatten(1).all(dim=1)
    views = Views(*(tensor.contiguous().numpy() for tensor in (padded, further, sources_valid, rays, shifts, complete)))
    costs = torch.empty((*gray.shape, len(planes)))
    height, volume, hypotheses = len(gray), costs.numpy(), planes.numpy()

    def compare(first: int, last: int) -> None:
        for tile in range(first, last):
            _compare(views, hypotheses, reach, volume, tile * _ROWS, min(tile * _ROWS + _ROWS, height))

    in_pieces(compare, -(-height // _ROWS))
    return costs


def cost_volume_torch(
    gray: Tensor, sources: Tensor, sources_valid: Tensor, rays: Tensor, shifts: Tensor, planes: Tensor, window: int
) -> Tensor:
    """`cost_volume` as tensor operations, on any device."""
    views = list(zip(sources, sources_valid, rays, shifts, strict=True))
    volume = [
        _best_half(torch.stack([_plane_cost(gray, *view, plane, window) for view in views]))
        for plane in planes.tolist()
    ]
    return torch.stack(volume, dim=-1)


def _plane_cost(
    gray: Tensor, source: Tensor, source_valid: Tensor, rays: Tensor, shift: Tensor, plane: float, window: int
) -> Tensor:
    """[H, W] cost of one source on one plane; inf where it shows nothing."""
    height, width = gray.shape
    x, y, z = rays + shift[:, None, None] * plane
    safe = z.clamp(min=1e-6)
    pixels = torch.stack([x / safe, y / safe], dim=-1)
    size = pixels.new_tensor([width, height])
    seen = (z > 1e-6) & (pixels > 0).all(dim=-1) & (pixels < size).all(dim=-1)
    grid = (pixels / size * 2 - 1).clamp(-2.0, 2.0)[None]
    warped = F.grid_sample(source[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    column, row = (pixels[..., i].nan_to_num().clamp(0, side - 1).long() for i, side in ((0, width), (1, height)))
    seen &= source_valid[row, column]

    cost = torch.zeros_like(gray)
    reach = window // 2
    padded = [F.pad(image[None, None], (reach,) * 4, mode="replicate")[0, 0] for image in (gray, warped)]
    for dy in range(window):
        for dx in range(window):
            differences = [
                ((pad[dy : dy + height, dx : dx + width] - image) / CONTRAST).clamp(-1.0, 1.0)
                for pad, image in zip(padded, (gray, warped), strict=True)
            ]
            cost += (differences[0] - differences[1]).abs()
    return (cost / (2 * (window * window - 1))).masked_fill_(~seen, torch.inf)


def _best_half(costs: Tensor) -> Tensor:
    """[S, H, W] with inf where unseen -> [H, W] mean of the better half of the sources that see the pixel."""
    ordered = costs.sort(dim=0).values
    seen = ordered.isfinite()
    keep = (seen.sum(dim=0) + 1) // 2
    chosen = seen & (torch.arange(len(costs), device=costs.device)[:, None, None] < keep)
    mean = torch.where(chosen, ordered, torch.zeros_like(ordered)).sum(dim=0) / keep.clamp(min=1)
    return torch.where(keep > 0, mean, torch.full_like(mean, UNKNOWN_COST))


@njit(cache=True, nogil=True)
def _compare(views, planes, reach, volume, first, last):  # pragma: no cover - compiled
    """Fill the rows first to last of a cost volume [H, W, D]."""
    count, width, rows = len(views.sources), volume.shape[1], last - first
    whole = -(-width // LANES) * LANES
    warped = np.zeros((rows + 2 * reach, whole + 2 * reach), dtype=np.float32)
    seen = np.zeros((rows + 2 * reach, whole), dtype=np.bool_)
    costs = np.empty((count, _PLANES, rows, whole), dtype=np.float32)
    for start in range(0, len(planes), _PLANES):
        end = min(start + _PLANES, len(planes))
        for source in range(count):
            for plane in range(start, end):
                _warp(views, source, planes[plane], reach, first, warped, seen)
                _soft_census(views.reference, warped, seen, reach, first, costs[source, plane - start])
        for row in range(rows):
            if count == 1:
                _write_only(costs[0, :, row], volume[first + row, :, start:end])
            else:
                _write_best_half(costs[:, :, row], volume[first + row, :, start:end])


@njit(cache=True, nogil=True)
def _write_only(costs, into):  # pragma: no cover - compiled
    """Write the costs [planes, W] of the only source to a row of the volume [W, planes]."""
    for column in range(len(into)):
        for plane in range(into.shape[1]):
            cost = costs[plane, column]
            into[column, plane] = cost if cost < _UNSEEN else _UNKNOWN


@njit(cache=True, nogil=True)
def _write_best_half(costs, into):  # pragma: no cover - compiled
    """Write the mean over the better half of the sources that see a pixel: [S, planes, W] to a row [W, planes]."""
    ordered = np.empty(len(costs), dtype=np.float32)
    for column in range(len(into)):
        for plane in range(into.shape[1]):
            seen = 0
            for source in range(len(costs)):
                cost = costs[source, plane, column]
                if cost < _UNSEEN:
                    place = seen
                    while place > 0 and ordered[place - 1] > cost:
                        ordered[place] = ordered[place - 1]
                        place -= 1
                    ordered[place] = cost
                    seen += 1
            keep, total = (seen + 1) // 2, _ZERO
            for place in range(keep):
                total += ordered[place]
            into[column, plane] = total / np.float32(keep) if keep > 0 else _UNKNOWN


@njit(cache=True, fastmath=True, nogil=True)
def _warp(views, index, plane, reach, first, warped, seen):  # pragma: no cover - compiled
    """Sample a source at the rows from first - reach on, with `reach` repeated columns a side; and whether seen."""
    valid, rays, shift = views.valid[index], views.rays[index], views.shifts[index]
    height, width = valid.shape
    source, stride = views.sources[index].ravel(), width + 1
    sx, sy, sz = shift[0] * plane, shift[1] * plane, shift[2] * plane
    places, across, down = np.empty(width, np.uint32), np.empty(width, np.float32), np.empty(width, np.float32)
    for line in range(len(warped)):
        row = min(max(first - reach + line, 0), height - 1)
        rx, ry, rz = rays[0, row], rays[1, row], rays[2, row]
        into, visible = warped[line, reach : reach + width], seen[line]
        for column in range(width):
            z = rz[column] + sz
            scale = _ONE / max(z, _TINY)
            x, y = (rx[column] + sx) * scale, (ry[column] + sy) * scale
            visible[column] = (
                (z > _TINY) & (x > _ZERO) & (y > _ZERO) & (x < np.float32(width)) & (y < np.float32(height))
            )
            x = min(max(x - _HALF, _ZERO), np.float32(width - 1))
            y = min(max(y - _HALF, _ZERO), np.float32(height - 1))
            left, top = np.int32(x), np.int32(y)
            across[column], down[column] = x - np.float32(left), y - np.float32(top)
            places[column] = top * np.int32(stride) + left
        for column in range(width):
            place, fx = places[column], across[column]
            above = source[place] + (source[place + np.uint32(1)] - source[place]) * fx
            place += np.uint32(stride)
            below = source[place] + (source[place + np.uint32(1)] - source[place]) * fx
            into[column] = above + (below - above) * down[column]
        if not views.complete[index]:
            for column in range(width):
                # The nearest pixel: one further if the fraction is a half or more.
                place = places[column]
                top, left = place // np.uint32(stride), place % np.uint32(stride)
                visible[column] &= valid[
                    np.int32(np.float32(top) + down[column] + _HALF),
                    np.int32(np.float32(left) + across[column] + _HALF),
                ]
        for column in range(reach):
            warped[line, column], warped[line, reach + width + column] = into[0], into[width - 1]


@njit(cache=True, nogil=True)
def _soft_census(reference, warped, seen, reach, first, costs):  # pragma: no cover - compiled
    """Compare windows of the reference's rows from `first` on with those of the warped source: [rows, W] costs."""
    rows, width = costs.shape
    stride, window = warped.shape[1], 2 * reach + 1
    norm = np.float32(1.0 / (2 * (window * window - 1)))
    ours, theirs, into = reference.ravel(), warped.ravel(), costs.ravel()
    for row in range(rows):
        for column in range(0, width, LANES):
            here = (row + reach) * stride + column + reach
            our_center, their_center, cost = load(ours, first * stride + here), load(theirs, here), lanes(_ZERO)
            for corner in range(row * stride + column, (row + window) * stride + column, stride):
                for place in range(corner, corner + window):
                    a = _clamped(load(ours, first * stride + place) - our_center)
                    b = _clamped(load(theirs, place) - their_center)
                    cost = cost - negative_magnitude(a - b)
            store(into, row * width + column, cost * norm)
        for column in range(width):
            if not seen[row + reach, column]:
                costs[row, column] = _UNSEEN


@njit(cache=True, nogil=True, forceinline=True)
def _clamped(difference):  # pragma: no cover - compiled
    """Clamp to [-1, 1]."""
    return larger(smaller(difference, _ONE), -_ONE)
