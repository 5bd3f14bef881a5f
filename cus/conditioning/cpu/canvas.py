"""Target pictures painted on the CPU, the finer resolution over the coarser (Eq. 4).

Semantics match `cus.conditioning.canvas.Canvas`: painting fills holes and never changes filled pixels.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from cus.conditioning.cpu.warp import EMPTY, winner
from cus.conditioning.reliability import EDGE_THRESHOLD

_EDGE, _SAME = np.float32(EDGE_THRESHOLD), np.float32(1 + EDGE_THRESHOLD)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
# Values of a cell that the enlargement reads; a cell with depth 0 is empty.
_DEPTH, _X, _Y, _INVERSE, _RED, _GREEN, _BLUE = range(7)
_FIELDS = 8
_AROUND = 9


class Canvas(NamedTuple):
    """A picture being painted.

    Attributes:
        image: RGB [3, H, W] float32, 0 in holes.
        mask: [H, W] bool, False in holes.
        depths: Z-depth in the target [H, W] float32, 0 in holes.
    """

    image: np.ndarray
    mask: np.ndarray
    depths: np.ndarray

    @property
    def complete(self) -> bool:
        """Whether there are no holes left."""
        return bool(self.mask.all())


@njit(cache=True, nogil=True)
def put(canvas, keys, points, colors, own_colors, limits):  # pragma: no cover - compiled
    """Fill holes with the points of a z-buffer, one pixel each.

    Args:
        canvas: the canvas to paint on.
        keys: [H, W] z-buffer.
        points: positions of the points in the target.
        colors: [N, 3] colours of the points, or [H * W, 3] of the pixels.
        own_colors: whether `colors` holds one colour per point rather than per pixel.
        limits: [H, W] largest depth each pixel accepts.
    """
    height, width = keys.shape
    for row in range(height):
        for column in range(width):
            key = keys[row, column]
            if key == EMPTY or canvas.mask[row, column]:
                continue
            point = winner(key)
            z = points.depths[point]
            if not z <= limits[row, column]:
                continue
            color = colors[point if own_colors else row * width + column]
            for channel in range(3):
                canvas.image[channel, row, column] = color[channel]
            canvas.depths[row, column] = z
            canvas.mask[row, column] = True


@njit(cache=True, nogil=True, error_model="numpy")
def surface_means(keys, points, chosen, colors, means):  # pragma: no cover - compiled
    """Fill `means` [H * W, 3] with the mean colour of the chosen points on the nearest surface in each pixel."""
    keys = keys.ravel()
    means[:] = _ZERO
    counts = np.zeros(len(keys), dtype=np.float32)
    for point in range(len(chosen)):
        pixel = points.pixels[point]
        if pixel < 0 or not chosen[point]:
            continue
        if points.depths[point] <= _SAME * points.depths[winner(keys[pixel])]:
            for channel in range(3):
                means[pixel, channel] += colors[point, channel]
            counts[pixel] += _ONE
    for pixel in range(len(counts)):
        for channel in range(3):
            means[pixel, channel] /= max(counts[pixel], _ONE)


@njit(cache=True, nogil=True)
def cells_of(level, points, colors):  # pragma: no cover - compiled
    """A level's z-buffer [h, w] unpacked for the enlargement: [h + 2, w + 2, 8], with a border of empty cells."""
    height, width = level.shape
    cells = np.zeros((height + 2, width + 2, _FIELDS), dtype=np.float32)
    for row in range(height):
        for column in range(width):
            key = level[row, column]
            if key != EMPTY:
                point = winner(key)
                cell = cells[row + 1, column + 1]
                cell[_DEPTH], cell[_X], cell[_Y] = points.depths[point], points.x[point], points.y[point]
                cell[_INVERSE] = _ONE / points.depths[point]
                cell[_RED], cell[_GREEN], cell[_BLUE] = colors[point, 0], colors[point, 1], colors[point, 2]
    return cells


@njit(cache=True, nogil=True, error_model="numpy")
def enlarge(canvas, cells, scale, limits):  # pragma: no cover - compiled
    """Fill holes with the cells of a `scale` times lower resolution, enlarged mask-aware.

    A pixel is the mean of those points in its cell and the eight cells around it that lie on the same surface, weighted
    by a tent one cell wide to each side of each point's position.
    """
    height, width = canvas.mask.shape
    near = np.empty((_AROUND, _FIELDS), dtype=np.float32)
    for row in range(cells.shape[0] - 2):
        bottom = min(row * scale + scale, height)
        for column in range(cells.shape[1] - 2):
            if cells[row + 1, column + 1, _DEPTH] == _ZERO:
                continue
            right = min(column * scale + scale, width)
            count = -1
            for i in range(row * scale, bottom):
                for j in range(column * scale, right):
                    if canvas.mask[i, j]:
                        continue
                    if count < 0:
                        count = _same_surface(cells, row, column, near)
                    _blend(canvas, near, count, i, j, _ONE / np.float32(scale), limits[i, j])


@njit(cache=True, nogil=True)
def _same_surface(cells, row, column, near):  # pragma: no cover - compiled
    """Copy the cells around (row, column), itself included, that show its surface to `near`; return their number."""
    own = cells[row + 1, column + 1, _DEPTH]
    count = 0
    for i in range(row, row + 3):
        for j in range(column, column + 3):
            z = cells[i, j, _DEPTH]
            if z > _ZERO and abs(z - own) <= _EDGE * min(z, own):
                for field in range(_FIELDS):
                    near[count, field] = cells[i, j, field]
                count += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _blend(canvas, near, count, row, column, inverse_scale, limit):  # pragma: no cover - compiled
    """Paint one pixel with the weighted mean of the first `count` cells of `near`, unless it lies behind the limit."""
    x, y = np.float32(column) + _HALF, np.float32(row) + _HALF
    weights, inverse, red, green, blue = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    for k in range(count):
        wx = max(_ONE - abs(x - near[k, _X]) * inverse_scale, _ZERO)
        wy = max(_ONE - abs(y - near[k, _Y]) * inverse_scale, _ZERO)
        weight = wx * wy
        weights += weight
        inverse += weight * near[k, _INVERSE]  # planes are linear in it
        red += weight * near[k, _RED]
        green += weight * near[k, _GREEN]
        blue += weight * near[k, _BLUE]
    z = weights / inverse
    if not z <= limit:
        return
    canvas.image[0, row, column] = red / weights
    canvas.image[1, row, column] = green / weights
    canvas.image[2, row, column] = blue / weights
    canvas.depths[row, column] = z
    canvas.mask[row, column] = True


@njit(cache=True, nogil=True)
def keep_nearer(canvas, other):  # pragma: no cover - compiled
    """Take from another canvas the pixels whose surface is nearer, and clear that canvas."""
    height, width = canvas.mask.shape
    for row in range(height):
        for column in range(width):
            if not other.mask[row, column]:
                continue
            if not canvas.mask[row, column] or other.depths[row, column] < canvas.depths[row, column]:
                for channel in range(3):
                    canvas.image[channel, row, column] = other.image[channel, row, column]
                canvas.depths[row, column] = other.depths[row, column]
                canvas.mask[row, column] = True
            other.mask[row, column] = False
