"""References sampled backwards through a target's depth, on the CPU: `cus.conditioning.fused.blend` as kernels."""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.cpu.sampling import LANCZOS_TABLE, inverse_depth, lanczos
from cus.conditioning.fused.blend import DEPTH_DEVIATION, LEAST_ANGLE, PARALLAX_DEVIATION, UNSEEN, Layer
from cus.conditioning.fused.depth import LEAST_CONFIDENCE, SAME_SURFACE
from cus.conditioning.fused.mesh import Surface
from cus.conditioning.fused.views import Placement, View

_UNSEEN, _LEAST_ANGLE, _DEVIATION, _PARALLAX = UNSEEN, LEAST_ANGLE, DEPTH_DEVIATION, PARALLAX_DEVIATION
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


def look_up_cpu(view: View, place: Placement, inverse: Tensor) -> Layer:
    """`cus.conditioning.fused.blend.look_up` as a kernel; everything is float32."""
    size = tuple(inverse.shape)
    colors = np.zeros((3, *size), np.float32)
    x, y, seen, weights, footprint = (np.zeros(size, np.float32) for _ in range(5))
    own = view.inverse_float.numpy()
    first, rest, shapes = view.packed
    scale_x, scale_y = view.photo_scale
    matrices = place.M_back.numpy(), place.v_back.numpy(), place.rays.numpy(), place.center.numpy()
    gain = place.gain.numpy() * np.float32(1 / 255 if view.levels[0].dtype == torch.uint8 else 1)
    photo = first.numpy(), rest.numpy(), shapes, scale_x, scale_y, gain.astype(np.float32)
    _look_up(inverse.numpy(), own, *matrices, *photo, LANCZOS_TABLE, colors, x, y, seen, weights, footprint)
    return Layer(*(torch.from_numpy(found) for found in (colors, x, y, seen, weights, footprint)))


@njit(cache=True, nogil=True, error_model="numpy")
def _look_up(
    inverse, own, M, v, rays, center, first, rest, shapes, scale_x, scale_y, gain, table,
    colors, xs, ys, seen, weights, footprints,
):  # pragma: no cover - compiled  # fmt: skip
    height, width = inverse.shape
    h, w = own.shape
    near, far_color = np.empty(3, np.float32), np.empty(3, np.float32)
    scale = math.sqrt(scale_x * scale_y)
    for row in range(height):
        for column in range(width):
            q = np.float64(inverse[row, column])
            if not q > 0:
                continue
            px, py, z = column + 0.5, row + 0.5, 1 / q
            s = z * (M[2, 0] * px + M[2, 1] * py + M[2, 2]) + v[2]
            if s <= 1e-9:
                continue
            x = (z * (M[0, 0] * px + M[0, 1] * py + M[0, 2]) + v[0]) / s
            y = (z * (M[1, 0] * px + M[1, 1] * py + M[1, 2]) + v[1]) / s
            if not (x >= 0 and x <= w and y >= 0 and y <= h):
                continue
            xs[row, column], ys[row, column] = x, y
            known = np.float64(inverse_depth(own, np.float32(x), np.float32(y)))
            error = (1 / s - known) / known if known > 0 else 1.0
            along_x, along_y = v[0] - x * v[2], v[1] - y * v[2]
            along = math.sqrt(along_x * along_x + along_y * along_y) / s
            error *= min(along / _PARALLAX, 1 / _DEVIATION)
            agrees = math.exp(-0.5 * error * error) if abs(error) < 8 else 0.0
            seen[row, column] = agrees
            weights[row, column] = (agrees + _UNSEEN) / (_angle(px, py, z, rays, center) + _LEAST_ANGLE)
            du_dx, du_dy = M[0, 0] - x * M[2, 0], M[0, 1] - x * M[2, 1]
            dv_dx, dv_dy = M[1, 0] - y * M[2, 0], M[1, 1] - y * M[2, 1]
            side = math.sqrt(abs(du_dx * dv_dy - du_dy * dv_dx)) * z / s * scale
            footprints[row, column] = side
            level = min(math.log2(side), len(shapes) - 1.0) if side > 1 else 0.0
            lower = int(level)
            _level(first, rest, shapes, lower, x * scale_x, y * scale_y, table, near)
            share = np.float32(level - lower)
            if share > 0:
                _level(first, rest, shapes, lower + 1, x * scale_x, y * scale_y, table, far_color)
                for k in range(3):
                    near[k] += share * (far_color[k] - near[k])
            for k in range(3):
                colors[k, row, column] = near[k] * gain[k]


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _level(first, rest, shapes, level, x, y, table, into):  # pragma: no cover - compiled
    size = 0.5**level
    if level == 0:
        lanczos(first, 0, shapes[0, 1], shapes[0, 2], np.float32(x), np.float32(y), table, into)
    else:
        offset, h, w = shapes[level, 0], shapes[level, 1], shapes[level, 2]
        lanczos(rest, offset, h, w, np.float32(x * size), np.float32(y * size), table, into)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _angle(px, py, z, rays, center):  # pragma: no cover - compiled
    """Angle in degrees between the rays from a target pixel's point to the target and to the reference."""
    x = z * (rays[0, 0] * px + rays[0, 1] * py + rays[0, 2])
    y = z * (rays[1, 0] * px + rays[1, 1] * py + rays[1, 2])
    far = z * (rays[2, 0] * px + rays[2, 1] * py + rays[2, 2])
    a, b, c = center[0] - x, center[1] - y, center[2] - far
    norms = math.sqrt((x * x + y * y + far * far) * (a * a + b * b + c * c))
    cosine = -(x * a + y * b + far * c) / max(norms, 1e-12)
    # Abramowitz and Stegun 4.4.45: within 7e-5 of the arc cosine, at a fraction of its cost.
    t = min(abs(cosine), 1.0)
    angle = math.sqrt(1 - t) * (1.5707288 + t * (-0.2121144 + t * (0.0742610 - 0.0187293 * t)))
    return math.degrees(angle if cosine >= 0 else math.pi - angle)
