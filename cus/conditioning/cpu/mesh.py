"""A depth map drawn as a mesh into another camera, on the CPU; semantics match `cus.conditioning.fused.mesh`."""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.fused.mesh import CELL_OVERLAP, CELL_REACH, NEAR, SLACK, Surface
from cus.conditioning.reliability import EDGE_THRESHOLD

_EDGE, _SLACK = EDGE_THRESHOLD, SLACK
_OUT, _IN = CELL_REACH + CELL_OVERLAP, CELL_OVERLAP


def rasterise_cpu(
    depths: Tensor,
    confidences: Tensor,
    reliable: Tensor,
    slopes: tuple[Tensor, Tensor],
    M: Tensor,
    v: Tensor,
    size: tuple[int, int],
    limits: Tensor | None = None,
) -> Surface:
    """`cus.conditioning.fused.mesh.rasterise` as a kernel, in float32 except for the geometry."""
    inverse, confidence = (np.zeros(size, np.float32) for _ in range(2))
    trusted = np.zeros(size, np.bool_)
    bounds = np.full((1, 1), np.inf, np.float32) if limits is None else limits.numpy()
    maps = depths.numpy(), confidences.numpy(), reliable.numpy(), slopes[0].numpy(), slopes[1].numpy()
    _rasterise(*maps, M.numpy(), v.numpy(), bounds, inverse, confidence, trusted)
    return Surface(*(torch.from_numpy(found) for found in (inverse, confidence, trusted)))


@njit(cache=True, nogil=True, error_model="numpy")
def _rasterise(depths, confidences, reliable, right, down, M, v, limits, Q, C, R):  # pragma: no cover - compiled
    h, w = depths.shape
    height, width = Q.shape
    # Vertices of two rows, used alternately: x, y and 1 / z in the target, 1 / z in the reference.
    x, y, q, own = np.zeros((2, w)), np.zeros((2, w)), np.zeros((2, w)), np.zeros((2, w))
    smooth, drawn = np.zeros((h + 1, w + 1), np.bool_), np.zeros(w, np.bool_)
    corners = np.zeros((4, 4))
    for i in range(h):
        above, below = (i + 1) % 2, i % 2
        _vertices(depths[i], i + 0.5, M, v, x[below], y[below], q[below], own[below])
        if i == 0:
            continue
        _smooth(depths[i - 1], depths[i], smooth[i])
        if not _visible(x[above], x[below], y[above], y[below], smooth[i], height, width, drawn):
            continue
        for j in range(w - 1):
            if drawn[j]:
                for k in range(4):
                    row, column = (below if k > 1 else above), j + k % 2
                    corners[k, 0], corners[k, 1], corners[k, 2] = x[row, column], y[row, column], q[row, column]
                    corners[k, 3] = confidences[i - 1 + k // 2, column]
                trusted = reliable[i - 1, j] and reliable[i - 1, j + 1] and reliable[i, j] and reliable[i, j + 1]
                # Split along the flatter diagonal of the reference's own 1 / z.
                falling = abs(own[above, j] - own[below, j + 1]) <= abs(own[above, j + 1] - own[below, j])
                _quad(corners, falling, trusted, limits, Q, C, R)
    for i in range(h):
        for j in range(w):
            if smooth[i, j] and smooth[i, j + 1] and smooth[i + 1, j] and smooth[i + 1, j + 1]:
                continue
            if depths[i, j] > 0:
                around = smooth[i : i + 2, j : j + 2]
                slopes = right[i, j], down[i, j]
                pixel = np.float64(depths[i, j]), confidences[i, j], reliable[i, j]
                _border(i, j, pixel, around, slopes, M, v, limits, corners, Q, C, R)


@njit(cache=True, nogil=True, error_model="numpy")
def _border(i, j, pixel, around, slopes, M, v, limits, corners, Q, C, R):  # pragma: no cover - compiled
    """Draw a pixel's own share, a quarter of a cell, of the cells at its corners that are not meshed.

    Args:
        i: row of the pixel.
        j: column of the pixel.
        pixel: its depth, confidence and whether it is reliable.
        around: [2, 2] bool, whether the cells at its corners are meshed.
        slopes: of 1 / z, along the row and down the column.
        M: maps the reference's pixels to the target's, as v.
        v: as M.
        limits: [H, W] largest depths of reliable surfaces, [1, 1] for none.
        corners: [4, 4] scratch space.
        Q: [H, W] receives 1 / z, as C the confidences and R whether the surface is reliable.
        C: as Q.
        R: as Q.
    """
    z, confidence, trusted = pixel
    for k in range(4):
        dy, dx = k // 2, k % 2
        if around[dy, dx]:
            continue
        for m in range(4):
            step_x = _OUT if m % 2 else -_IN
            step_y = _OUT if m // 2 else -_IN
            if dx == 0:
                step_x = -step_x
            if dy == 0:
                step_y = -step_y
            moved = max(1 / z + slopes[0] * step_x + slopes[1] * step_y, 0.5 / z)
            x, y, q = _vertex(j + 0.5 + step_x, i + 0.5 + step_y, moved, M, v)
            corners[m, 0], corners[m, 1], corners[m, 2], corners[m, 3] = x, y, q, confidence
        _quad(corners, True, trusted, limits, Q, C, R)


@njit(cache=True, nogil=True, error_model="numpy")
def _vertex(x, y, q, M, v):  # pragma: no cover - compiled
    """(x, y, 1 / z) in the target of a point with 1 / z = q in the reference; 1 / z is 0 behind the target."""
    s = M[2, 0] * x + M[2, 1] * y + M[2, 2] + v[2] * q
    if not s > NEAR:
        return 0.0, 0.0, 0.0
    along, down = M[0, 0] * x + M[0, 1] * y + M[0, 2] + v[0] * q, M[1, 0] * x + M[1, 1] * y + M[1, 2] + v[1] * q
    return along / s, down / s, q / s


# The following three loops have no branches, so the compiler turns them into vectors.
@njit(cache=True, nogil=True, error_model="numpy")
def _vertices(depths, y, M, v, xs, ys, qs, own):  # pragma: no cover - compiled
    """Fill in a row's vertices [w], as `_vertex`, and its own 1 / z; 1 / z is 0 for those without depth."""
    m00, m01, m02, v0 = M[0, 0], M[0, 1], M[0, 2], v[0]
    m10, m11, m12, v1 = M[1, 0], M[1, 1], M[1, 2], v[1]
    m20, m21, m22, v2 = M[2, 0], M[2, 1], M[2, 2], v[2]
    for j in range(len(depths)):
        x, z = j + 0.5, np.float64(depths[j])
        q = 1 / z if z > 0 else 0.0
        s = m20 * x + m21 * y + m22 + v2 * q
        shown = (q > 0) & (s > NEAR)
        xs[j] = (m00 * x + m01 * y + m02 + v0 * q) / s
        ys[j] = (m10 * x + m11 * y + m12 + v1 * q) / s
        qs[j] = q / s if shown else 0.0
        own[j] = q


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth(above, below, smooth):  # pragma: no cover - compiled
    """Fill in whether the depths at a cell's corners lie on one surface; a row's cells j at `smooth[j + 1]`."""
    for j in range(len(above) - 1):
        a, b, c, d = above[j], above[j + 1], below[j], below[j + 1]
        least, most = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
        smooth[j + 1] = (least > 0) & (np.float64(most) - np.float64(least) <= _EDGE * np.float64(least))


@njit(cache=True, nogil=True, error_model="numpy")
def _visible(x0, x1, y0, y1, smooth, height, width, drawn):  # pragma: no cover - compiled
    """Fill in which of a row's smooth cells do not lie beyond one side of the target; return whether any."""
    right, bottom = width - 0.5, height - 0.5
    count = 0
    for j in range(len(drawn) - 1):
        a, b, c, d = x0[j], x0[j + 1], x1[j], x1[j + 1]
        e, f, g, k = y0[j], y0[j + 1], y1[j], y1[j + 1]
        beyond = (
            ((a < 0.5) & (b < 0.5) & (c < 0.5) & (d < 0.5))
            | ((a > right) & (b > right) & (c > right) & (d > right))
            | ((e < 0.5) & (f < 0.5) & (g < 0.5) & (k < 0.5))
            | ((e > bottom) & (f > bottom) & (g > bottom) & (k > bottom))
        )
        drawn[j] = smooth[j + 1] & (not beyond)
        count += drawn[j]
    return count > 0


@njit(cache=True, nogil=True, error_model="numpy")
def _quad(corners, falling, trusted, limits, Q, C, R):  # pragma: no cover - compiled
    """Draw two triangles of the corners (x, y, 1 / z, confidence), row by row, that share a falling or rising edge."""
    for half in range(2):
        # Corners 0 1 3 and 0 3 2, or 0 1 2 and 1 3 2.
        a = 0 if falling or half == 0 else 1
        b = 1 if half == 0 else 3
        c = 2 if half == 1 or not falling else 3
        _triangle(corners, a, b, c, trusted, limits, Q, C, R)


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _triangle(corners, a, b, c, trusted, limits, Q, C, R):  # pragma: no cover - compiled
    x0, y0, q0, c0 = corners[a, 0], corners[a, 1], corners[a, 2], corners[a, 3]
    x1, y1, q1, c1 = corners[b, 0], corners[b, 1], corners[b, 2], corners[b, 3]
    x2, y2, q2, c2 = corners[c, 0], corners[c, 1], corners[c, 2], corners[c, 3]
    if not (q0 > 0 and q1 > 0 and q2 > 0):
        return
    H, W = Q.shape
    low_y, high_y = min(y0, min(y1, y2)), max(y0, max(y1, y2))
    low_x, high_x = min(x0, min(x1, x2)), max(x0, max(x1, x2))
    left, last = int(max(math.ceil(low_x - 0.5), 0.0)), int(min(math.floor(high_x - 0.5), W - 1.0))
    top, bottom = int(max(math.ceil(low_y - 0.5), 0.0)), int(min(math.floor(high_y - 0.5), H - 1.0))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if left > last or top > bottom or abs(area) < 1e-9:
        return
    limited = limits.shape[0] > 1
    scale = 1 / area
    # Barycentric coordinates are linear along a row.
    step_1, step_2 = (y2 - y0) * scale, -(y1 - y0) * scale
    for row in range(top, bottom + 1):
        py = row + 0.5
        start_1 = -(x2 - x0) * (py - y0) * scale
        start_2 = (x1 - x0) * (py - y0) * scale
        for column in range(left, last + 1):
            along = column + 0.5 - x0
            b1, b2 = start_1 + along * step_1, start_2 + along * step_2
            b0 = 1 - b1 - b2
            if min(b0, min(b1, b2)) < -_SLACK:
                continue
            q = b0 * q0 + b1 * q1 + b2 * q2
            if limited and trusted and q * limits[row, column] < 1:
                continue
            if (trusted and not R[row, column]) or (trusted == R[row, column] and q > Q[row, column]):
                Q[row, column] = q
                C[row, column] = b0 * c0 + b1 * c1 + b2 * c2
                R[row, column] = trusted
