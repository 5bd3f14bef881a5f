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
    # Two rows of vertices (x, y, 1 / z, confidence), used alternately, and the four corners of a cell.
    vertices = np.zeros((2 * w + 4, 4))
    cell = 2 * w
    smooth = np.zeros((h + 1, w + 1), np.bool_)
    for i in range(h):
        above, below = ((i + 1) % 2) * w, (i % 2) * w
        for j in range(w):
            _vertex(j + 0.5, i + 0.5, np.float64(depths[i, j]), M, v, vertices, below + j)
            vertices[below + j, 3] = confidences[i, j]
        if i == 0:
            continue
        for j in range(w - 1):
            if not _is_smooth(depths, i - 1, j):
                continue
            smooth[i, j + 1] = True
            a, b, c, d = above + j, above + j + 1, below + j, below + j + 1
            if _outside(vertices, a, b, c, d, Q.shape[0], Q.shape[1]):
                continue
            trusted = reliable[i - 1, j] and reliable[i - 1, j + 1] and reliable[i, j] and reliable[i, j + 1]
            # Split along the flatter diagonal of the reference's own 1 / z.
            falling = abs(1 / np.float64(depths[i - 1, j]) - 1 / np.float64(depths[i, j + 1])) <= abs(
                1 / np.float64(depths[i - 1, j + 1]) - 1 / np.float64(depths[i, j])
            )
            if falling:
                _triangle(vertices, a, b, d, trusted, limits, Q, C, R)
                _triangle(vertices, a, d, c, trusted, limits, Q, C, R)
            else:
                _triangle(vertices, a, b, c, trusted, limits, Q, C, R)
                _triangle(vertices, b, d, c, trusted, limits, Q, C, R)
    for i in range(h):
        for j in range(w):
            if not depths[i, j] > 0:
                continue
            if smooth[i, j] and smooth[i, j + 1] and smooth[i + 1, j] and smooth[i + 1, j + 1]:
                continue
            q = 1 / np.float64(depths[i, j])
            for k in range(4):
                dy, dx = k // 2, k % 2
                if smooth[i + dy, j + dx]:
                    continue
                for m in range(4):
                    step_x = _OUT if m % 2 else -_IN
                    step_y = _OUT if m // 2 else -_IN
                    if dx == 0:
                        step_x = -step_x
                    if dy == 0:
                        step_y = -step_y
                    moved = max(q + right[i, j] * step_x + down[i, j] * step_y, 0.5 * q)
                    _vertex(j + 0.5 + step_x, i + 0.5 + step_y, 1 / moved, M, v, vertices, cell + m)
                    vertices[cell + m, 3] = confidences[i, j]
                _triangle(vertices, cell, cell + 1, cell + 3, reliable[i, j], limits, Q, C, R)
                _triangle(vertices, cell, cell + 3, cell + 2, reliable[i, j], limits, Q, C, R)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _is_smooth(depths, i, j):  # pragma: no cover - compiled
    a, b, c, d = depths[i, j], depths[i, j + 1], depths[i + 1, j], depths[i + 1, j + 1]
    least, most = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
    return least > 0 and np.float64(most) - np.float64(least) <= _EDGE * np.float64(least)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _outside(vertices, a, b, c, d, height, width):  # pragma: no cover - compiled
    """Whether a cell lies beyond one side of the target."""
    x0, x1, x2, x3 = vertices[a, 0], vertices[b, 0], vertices[c, 0], vertices[d, 0]
    y0, y1, y2, y3 = vertices[a, 1], vertices[b, 1], vertices[c, 1], vertices[d, 1]
    return (
        max(max(x0, x1), max(x2, x3)) < 0.5
        or min(min(x0, x1), min(x2, x3)) > width - 0.5
        or max(max(y0, y1), max(y2, y3)) < 0.5
        or min(min(y0, y1), min(y2, y3)) > height - 0.5
    )


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _vertex(x, y, z, M, v, vertices, place):  # pragma: no cover - compiled
    """(x, y, 1 / z) in the target; 1 / z is 0 for vertices behind the target or without depth."""
    q = 1 / z if z > 0 else 0.0
    s = M[2, 0] * x + M[2, 1] * y + M[2, 2] + v[2] * q
    vertices[place, 2] = 0.0
    if q > 0 and s > NEAR:
        vertices[place, 0] = (M[0, 0] * x + M[0, 1] * y + M[0, 2] + v[0] * q) / s
        vertices[place, 1] = (M[1, 0] * x + M[1, 1] * y + M[1, 2] + v[1] * q) / s
        vertices[place, 2] = q / s


@njit(cache=True, nogil=True, error_model="numpy")
def _triangle(vertices, a, b, c, trusted, limits, Q, C, R):  # pragma: no cover - compiled
    x0, y0, q0 = vertices[a, 0], vertices[a, 1], vertices[a, 2]
    x1, y1, q1 = vertices[b, 0], vertices[b, 1], vertices[b, 2]
    x2, y2, q2 = vertices[c, 0], vertices[c, 1], vertices[c, 2]
    if not (q0 > 0 and q1 > 0 and q2 > 0):
        return
    H, W = Q.shape
    low_y, high_y = min(y0, min(y1, y2)), max(y0, max(y1, y2))
    low_x, high_x = min(x0, min(x1, x2)), max(x0, max(x1, x2))
    if high_x < 0.5 or low_x > W - 0.5 or high_y < 0.5 or low_y > H - 0.5:
        return
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if abs(area) < 1e-9:
        return
    left, last = int(max(math.ceil(low_x - 0.5), 0.0)), int(min(math.floor(high_x - 0.5), W - 1.0))
    top, bottom = int(max(math.ceil(low_y - 0.5), 0.0)), int(min(math.floor(high_y - 0.5), H - 1.0))
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
                C[row, column] = b0 * vertices[a, 3] + b1 * vertices[b, 3] + b2 * vertices[c, 3]
                R[row, column] = trusted
