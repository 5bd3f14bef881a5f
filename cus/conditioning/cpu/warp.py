"""Forward warp on the CPU: projection, one-pixel z-buffered splats and their pyramid (Eq. 3).

Semantics match `cus.conditioning.warp` to the bit: float32 expressions in the same order.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from cus.conditioning.warp import EMPTY as _EMPTY
from cus.conditioning.warp import TIE

EMPTY = np.int64(_EMPTY)
_HALF, _ZERO = np.float32(0.5), np.float32(0)
_TIE, _TINY = np.float32(TIE), np.float32(1e-12)
_INDEX = np.int64(0x7FFFFFFF)


class Points(NamedTuple):
    """The N = rows x columns pixels of a reference, projected into a target.

    Attributes:
        x: [N] float32 target pixel coordinate; meaningless where the point is not visible.
        y: [N] float32, as x.
        depths: [N] float32 z-depth in the target.
        pixels: [N] int32 flat index of the target pixel that holds the point, -1 where it is not visible.
    """

    x: np.ndarray
    y: np.ndarray
    depths: np.ndarray
    pixels: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def project(depths, M, v, width, height, points):  # pragma: no cover - compiled
    """Fill `points` from a depth map [H, W]: pixel p at depth z lands at z M p + v; M [3, 3] and v [3] are float32."""
    right, bottom = np.float32(width - TIE), np.float32(height - TIE)
    x, y, far, pixels = points.x, points.y, points.depths, points.pixels
    rows, columns = depths.shape
    for row in range(rows):
        w = np.float32(row) + _HALF
        along = M[0, 1] * w + M[0, 2], M[1, 1] * w + M[1, 2], M[2, 1] * w + M[2, 2]
        for column in range(columns):
            u = np.float32(column) + _HALF
            depth = depths[row, column]
            z = depth * (M[2, 0] * u + along[2]) + v[2]
            front = (z > _ZERO) & (depth > _ZERO)
            safe = max(z, _TINY)
            px = (depth * (M[0, 0] * u + along[0]) + v[0]) / safe
            py = (depth * (M[1, 0] * u + along[1]) + v[1]) / safe
            visible = front & (px >= -_TIE) & (px < right) & (py >= -_TIE) & (py < bottom)
            point = row * columns + column
            x[point], y[point], far[point] = px, py, z
            pixels[point] = np.int32(py + _TIE) * np.int32(width) + np.int32(px + _TIE) if visible else np.int32(-1)


@njit(cache=True, nogil=True)
def splat(points, chosen, keys):  # pragma: no cover - compiled
    """Fill the z-buffer `keys` [H * W] with the chosen points: nearest wins, then the lowest index."""
    bits = points.depths.view(np.int32)
    pixels = points.pixels
    keys[:] = EMPTY
    for point in range(len(pixels)):
        pixel = pixels[point]
        if pixel >= 0 and chosen[point]:
            key = (np.int64(bits[point]) << 32) | point
            if key < keys[pixel]:
                keys[pixel] = key


@njit(cache=True, nogil=True, inline="always")
def winner(key):  # pragma: no cover - compiled
    """Index of the point that a key (not EMPTY) stands for."""
    return key & _INDEX


@njit(cache=True, nogil=True)
def coarsen(keys, factor):  # pragma: no cover - compiled
    """The z-buffer of a `factor` times lower resolution: [h, w] -> [ceil(h / factor), ceil(w / factor)]."""
    height, width = keys.shape
    coarse = np.full((-(-height // factor), -(-width // factor)), EMPTY)
    for row in range(height):
        line, into = keys[row], coarse[row // factor]
        for cell in range(len(into)):
            lowest = into[cell]
            for column in range(cell * factor, min(cell * factor + factor, width)):
                lowest = min(lowest, line[column])
            into[cell] = lowest
    return coarse


@njit(cache=True, nogil=True)
def projected_distances(points, chosen, columns, distances):  # pragma: no cover - compiled
    """Distances in target pixels between neighbouring chosen points, on every other row and column.

    Writes them to the start of `distances` [at least N / 2 + rows + columns] and returns their number.
    """
    x, y, pixels = points.x, points.y, points.pixels
    rows = len(pixels) // columns
    count = 0
    for down, across in ((0, 1), (1, 0)):
        for row in range(0, rows - down, 2):
            for column in range(0, columns - across, 2):
                here = row * columns + column
                there = here + down * columns + across
                if pixels[here] >= 0 and pixels[there] >= 0 and chosen[here] and chosen[there]:
                    distances[count] = max(abs(x[there] - x[here]), abs(y[there] - y[here]))
                    count += 1
    return count
