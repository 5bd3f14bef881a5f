"""Projection of Gaussians for the CPU rasterizer, fused into one kernel forward and one backward.

The formulas and conventions are those of `cus.splats.projection`. The conic leaves in square-root form,

    sigma = (root (dx + slant dy))^2 + steep dy^2,
    root = sqrt(yy / (2 det)),  slant = -xy / yy,  steep = 1 / (2 yy)

with xx, xy, yy the 2D covariance and det its determinant: float32 holds a needle of a thousand pixels in it, whose
conic would lose its determinant. Arithmetic is in float64, which costs nothing beside the memory.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from cus.splats.cpu.threads import in_pieces
from cus.splats.projection import ALPHA_CUTOFF, FRUSTUM_MARGIN, MAX_EXTENT, ProjectionOptions

# Gaussians a piece of the backward pass: fixed, so that the sums over them do not depend on the number of threads.
_PIECE = 2048
LARGEST_RADIUS = 2**24
# The least ratio of determinants whose root is taken, as in float32.
TINY = 1.1754943508222875e-38


def project_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    options: ProjectionOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Project Gaussians into every camera; float32 on the CPU, differentiable in every tensor.

    Args:
        means: [N, 3].
        quats: [N, 4] wxyz.
        scales: [N, 3] linear.
        opacities: [N].
        viewmats: World-to-camera [C, 4, 4].
        Ks: [C, 3, 3] pixels, without skew.
        options: Size and limits.

    Returns:
        means2d [C, N, 2], forms [C, N, 3] (root, slant, steep), depths [C, N], opacities [C, N] as they are seen, radii
        [C, N, 2] (int32, 0 where culled).
    """
    return _Project.apply(means, quats, scales, opacities, viewmats, Ks, options)  # type: ignore[return-value]


def conics_from_forms(forms: Tensor) -> Tensor:
    """Upper triangles of the inverse 2D covariances [..., 3] from the square-root form [..., 3]."""
    root, slant, steep = forms.unbind(-1)
    xx = 2 * root * root
    xy = xx * slant
    return torch.stack([xx, xy, 2 * steep + xy * slant], dim=-1)


class Scene(NamedTuple):
    """N Gaussians, or gradients in them, float32: [N, 3], [N, 4], [N, 3], [N]."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray


class Views(NamedTuple):
    """C cameras, float64: [C, 4, 4], [C, 3, 3]; size, limits and smoothing as in `ProjectionOptions`."""

    viewmats: np.ndarray
    Ks: np.ndarray
    width: float
    height: float
    near: float
    far: float
    clip: float
    eps: float
    antialiased: bool


class Seen(NamedTuple):
    """Gaussians as the cameras see them, or gradients in that, float32: [C, N, 2], [C, N, 3], [C, N], [C, N]."""

    means2d: np.ndarray
    forms: np.ndarray
    depths: np.ndarray
    opacities: np.ndarray


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, viewmats, Ks, options: ProjectionOptions):
        scene = Scene(*(_array(tensor) for tensor in (means, quats, scales, opacities)))
        views = _views(viewmats, Ks, options)
        cameras, count = len(viewmats), len(means)
        seen = Seen(*(np.empty((cameras, count, *shape), dtype=np.float32) for shape in ((2,), (3,), (), ())))
        radii = np.empty((cameras, count, 2), dtype=np.int32)
        in_pieces(lambda a, b: _forward(scene, views, seen, radii, a, b), count)
        ctx.scene, ctx.views = scene, views
        tensors = [torch.from_numpy(output) for output in (*seen, radii)]
        ctx.mark_non_differentiable(tensors[-1])
        return tuple(tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):  # type: ignore[override]
        scene, views = ctx.scene, ctx.views
        upstream = Seen(*(_array(grad) for grad in grads[:4]))
        count, cameras = len(scene.means), len(views.viewmats)
        outputs = Scene(*(np.zeros_like(array) for array in scene))
        pieces = -(-count // _PIECE)
        # Of each piece: rotation and translation row by row, then fx, fy, cx, cy.
        camera_grads = np.zeros((pieces, cameras, 16))

        def work(first: int, last: int) -> None:
            for piece in range(first, last):
                start, end = piece * _PIECE, min((piece + 1) * _PIECE, count)
                _backward(scene, views, upstream, outputs, camera_grads[piece], start, end)

        in_pieces(work, pieces)
        summed = camera_grads.sum(axis=0)
        viewmat_grads = np.zeros(views.viewmats.shape, dtype=np.float32)
        viewmat_grads[:, :3] = summed[:, :12].reshape(-1, 3, 4)
        K_grads = np.zeros(views.Ks.shape, dtype=np.float32)
        for entry, (row, column) in enumerate(((0, 0), (1, 1), (0, 2), (1, 2)), start=12):
            K_grads[:, row, column] = summed[:, entry]
        return (*map(torch.from_numpy, [*outputs, viewmat_grads, K_grads]), None)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _views(viewmats: Tensor, Ks: Tensor, options: ProjectionOptions) -> Views:
    """Every number of one type, whatever the caller gave: kernels are compiled for types."""
    cameras = _array(viewmats).astype(np.float64), _array(Ks).astype(np.float64)
    o = options
    lengths = (o.width, o.height, o.near_plane, o.far_plane, o.radius_clip, o.eps2d)
    width, height, near, far, clip, eps = (float(length) for length in lengths)
    return Views(*cameras, width, height, near, far, clip, eps, bool(o.antialiased))


@njit(cache=True, nogil=True)
def _rotation(quats, i, R):  # pragma: no cover - compiled
    """Rotation matrix of the i-th quaternion into R; returns the normalised quaternion and its length."""
    w, x, y, z = np.float64(quats[i, 0]), np.float64(quats[i, 1]), np.float64(quats[i, 2]), np.float64(quats[i, 3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    R[0, 0], R[0, 1], R[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    R[1, 0], R[1, 1], R[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    R[2, 0], R[2, 1], R[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return w, x, y, z, length


@njit(cache=True, nogil=True)
def _half_axes(scales, i, R, axes):  # pragma: no cover - compiled
    """Columns of R times the scales: the world covariance is axes axes^T."""
    for row in range(3):
        for k in range(3):
            axes[row, k] = R[row, k] * np.float64(scales[i, k])


@njit(cache=True, nogil=True)
def _in_camera(V, means, i):  # pragma: no cover - compiled
    """Centre of the i-th Gaussian in camera coordinates."""
    a, b, c = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
    x = V[0, 0] * a + V[0, 1] * b + V[0, 2] * c + V[0, 3]
    y = V[1, 0] * a + V[1, 1] * b + V[1, 2] * c + V[1, 3]
    z = V[2, 0] * a + V[2, 1] * b + V[2, 2] * c + V[2, 3]
    return x, y, z


@njit(cache=True, nogil=True)
def _slope_limits(views):  # pragma: no cover - compiled
    """Least and greatest x / z and y / z at which each camera's Jacobian is taken [C, 2 axes, 2]."""
    limits, sizes = np.empty((len(views.Ks), 2, 2)), (views.width, views.height)
    for c in range(len(views.Ks)):
        for axis in range(2):
            focal, center = views.Ks[c, axis, axis], views.Ks[c, axis, 2]
            margin = FRUSTUM_MARGIN * 0.5 * sizes[axis]
            limits[c, axis, 0], limits[c, axis, 1] = (-center - margin) / focal, (sizes[axis] - center + margin) / focal
    return limits


@njit(cache=True, nogil=True)
def _limited(slope, limits):  # pragma: no cover - compiled
    """The slope at which the Jacobian is taken, and what limits it: -1 the lower bound, 1 the upper, 0 neither."""
    if slope < limits[0]:
        return limits[0], -1
    if slope > limits[1]:
        return limits[1], 1
    return slope, 0


@njit(cache=True, nogil=True)
def _footprint(V, axis, rate, slope, axes, jacobian, row):  # pragma: no cover - compiled
    """Gradient of a pixel coordinate in the world point, and that times the half axes."""
    for k in range(3):
        jacobian[k] = rate * (V[axis, k] - slope * V[2, k])
    for k in range(3):
        row[k] = jacobian[0] * axes[0, k] + jacobian[1] * axes[1, k] + jacobian[2] * axes[2, k]


@njit(cache=True, nogil=True)
def _covariance(u, v, cross, eps):  # pragma: no cover - compiled
    """xx, xy, yy and determinant after the low-pass, and the determinant before it; `cross` becomes u x v."""
    cross[0] = u[1] * v[2] - u[2] * v[1]
    cross[1] = u[2] * v[0] - u[0] * v[2]
    cross[2] = u[0] * v[1] - u[1] * v[0]
    xx, yy = u[0] * u[0] + u[1] * u[1] + u[2] * u[2], v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
    xy = u[0] * v[0] + u[1] * v[1] + u[2] * v[2]
    # A sum of squares (Cauchy-Binet), where xx yy - xy^2 would lose most digits for long thin Gaussians.
    sharp = cross[0] * cross[0] + cross[1] * cross[1] + cross[2] * cross[2]
    return xx + eps, xy, yy + eps, sharp + eps * (xx + yy + eps), sharp


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(scene, views, seen, radii, first, last):  # pragma: no cover - compiled
    means, quats, scales, viewmats, Ks = scene.means, scene.quats, scene.scales, views.viewmats, views.Ks
    width, height, near, far, eps = views.width, views.height, views.near, views.far, views.eps
    means2d, forms = seen.means2d, seen.forms
    limits = _slope_limits(views)
    R, axes, jacobian = np.empty((3, 3)), np.empty((3, 3)), np.empty(3)
    u, v, cross = np.empty(3), np.empty(3), np.empty(3)
    for i in range(first, last):
        _rotation(quats, i, R)
        _half_axes(scales, i, R, axes)
        for c in range(len(viewmats)):
            V, K = viewmats[c], Ks[c]
            x, y, depth = _in_camera(V, means, i)
            visible = near <= depth <= far
            # Culled Gaussians take part in the arithmetic at depth 1.
            nearness = 1.0 / depth if visible else 1.0
            mean_x, mean_y = K[0, 0] * x * nearness + K[0, 2], K[1, 1] * y * nearness + K[1, 2]
            slope_x, _ = _limited(x * nearness, limits[c, 0])
            slope_y, _ = _limited(y * nearness, limits[c, 1])
            _footprint(V, 0, K[0, 0] * nearness, slope_x, axes, jacobian, u)
            _footprint(V, 1, K[1, 1] * nearness, slope_y, axes, jacobian, v)
            xx, xy, yy, determinant, sharp = _covariance(u, v, cross, eps)
            visible = visible and determinant > 0
            opacity = np.float64(scene.opacities[i])
            if views.antialiased:
                opacity *= math.sqrt(max(sharp / determinant, TINY))
            means2d[c, i, 0], means2d[c, i, 1] = mean_x, mean_y
            forms[c, i, 0] = math.sqrt(0.5 * yy / determinant) if visible else 0.0
            forms[c, i, 1] = -xy / yy if visible else 0.0
            forms[c, i, 2] = 0.5 / yy if visible else 0.0
            seen.depths[c, i], seen.opacities[c, i] = depth, opacity
            extent = min(math.sqrt(2 * math.log(max(opacity / ALPHA_CUTOFF, 1.0))), MAX_EXTENT)
            radius_x, radius_y = math.ceil(extent * math.sqrt(xx)), math.ceil(extent * math.sqrt(yy))
            inside = mean_x + radius_x > 0 and mean_x - radius_x < width
            inside = inside and mean_y + radius_y > 0 and mean_y - radius_y < height
            keep = visible and inside and opacity >= ALPHA_CUTOFF and max(radius_x, radius_y) > views.clip
            # Beside the camera radii pass what an int32 holds; an image diagonal more is as good as infinite.
            radii[c, i, 0] = int(min(radius_x, LARGEST_RADIUS)) if keep else 0
            radii[c, i, 1] = int(min(radius_y, LARGEST_RADIUS)) if keep else 0


@njit(cache=True, nogil=True, error_model="numpy")
def _backward(scene, views, g_seen, g_scene, g_cameras, first, last):  # pragma: no cover - compiled
    """Chain rule through `_forward`, line by line from its end; g_cameras [C, 16] adds up over the Gaussians."""
    means, quats, scales, viewmats, Ks = scene.means, scene.quats, scene.scales, views.viewmats, views.Ks
    width, height, near, far, eps = views.width, views.height, views.near, views.far, views.eps
    g_means, g_quats, g_scales = g_scene.means, g_scene.quats, g_scene.scales
    g_means2d, g_forms = g_seen.means2d, g_seen.forms
    limits = _slope_limits(views)
    R, axes, g_axes = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    jacobians, rows, g_rows, cross = np.empty((2, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty(3)
    g_point = np.empty(3)
    for i in range(first, last):
        w, qx, qy, qz, length = _rotation(quats, i, R)
        _half_axes(scales, i, R, axes)
        g_axes[:] = 0.0
        for c in range(len(viewmats)):
            g_x, g_y, g_depth = (
                np.float64(g_means2d[c, i, 0]),
                np.float64(g_means2d[c, i, 1]),
                np.float64(g_seen.depths[c, i]),
            )
            g_root, g_slant, g_steep = (
                np.float64(g_forms[c, i, 0]),
                np.float64(g_forms[c, i, 1]),
                np.float64(g_forms[c, i, 2]),
            )
            g_opacity = np.float64(g_seen.opacities[c, i])
            if (
                g_x == 0 and g_y == 0 and g_depth == 0 and g_opacity == 0
                and g_root == 0 and g_slant == 0 and g_steep == 0
            ):  # fmt: skip
                continue  # most Gaussians in most views
            V, K, g_camera = viewmats[c], Ks[c], g_cameras[c]
            x, y, depth = _in_camera(V, means, i)
            visible = near <= depth <= far
            nearness = 1.0 / depth if visible else 1.0
            slopes = (x * nearness, y * nearness)
            slope_x, bound_x = _limited(slopes[0], limits[c, 0])
            slope_y, bound_y = _limited(slopes[1], limits[c, 1])
            limited, bounds, sizes = (slope_x, slope_y), (bound_x, bound_y), (width, height)
            for axis in range(2):
                _footprint(V, axis, K[axis, axis] * nearness, limited[axis], axes, jacobians[axis], rows[axis])
            u, v = rows[0], rows[1]
            xx, xy, yy, determinant, sharp = _covariance(u, v, cross, eps)

            g_xx, g_xy, g_yy, g_determinant, g_sharp = 0.0, 0.0, 0.0, 0.0, 0.0
            if visible and determinant > 0:
                root = math.sqrt(0.5 * yy / determinant)
                g_yy += g_root * root / (2 * yy) + g_slant * xy / (yy * yy) - g_steep / (2 * yy * yy)
                g_xy -= g_slant / yy
                g_determinant -= g_root * root / (2 * determinant)
            if views.antialiased:
                ratio = sharp / determinant
                if ratio > TINY:
                    g_ratio = g_opacity * np.float64(scene.opacities[i]) / (2 * math.sqrt(ratio))
                    g_sharp += g_ratio / determinant
                    g_determinant -= g_ratio * ratio / determinant
                g_opacity *= math.sqrt(max(ratio, TINY))
            g_scene.opacities[i] += g_opacity
            g_sharp += g_determinant
            g_xx += eps * g_determinant
            g_yy += eps * g_determinant
            # sharp = |u x v|^2
            for k in range(3):
                k1, k2 = (k + 1) % 3, (k + 2) % 3
                g_rows[0, k] = 2 * g_sharp * (v[k1] * cross[k2] - v[k2] * cross[k1]) + 2 * g_xx * u[k] + g_xy * v[k]
                g_rows[1, k] = 2 * g_sharp * (cross[k1] * u[k2] - cross[k2] * u[k1]) + 2 * g_yy * v[k] + g_xy * u[k]

            g_point[0], g_point[1], g_point[2] = 0.0, 0.0, g_depth
            for axis in range(2):
                focal, center, rate = K[axis, axis], K[axis, 2], K[axis, axis] * nearness
                g_mean = g_x if axis == 0 else g_y
                g_rate, g_limited = 0.0, 0.0
                for k in range(3):
                    g_jacobian = 0.0
                    for column in range(3):
                        g_jacobian += axes[k, column] * g_rows[axis, column]
                        g_axes[k, column] += jacobians[axis, k] * g_rows[axis, column]
                    g_rate += g_jacobian * (V[axis, k] - limited[axis] * V[2, k])
                    g_limited -= rate * g_jacobian * V[2, k]
                    g_camera[4 * axis + k] += rate * g_jacobian
                    g_camera[8 + k] -= rate * limited[axis] * g_jacobian
                g_slope, g_focal, g_center = g_mean * focal, g_mean * slopes[axis] + g_rate * nearness, g_mean
                if bounds[axis] == 0:
                    g_slope += g_limited
                else:
                    side = 0.0 if bounds[axis] < 0 else sizes[axis]
                    margin = bounds[axis] * FRUSTUM_MARGIN * 0.5 * sizes[axis]
                    g_focal -= g_limited * (side - center + margin) / (focal * focal)
                    g_center -= g_limited / focal
                g_camera[12 + axis] += g_focal
                g_camera[14 + axis] += g_center
                g_point[axis] += g_slope * nearness
                if visible:
                    g_point[2] -= (g_rate * rate + g_slope * slopes[axis]) * nearness
            for row in range(3):
                g_camera[4 * row + 3] += g_point[row]
                for k in range(3):
                    g_camera[4 * row + k] += g_point[row] * np.float64(means[i, k])
                    g_means[i, k] += V[row, k] * g_point[row]

        for k in range(3):
            along = 0.0
            for row in range(3):
                along += g_axes[row, k] * R[row, k]
                g_axes[row, k] *= np.float64(scales[i, k])  # now the gradient of R
            g_scales[i, k] = along
        G = g_axes
        g_w = 2 * (-qz * G[0, 1] + qy * G[0, 2] + qz * G[1, 0] - qx * G[1, 2] - qy * G[2, 0] + qx * G[2, 1])
        g_qx = 2 * (
            qy * (G[0, 1] + G[1, 0]) + qz * (G[0, 2] + G[2, 0]) + w * (G[2, 1] - G[1, 2]) - 2 * qx * (G[1, 1] + G[2, 2])
        )
        g_qy = 2 * (
            qx * (G[0, 1] + G[1, 0]) + qz * (G[1, 2] + G[2, 1]) + w * (G[0, 2] - G[2, 0]) - 2 * qy * (G[0, 0] + G[2, 2])
        )
        g_qz = 2 * (
            qx * (G[0, 2] + G[2, 0]) + qy * (G[1, 2] + G[2, 1]) + w * (G[1, 0] - G[0, 1]) - 2 * qz * (G[0, 0] + G[1, 1])
        )
        along = w * g_w + qx * g_qx + qy * g_qy + qz * g_qz
        g_quats[i, 0], g_quats[i, 1] = (g_w - w * along) / length, (g_qx - qx * along) / length
        g_quats[i, 2], g_quats[i, 3] = (g_qy - qy * along) / length, (g_qz - qz * along) / length
