"""Sub-pixel sampling and Gaussian blur on the CPU: `cus.conditioning.fused.sampling` as kernels."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.fused.sampling import LANCZOS3, blur_weights
from cus.conditioning.reliability import EDGE_THRESHOLD
from cus.kernels.simd import extract, lanes, load, multiply_add, next_pixel_weights, pixel_weights, sum_of_pixels
from cus.kernels.threads import in_pieces

_EDGE = np.float32(EDGE_THRESHOLD)
# Lanczos weights are interpolated linearly in a table with this many positions per pixel: the error is 1e-6.
_PHASES = 512
# Sums may be taken in any order, so that they fill vectors.
REASSOCIATED = {"contract", "reassoc", "nsz"}


def _lanczos_table() -> np.ndarray:
    """[(phases + 2) * 8] weights of the pixels -2 .. 3 around a point `phase` beyond pixel 0, and two zeros each.

    A phase's weights have sum 1. The last row is zero, because sixteen values are read at once.
    """
    phase = torch.arange(_PHASES + 1, dtype=torch.float64)[:, None] / _PHASES
    weights = LANCZOS3.weight(phase - torch.arange(-2, 4))
    table = np.zeros((_PHASES + 2, 8), np.float32)
    table[:-1, :6] = weights / weights.sum(dim=1, keepdim=True)
    return table.ravel()


LANCZOS_TABLE = _lanczos_table()


@njit(cache=True, nogil=True, error_model="numpy")
def lanczos(part, start, width, x, y, table):  # pragma: no cover - compiled
    """Sample a picture at a point: Lanes, the first three of which are the colour, of the picture's unit.

    Args:
        part: [h, width, 4] parts of pictures, flattened and concatenated, from `interleave`, with pixels for two
            columns and rows before the point's and five after it; followed by sixteen more values.
        start: index at which this part starts.
        width: width of this part in pixels.
        x: coordinate of the point in the part's pixels.
        y: coordinate of the point in the part's pixels.
        table: weights by sub-pixel position, `LANCZOS_TABLE`.
    """
    left, top = np.floor(x - np.float32(0.5)), np.floor(y - np.float32(0.5))
    across, down = _phase(x - np.float32(0.5) - left, table), _phase(y - np.float32(0.5) - top, table)
    # Unsigned indices spare the test for negative ones.
    line = np.uintp(4 * width)
    place = np.uintp(start + 4 * ((int(top) - 2) * width + int(left) - 2))
    # Rows first, four of their six pixels and then the others; across them once.
    four = extract(down, 0) * load(part, place)
    rest = extract(down, 0) * load(part, place + np.uintp(16))
    for i in range(1, 6):
        place += line
        weight = lanes(extract(down, i))
        four = multiply_add(weight, load(part, place), four)
        rest = multiply_add(weight, load(part, place + np.uintp(16)), rest)
    return sum_of_pixels(multiply_add(next_pixel_weights(across), rest, pixel_weights(across) * four))


@njit(cache=True, nogil=True)
def _phase(fraction, table):  # pragma: no cover - compiled
    """The weights of the six pixels around a point, interpolated between two rows of the table: Lanes."""
    place = fraction * np.float32(_PHASES)
    index = min(int(place), _PHASES - 1)
    before, after = load(table, np.uintp(8 * index)), load(table, np.uintp(8 * index + 8))
    return multiply_add(after - before, place - np.float32(index), before)


def inverse_depth_at_cpu(inverse: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`cus.conditioning.fused.sampling.inverse_depth_at` for float64 [H, W] points inside the picture."""
    found = torch.empty_like(x)
    arrays = inverse.contiguous().numpy(), x.contiguous().numpy(), y.contiguous().numpy(), found.numpy()
    in_pieces(lambda first, last: _inverse_depths(*arrays, first, last), len(x))
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def _inverse_depths(inverse, xs, ys, found, first, last):  # pragma: no cover - compiled
    for row in range(first, last):
        for column in range(xs.shape[1]):
            found[row, column] = inverse_depth(inverse, xs[row, column], ys[row, column])


@njit(cache=True, nogil=True, error_model="numpy")
def inverse_depth(inverse, x, y):  # pragma: no cover - compiled
    """`inverse_depth_at` for one point inside the picture."""
    h, w = inverse.shape
    column = min(max(int(np.floor(x - np.float32(0.5))), 0), max(w - 2, 0))
    row = min(max(int(np.floor(y - np.float32(0.5))), 0), max(h - 2, 0))
    right, below = min(column + 1, w - 1), min(row + 1, h - 1)
    a, b, c, d = inverse[row, column], inverse[row, right], inverse[below, column], inverse[below, right]
    most, least = max(max(a, b), max(c, d)), min(min(a, b), min(c, d))
    if most - least <= _EDGE * most:
        fx = min(max(x - np.float32(0.5) - np.float32(column), np.float32(0)), np.float32(1))
        fy = min(max(y - np.float32(0.5) - np.float32(row), np.float32(0)), np.float32(1))
        return (a + (b - a) * fx) * (np.float32(1) - fy) + (c + (d - c) * fx) * fy
    return inverse[min(int(y), h - 1), min(int(x), w - 1)]


def blur_cpu(values: Tensor, sigma: float) -> Tensor:
    """`cus.conditioning.fused.sampling.blur` for float32 [..., H, W]."""
    weights = blur_weights(sigma).float().numpy()
    if len(weights) == 1:
        return values
    planes = values.contiguous().view(-1, *values.shape[-2:]).numpy()
    found = np.empty_like(planes)
    for plane, into in zip(planes, found, strict=True):
        _blur(plane, weights, into)
    return torch.from_numpy(found).view(values.shape)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATED)
def _blur(plane, weights, into):  # pragma: no cover - compiled
    """Blur down the columns one line at a time, then along that line."""
    height, width = plane.shape
    radius = len(weights) // 2
    line = np.empty(width + 2 * radius, np.float32)
    middle = line[radius : radius + width]
    for row in range(height):
        middle[:] = 0
        for k in range(2 * radius + 1):
            source, g = plane[_mirror(row + k - radius, height)], weights[k]
            for column in range(width):
                middle[column] += g * source[column]
        for k in range(radius):
            line[k] = middle[_mirror(k - radius, width)]
            line[radius + width + k] = middle[_mirror(width + k, width)]
        target = into[row]
        target[:] = 0
        for k in range(2 * radius + 1):
            g = weights[k]
            for column in range(width):
                target[column] += g * line[column + k]


@njit(cache=True, nogil=True)
def _mirror(place, length):  # pragma: no cover - compiled
    if length == 1:
        return 0
    period = 2 * (length - 1)
    place %= period
    return place if place < length else period - place
