"""References sampled backwards through a target's depth, on the CPU: `cus.conditioning.fused.blend` as kernels."""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.cpu.pixels import CHANNELS, interleave
from cus.conditioning.cpu.sampling import LANCZOS_TABLE, inverse_depth, lanczos
from cus.conditioning.fused.blend import DEPTH_DEVIATION, LEAST_ANGLE, PARALLAX_DEVIATION, UNSEEN, Layer
from cus.conditioning.fused.depth import LEAST_CONFIDENCE, SAME_SURFACE
from cus.conditioning.fused.mesh import CELL_OVERLAP, Surface
from cus.conditioning.fused.views import Placement, View
from cus.kernels.simd import LANES, exp2_negative, extract, load, multiply_add, select, store
from cus.kernels.threads import in_pieces

_UNSEEN, _LEAST_ANGLE, _DEVIATION, _PARALLAX = UNSEEN, LEAST_ANGLE, DEPTH_DEVIATION, PARALLAX_DEVIATION
# Pixels by which a mesh reaches beyond its picture.
_RIM = CELL_OVERLAP
# exp(-x / 2) is 2 to the power of this times x.
_EXPONENT = np.float32(-0.5 * math.log2(math.e))
# Rows of a target whose part of a photograph is looked up at a time.
_BAND = 32
_SAME, _LEAST = np.float32(SAME_SURFACE), np.float32(LEAST_CONFIDENCE)


def fuse_depths_cpu(surfaces: list[Surface]) -> Tensor:
    """`cus.conditioning.fused.depth.fuse_depths` as a kernel: [H, W] float32."""
    inverse = torch.stack([surface.inverse for surface in surfaces]).numpy()
    reliable = torch.stack([surface.reliable for surface in surfaces]).numpy()
    fused = np.zeros(inverse.shape[1:], np.float32)
    confidences = torch.stack([surface.confidences for surface in surfaces]).numpy()
    _fuse(inverse, reliable, confidences, fused)
    return torch.from_numpy(fused)


@njit(cache=True, nogil=True, error_model="numpy")
def _fuse(inverse, reliable, confidences, fused):  # pragma: no cover - compiled
    views, height, width = inverse.shape
    for row in range(height):
        for column in range(width):
            any_reliable = False
            for r in range(views):
                any_reliable |= reliable[r, row, column] and inverse[r, row, column] > 0
            best = np.float32(0)
            for r in range(views):
                own = inverse[r, row, column]
                if not own > 0 or (any_reliable and not reliable[r, row, column]):
                    continue
                support = mean = np.float32(0)
                for s in range(views):
                    q = inverse[s, row, column]
                    if not q > 0 or (any_reliable and not reliable[s, row, column]):
                        continue
                    if abs(q - own) <= _SAME * max(q, own):
                        weight = max(confidences[s, row, column], _LEAST)
                        support += weight * weight
                        mean += weight * weight * q
                if support > best:
                    best = support
                    fused[row, column] = mean / support


def look_up_cpu(view: View, place: Placement, inverse: Tensor, on_threads: bool = False) -> Layer:
    """`cus.conditioning.fused.blend.look_up` as a kernel; everything is float32.

    With `on_threads`, all threads work on it: not for calls from one of several threads.
    """
    size = tuple(inverse.shape)
    colors = np.zeros((3, *size), np.float32)
    x, y, seen, weights, footprint = (np.zeros(size, np.float32) for _ in range(5))
    own = view.inverse_float.numpy()
    first, rest, shapes = view.packed
    scales = view.photo_scale
    matrices = place.M_back.numpy(), place.v_back.numpy(), place.rays.numpy(), place.center.numpy()
    gain = place.gain.numpy() * np.float32(1 / 255 if view.levels[0].dtype == torch.uint8 else 1)
    photo = first.numpy(), rest.numpy(), shapes, np.float32(scales[0]), np.float32(scales[1]), gain.astype(np.float32)
    scale, surface = math.sqrt(scales[0] * scales[1]), inverse.numpy()

    def work(start: int, end: int) -> None:
        rows = slice(_BAND * start, _BAND * end)
        places = x[rows], y[rows], weights[rows], footprint[rows]
        _look_up(surface[rows], rows.start, own, matrices, scale, *places, seen[rows])
        _sample(*places, *photo, LANCZOS_TABLE, colors[:, rows])

    bands = -(-size[0] // _BAND)
    if on_threads:
        in_pieces(work, bands)
    else:
        work(0, bands)
    return Layer(*(torch.from_numpy(found) for found in (colors, x, y, seen, weights, footprint)))


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up(inverse, first, own, matrices, scale, xs, ys, weights, footprints, seen):  # pragma: no cover - compiled
    """Fill in all of a layer but its colours, for the target's rows from `first` on."""
    height, width = inverse.shape
    padded = -(-width // LANES) * LANES
    nearness, reach, known, weight = (
        np.zeros(padded, np.float32),
        np.zeros(padded, np.float32),
        np.zeros(padded, np.float32),
        np.zeros(padded, np.float32),
    )
    for row in range(height):
        line = inverse[row], first + row + 0.5, np.float64(own.shape[0]), np.float64(own.shape[1])
        _place(line, matrices, scale, xs[row], ys[row], footprints[row], nearness, reach, weight)
        for column in range(width):
            known[column] = inverse_depth(own, xs[row, column], ys[row, column])
        _weigh(nearness, reach, known, weight)
        seen[row] = known[:width]
        weights[row] = weight[:width]


# One loop without a branch or a function of the mathematical library, which the compiler turns into vectors.
@njit(cache=True, nogil=True, error_model="numpy")
def _place(line, matrices, scale, xs, ys, footprints, nearness, reach, weights):  # pragma: no cover - compiled
    """Where a row of the target lies in the reference; zeros for pixels that do not.

    Args:
        line: the row's 1 / z [W], its y, and the reference's height and width in pixels.
        matrices: M and v from the target into the reference, the target's rays, the reference's centre (`Placement`).
        scale: photograph pixels per pixel of the working size.
        xs: [W] receives the positions.
        ys: [W] receives the positions.
        footprints: [W] receives the footprints.
        nearness: [W] receives 1 / z in the reference.
        reach: [W] receives the deviations of the depth, in standard deviations, per relative error.
        weights: [W] receives the weights of surfaces that are seen.
    """
    inverse, py, h, w = line
    M, v, rays, center = matrices
    # Scalars stay in registers; elements of arrays are read again after each write.
    m00, m10, m20 = M[0, 0], M[1, 0], M[2, 0]
    m01, m11, m21 = M[0, 1], M[1, 1], M[2, 1]
    a, b, c = m01 * py + M[0, 2], m11 * py + M[1, 2], m21 * py + M[2, 2]
    v0, v1, v2 = v[0], v[1], v[2]
    r0, r1, r2 = rays[0, 0], rays[1, 0], rays[2, 0]
    s0, s1, s2 = (
        rays[0, 1] * py + rays[0, 2],
        rays[1, 1] * py + rays[1, 2],
        rays[2, 1] * py + rays[2, 2],
    )
    c0, c1, c2 = center[0], center[1], center[2]
    for column in range(len(inverse)):
        px, q = column + 0.5, np.float64(inverse[column])
        far = m20 * px + c + v2 * q  # the depth there, times q
        per = 1 / far
        x, y = (m00 * px + a + v0 * q) * per, (m10 * px + b + v1 * q) * per
        inside = (q > 0) & (far > 1e-9 * q) & (x >= -_RIM) & (x <= w + _RIM) & (y >= -_RIM) & (y <= h + _RIM)
        x, y = min(max(x, 0.0), w), min(max(y, 0.0), h)
        xs[column], ys[column] = np.float32(x if inside else 0.0), np.float32(y if inside else 0.0)
        nearness[column] = np.float32(q * per if inside else 0.0)
        along_x, along_y = v0 - x * v2, v1 - y * v2
        along = math.sqrt(along_x * along_x + along_y * along_y) * (q * per)
        reach[column] = np.float32(min(along * (1 / _PARALLAX), 1 / _DEVIATION))
        du_dx, du_dy = m00 - x * m20, m01 - x * m21
        dv_dx, dv_dy = m10 - y * m20, m11 - y * m21
        side = math.sqrt(abs(du_dx * dv_dy - du_dy * dv_dx)) * per * scale
        footprints[column] = np.float32(side if inside else 0.0)
        # The rays from the surface to both cameras, times q.
        x0, x1, x2 = r0 * px + s0, r1 * px + s1, r2 * px + s2
        degrees = _angle(x0, x1, x2, q * c0 - x0, q * c1 - x1, q * c2 - x2)
        weights[column] = np.float32(1 / (degrees + _LEAST_ANGLE) if inside else 0.0)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _angle(x, y, z, a, b, c):  # pragma: no cover - compiled
    """Angle in degrees between the vectors -(x, y, z) and (a, b, c)."""
    norms = math.sqrt((x * x + y * y + z * z) * (a * a + b * b + c * c))
    cosine = -(x * a + y * b + z * c) / max(norms, 1e-30)
    # Abramowitz and Stegun 4.4.45: within 7e-5 of the arc cosine, at a fraction of its cost.
    t = min(abs(cosine), 1.0)
    angle = math.sqrt(1 - t) * (1.5707288 + t * (-0.2121144 + t * (0.0742610 - 0.0187293 * t)))
    return (angle if cosine >= 0 else math.pi - angle) * (180 / math.pi)


@njit(cache=True, nogil=True, error_model="numpy")
def _weigh(nearness, reach, known, weights):  # pragma: no cover - compiled
    """Turn `known`, the reference's own 1 / z, into how well that agrees, and multiply the weights accordingly."""
    for column in range(0, len(weights), LANES):
        own, weight = load(known, column), load(weights, column)
        error = select(own > np.float32(0), load(nearness, column) / own - np.float32(1), np.float32(1))
        deviation = error * load(reach, column)
        agrees = exp2_negative(deviation * deviation * _EXPONENT)
        agrees = select(weight > np.float32(0), agrees, np.float32(0))
        store(known, column, agrees)
        store(weights, column, weight * (agrees + np.float32(_UNSEEN)))


@njit(cache=True, nogil=True, error_model="numpy")
def _sample(
    xs, ys, weights, footprints, first, rest, shapes, scale_x, scale_y, gain, table, colors
):  # pragma: no cover - compiled
    """Fill in a layer's colours, some rows at a time: the memory is that of the photograph's part that they show."""
    height, width = xs.shape
    levels = np.empty((_BAND, width), np.float32)
    for top in range(0, height, _BAND):
        rows = slice(top, min(top + _BAND, height))
        shown = xs[rows], ys[rows], weights[rows]
        bounds = _bounds(*shown, footprints[rows], scale_x, scale_y, len(shapes), levels)
        part, boxes = _parts(first, rest, shapes, bounds)
        _sample_parts(*shown, levels, scale_x, scale_y, gain, table, part, boxes, colors[:, rows])


@njit(cache=True, nogil=True, error_model="numpy")
def _bounds(xs, ys, weights, footprints, scale_x, scale_y, count, levels):  # pragma: no cover - compiled
    """Fill in the levels to sample; bounds in pixels of level 0 of what is sampled of each level.

    Returns:
        [count, 4] left, top, right, bottom; left > right where there is nothing.
    """
    bounds = np.empty((count, 4), np.float32)
    bounds[:, :2], bounds[:, 2:] = np.inf, -np.inf
    most = np.float32(count - 1)
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            if not weights[row, column] > 0:
                continue
            x, y, side = xs[row, column] * scale_x, ys[row, column] * scale_y, footprints[row, column]
            level = min(np.float32(math.log2(side)), most) if side > 1 else np.float32(0)
            levels[row, column] = level
            own = bounds[int(level)]
            own[0], own[1] = min(own[0], x), min(own[1], y)
            own[2], own[3] = max(own[2], x), max(own[3], y)
    # Between two levels both are sampled.
    for level in range(count - 1, 0, -1):
        bounds[level, :2] = np.minimum(bounds[level, :2], bounds[level - 1, :2])
        bounds[level, 2:] = np.maximum(bounds[level, 2:], bounds[level - 1, 2:])
    return bounds


@njit(cache=True, nogil=True, error_model="numpy")
def _parts(first, rest, shapes, bounds):  # pragma: no cover - compiled
    """The parts of all levels within bounds, and [levels, 4] the start of each, its left, top and width."""
    boxes = np.zeros((len(shapes), 4), np.int64)
    heights = np.zeros(len(shapes), np.int64)
    total = 0
    for level in range(len(shapes)):
        size = np.float32(0.5**level)
        if bounds[level, 0] > bounds[level, 2]:
            continue
        # Lanczos3 reaches two pixels back and three ahead of the one whose centre is before the point.
        left, top = int(bounds[level, 0] * size) - 3, int(bounds[level, 1] * size) - 3
        width = int(bounds[level, 2] * size) + 4 - left
        heights[level] = int(bounds[level, 3] * size) + 4 - top
        boxes[level] = total, left, top, width
        total += CHANNELS * width * heights[level]
    part = np.empty(total + LANES, first.dtype)
    part[total:] = 0
    for level in range(len(shapes)):
        offset, h, w = shapes[level]
        start, left, top, width = boxes[level]
        planes = first if level == 0 else rest
        interleave(planes, offset, h, w, left, top, part, start, heights[level], width)
    return part, boxes


@njit(cache=True, nogil=True, error_model="numpy")
def _sample_parts(
    xs, ys, weights, levels, scale_x, scale_y, gain, table, part, boxes, colors
):  # pragma: no cover - compiled
    red, green, blue = gain
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            if not weights[row, column] > 0:
                continue
            x, y, level = xs[row, column] * scale_x, ys[row, column] * scale_y, levels[row, column]
            lower = int(level)
            share = level - np.float32(lower)
            found = _sample_level(part, boxes, lower, x, y, table)
            if share > 0:
                found = multiply_add(_sample_level(part, boxes, lower + 1, x, y, table) - found, share, found)
            colors[0, row, column] = extract(found, 0) * red
            colors[1, row, column] = extract(found, 1) * green
            colors[2, row, column] = extract(found, 2) * blue


@njit(cache=True, nogil=True, error_model="numpy")
def _sample_level(part, boxes, level, x, y, table):  # pragma: no cover - compiled
    size = np.float32(1) / np.float32(np.int32(1) << np.int32(level))
    x, y = x * size - np.float32(boxes[level, 1]), y * size - np.float32(boxes[level, 2])
    return lanczos(part, boxes[level, 0], boxes[level, 3], x, y, table)
