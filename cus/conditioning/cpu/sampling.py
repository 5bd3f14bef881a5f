"""Sub-pixel sampling and Gaussian blur on the CPU: `cus.conditioning.fused.sampling` as kernels."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.fused.sampling import LANCZOS3, blur_weights
from cus.conditioning.reliability import EDGE_THRESHOLD

_EDGE = np.float32(EDGE_THRESHOLD)
# Lanczos weights are interpolated linearly in a table with this many positions per pixel: the error is 1e-6.
_PHASES = 512
# Sums may be taken in any order, so that they fill vectors.
REASSOCIATED = {"contract", "reassoc", "nsz"}


def _lanczos_table() -> np.ndarray:
    """[phases + 1, 6] weights, with sum 1, of the pixels -2 .. 3 around a point `phase` beyond pixel 0."""
    phase = torch.arange(_PHASES + 1, dtype=torch.float64)[:, None] / _PHASES
    weights = LANCZOS3.weight(phase - torch.arange(-2, 4))
    return (weights / weights.sum(dim=1, keepdim=True)).float().numpy()


LANCZOS_TABLE = _lanczos_table()


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def lanczos(pixels, offset, h, w, x, y, table, into):  # pragma: no cover - compiled
    """Sample the three channels of a picture at a point; uint8 0 .. 255 stands for 0 .. 1.

    Args:
        pixels: [3, h, w] pictures, flattened and concatenated.
        offset: index at which this picture starts.
        h: height of this picture in pixels.
        w: width of this picture in pixels.
        x: coordinate of the point in pixels.
        y: coordinate of the point in pixels.
        table: weights by sub-pixel position, `LANCZOS_TABLE`.
        into: [3] receives the colour.
    """
    left, top = np.floor(x - np.float32(0.5)), np.floor(y - np.float32(0.5))
    across, down = _phase(x - np.float32(0.5) - left, table), _phase(y - np.float32(0.5) - top, table)
    column, row = int(left) - 2, int(top) - 2
    if column >= 0 and row >= 0 and column + 6 <= w and row + 6 <= h:
        # Unsigned indices spare the test for negative ones, and scalars stay in registers.
        line, channel_size = np.uintp(w), np.uintp(h * w)
        start = np.uintp(offset + row * w + column)
        for channel in range(3):
            total = down[0] * _along(pixels, start, across)
            total += down[1] * _along(pixels, start + line, across)
            total += down[2] * _along(pixels, start + np.uintp(2) * line, across)
            total += down[3] * _along(pixels, start + np.uintp(3) * line, across)
            total += down[4] * _along(pixels, start + np.uintp(4) * line, across)
            total += down[5] * _along(pixels, start + np.uintp(5) * line, across)
            into[channel] = total
            start += channel_size
    else:
        for channel in range(3):
            base = offset + channel * h * w
            total = np.float32(0)
            for i in range(6):
                start = base + min(max(row + i, 0), h - 1) * w
                part = np.float32(0)
                for j in range(6):
                    part += across[j] * np.float32(pixels[start + min(max(column + j, 0), w - 1)])
                total += down[i] * part
            into[channel] = total


@njit(cache=True, nogil=True, inline="always")
def _along(pixels, start, weights):  # pragma: no cover - compiled
    return (
        weights[0] * np.float32(pixels[start])
        + weights[1] * np.float32(pixels[start + np.uintp(1)])
        + weights[2] * np.float32(pixels[start + np.uintp(2)])
        + weights[3] * np.float32(pixels[start + np.uintp(3)])
        + weights[4] * np.float32(pixels[start + np.uintp(4)])
        + weights[5] * np.float32(pixels[start + np.uintp(5)])
    )


@njit(cache=True, nogil=True, inline="always")
def _phase(fraction, table):  # pragma: no cover - compiled
    """The weights of the six pixels around a point, interpolated between two rows of the table."""
    place = fraction * np.float32(_PHASES)
    index = min(int(place), _PHASES - 1)
    share = place - np.float32(index)
    a, b = table[index], table[index + 1]
    return (
        a[0] + share * (b[0] - a[0]),
        a[1] + share * (b[1] - a[1]),
        a[2] + share * (b[2] - a[2]),
        a[3] + share * (b[3] - a[3]),
        a[4] + share * (b[4] - a[4]),
        a[5] + share * (b[5] - a[5]),
    )


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
