"""The two kernels of `cus.splats.cpu.projection`, and the geometry they share.

`scene`, `views` and `seen` are the named tuples defined there. Everything is computed in float64, one Gaussian at a
time. Helpers are force-inlined: otherwise their small arrays stay in memory and the backward pass takes twice as long.
"""

import math

import numpy as np
from numba import njit

from cus.splats.projection import ALPHA_CUTOFF, FRUSTUM_MARGIN, MAX_EXTENT

LARGEST_RADIUS = 2**24
# Smallest ratio of determinants whose root is taken, as in float32.
TINY = 1.1754943508222875e-38
# Factor on the squared distance in standard deviations at which a Gaussian still counts; a margin for rounding.
_FARTHEST = 1.001 * MAX_EXTENT**2


@njit(cache=True, nogil=True, forceinline=True)
def _rotation(quats, i, R):  # pragma: no cover - compiled
    """Write the rotation matrix of the i-th quaternion to R; return the normalised quaternion and its length."""
    w, x, y, z = np.float64(quats[i, 0]), np.float64(quats[i, 1]), np.float64(quats[i, 2]), np.float64(quats[i, 3])
    length = math.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / length, x / length, y / length, z / length
    R[0, 0], R[0, 1], R[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    R[1, 0], R[1, 1], R[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    R[2, 0], R[2, 1], R[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return w, x, y, z, length


@njit(cache=True, nogil=True, forceinline=True)
def _half_axes(scales, i, R, axes):  # pragma: no cover - compiled
    """Columns of R times the scales: the world covariance is axes axes^T."""
    for row in range(3):
        for k in range(3):
            axes[row, k] = R[row, k] * np.float64(scales[i, k])


@njit(cache=True, nogil=True, forceinline=True)
def _in_camera(V, means, i):  # pragma: no cover - compiled
    """Centre of the i-th Gaussian in camera coordinates."""
    a, b, c = np.float64(means[i, 0]), np.float64(means[i, 1]), np.float64(means[i, 2])
    x = V[0, 0] * a + V[0, 1] * b + V[0, 2] * c + V[0, 3]
    y = V[1, 0] * a + V[1, 1] * b + V[1, 2] * c + V[1, 3]
    z = V[2, 0] * a + V[2, 1] * b + V[2, 2] * c + V[2, 3]
    return x, y, z


@njit(cache=True, nogil=True, forceinline=True)
def _slope_limits(views):  # pragma: no cover - compiled
    """Smallest and largest x / z and y / z at which each camera's Jacobian is taken [C, 2 axes, 2]."""
    limits, sizes = np.empty((len(views.Ks), 2, 2)), (views.width, views.height)
    for c in range(len(views.Ks)):
        for axis in range(2):
            focal, center = views.Ks[c, axis, axis], views.Ks[c, axis, 2]
            margin = FRUSTUM_MARGIN * 0.5 * sizes[axis]
            limits[c, axis, 0], limits[c, axis, 1] = (-center - margin) / focal, (sizes[axis] - center + margin) / focal
    return limits


@njit(cache=True, nogil=True, forceinline=True)
def _limited(slope, limits):  # pragma: no cover - compiled
    """The slope at which the Jacobian is taken, and the active limit: -1 the lower bound, 1 the upper, 0 neither."""
    if slope < limits[0]:
        return limits[0], -1
    if slope > limits[1]:
        return limits[1], 1
    return slope, 0


@njit(cache=True, nogil=True, forceinline=True)
def _jacobian(V, axis, rate, slope, jacobian):  # pragma: no cover - compiled
    """Gradient of a pixel coordinate with respect to the world point."""
    for k in range(3):
        jacobian[k] = rate * (V[axis, k] - slope * V[2, k])


@njit(cache=True, nogil=True, forceinline=True)
def _row(jacobian, axes, row):  # pragma: no cover - compiled
    """The gradient from `_jacobian` times the half axes."""
    for k in range(3):
        row[k] = jacobian[0] * axes[0, k] + jacobian[1] * axes[1, k] + jacobian[2] * axes[2, k]


@njit(cache=True, nogil=True, forceinline=True)
def _may_reach(mean, size, jacobian, widest, eps):  # pragma: no cover - compiled
    """Whether a Gaussian could reach pixels 0 to size of a coordinate if it were as wide all around as at its widest.

    False where the mean is NaN.
    """
    if 0 < mean < size:
        return True
    # Radii are rounded up.
    beyond = (-mean if mean <= 0 else mean - size) - 1
    steepness = jacobian[0] * jacobian[0] + jacobian[1] * jacobian[1] + jacobian[2] * jacobian[2]
    return beyond <= 0 or beyond * beyond <= _FARTHEST * (steepness * widest * widest + eps)


@njit(cache=True, nogil=True, forceinline=True)
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
def project_forward(scene, views, seen, radii, first, last):  # pragma: no cover - compiled
    """Project the Gaussians first to last into every camera: `seen`, and the half sizes of their boxes."""
    means, quats, scales, viewmats, Ks = scene.means, scene.quats, scene.scales, views.viewmats, views.Ks
    width, height, near, far, eps = views.width, views.height, views.near, views.far, views.eps
    means2d, forms = seen.means2d, seen.forms
    limits = _slope_limits(views)
    R, axes, jacobians = np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
    u, v, cross = np.empty(3), np.empty(3), np.empty(3)
    for i in range(first, last):
        widest = max(np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2]))
        turned = False
        for c in range(len(viewmats)):
            V, K = viewmats[c], Ks[c]
            x, y, depth = _in_camera(V, means, i)
            visible = near <= depth <= far
            # Culled Gaussians take part in the arithmetic at depth 1.
            nearness = 1.0 / depth if visible else 1.0
            mean_x, mean_y = K[0, 0] * x * nearness + K[0, 2], K[1, 1] * y * nearness + K[1, 2]
            means2d[c, i, 0], means2d[c, i, 1], seen.depths[c, i] = mean_x, mean_y, depth
            slope_x, _ = _limited(x * nearness, limits[c, 0])
            slope_y, _ = _limited(y * nearness, limits[c, 1])
            _jacobian(V, 0, K[0, 0] * nearness, slope_x, jacobians[0])
            _jacobian(V, 1, K[1, 1] * nearness, slope_y, jacobians[1])
            near_by = visible and _may_reach(mean_x, width, jacobians[0], widest, eps)
            if not (near_by and _may_reach(mean_y, height, jacobians[1], widest, eps)):
                # Culls a third of all Gaussians in close-ups before most of the work.
                forms[c, i, 0], forms[c, i, 1], forms[c, i, 2] = 0.0, 0.0, 0.0
                seen.opacities[c, i], radii[c, i, 0], radii[c, i, 1] = 0.0, 0, 0
                continue
            if not turned:
                _rotation(quats, i, R)
                _half_axes(scales, i, R, axes)
                turned = True
            _row(jacobians[0], axes, u)
            _row(jacobians[1], axes, v)
            xx, xy, yy, determinant, sharp = _covariance(u, v, cross, eps)
            visible = determinant > 0
            opacity = np.float64(scene.opacities[i])
            if views.antialiased:
                opacity *= math.sqrt(max(sharp / determinant, TINY))
            forms[c, i, 0] = math.sqrt(0.5 * yy / determinant) if visible else 0.0
            forms[c, i, 1] = -xy / yy if visible else 0.0
            forms[c, i, 2] = 0.5 / yy if visible else 0.0
            seen.opacities[c, i] = opacity
            extent = min(math.sqrt(2 * math.log(max(opacity / ALPHA_CUTOFF, 1.0))), MAX_EXTENT)
            radius_x, radius_y = math.ceil(extent * math.sqrt(xx)), math.ceil(extent * math.sqrt(yy))
            inside = mean_x + radius_x > 0 and mean_x - radius_x < width
            inside = inside and mean_y + radius_y > 0 and mean_y - radius_y < height
            keep = visible and inside and opacity >= ALPHA_CUTOFF and max(radius_x, radius_y) > views.clip
            # Next to the camera, radii exceed int32; one image diagonal more is as good as infinite.
            radii[c, i, 0] = int(min(radius_x, LARGEST_RADIUS)) if keep else 0
            radii[c, i, 1] = int(min(radius_y, LARGEST_RADIUS)) if keep else 0


@njit(cache=True, nogil=True, error_model="numpy")
def project_backward(scene, views, g_seen, g_scene, g_cameras, first, last):  # pragma: no cover - compiled
    """Chain rule through `project_forward`, in reverse; g_cameras [C, 16] accumulates over the Gaussians.

    For each camera: gradients of rotation and translation, row by row, then of fx, fy, cx, cy.
    """
    means, quats, scales, viewmats, Ks = scene.means, scene.quats, scene.scales, views.viewmats, views.Ks
    limits = _slope_limits(views)
    R, axes, g_axes = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    jacobians, rows, g_rows, cross = np.empty((2, 3)), np.empty((2, 3)), np.empty((2, 3)), np.empty(3)
    g_point, slopes = np.empty(3), np.empty((2, 2))
    for i in range(first, last):
        needed = False
        for c in range(len(viewmats)):
            needed = needed or _any_gradient(g_seen, c, i)
        if not needed:
            continue  # culled, or hidden
        w, x, y, z, length = _rotation(quats, i, R)
        _half_axes(scales, i, R, axes)
        g_axes[:] = 0.0
        for c in range(len(viewmats)):
            if not _any_gradient(g_seen, c, i):
                continue  # true of most Gaussians in most views
            V, K = viewmats[c], Ks[c]
            point_x, point_y, depth = _in_camera(V, means, i)
            visible = views.near <= depth <= views.far
            nearness = 1.0 / depth if visible else 1.0
            slopes[0, 0], slopes[1, 0] = point_x * nearness, point_y * nearness
            slopes[0, 1], bound_x = _limited(slopes[0, 0], limits[c, 0])
            slopes[1, 1], bound_y = _limited(slopes[1, 0], limits[c, 1])
            for axis in range(2):
                _jacobian(V, axis, K[axis, axis] * nearness, slopes[axis, 1], jacobians[axis])
                _row(jacobians[axis], axes, rows[axis])
            covariance = _covariance(rows[0], rows[1], cross, views.eps)
            g_opacity = _row_grads(covariance, rows, cross, visible, scene.opacities[i], views, g_seen, c, i, g_rows)
            g_scene.opacities[i] += g_opacity

            g_point[0], g_point[1], g_point[2] = 0.0, 0.0, np.float64(g_seen.depths[c, i])
            for axis in range(2):
                bound, size = (bound_x, views.width) if axis == 0 else (bound_y, views.height)
                _axis_grads(
                    V, K, axis, nearness, slopes[axis], bound, size, axes, jacobians[axis], g_rows[axis],
                    np.float64(g_seen.means2d[c, i, axis]), visible, g_axes, g_point, g_cameras[c],
                )  # fmt: skip
            for row in range(3):
                g_cameras[c, 4 * row + 3] += g_point[row]
                for k in range(3):
                    g_cameras[c, 4 * row + k] += g_point[row] * np.float64(means[i, k])
                    g_scene.means[i, k] += V[row, k] * g_point[row]
        _shape_grads(scales, i, R, (w, x, y, z, length), g_axes, g_scene)


@njit(cache=True, nogil=True, forceinline=True)
def _any_gradient(g_seen, c, i):  # pragma: no cover - compiled
    """Whether anything downstream depends on the i-th Gaussian in the c-th view."""
    here = g_seen.opacities[c, i] != 0 or g_seen.depths[c, i] != 0
    here = here or g_seen.means2d[c, i, 0] != 0 or g_seen.means2d[c, i, 1] != 0
    return here or g_seen.forms[c, i, 0] != 0 or g_seen.forms[c, i, 1] != 0 or g_seen.forms[c, i, 2] != 0


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _row_grads(covariance, rows, cross, visible, opacity, views, g_seen, c, i, g_rows):  # pragma: no cover - compiled
    """Gradients of the square-root form and the seen opacity -> those of `_footprint`'s rows; returns the opacity's."""
    xx, xy, yy, determinant, sharp = covariance
    g_xx, g_xy, g_yy, g_determinant, g_sharp = 0.0, 0.0, 0.0, 0.0, 0.0
    if visible and determinant > 0:
        g_root, g_slant = np.float64(g_seen.forms[c, i, 0]), np.float64(g_seen.forms[c, i, 1])
        root = math.sqrt(0.5 * yy / determinant)
        g_yy += g_root * root / (2 * yy) + g_slant * xy / (yy * yy) - np.float64(g_seen.forms[c, i, 2]) / (2 * yy * yy)
        g_xy -= g_slant / yy
        g_determinant -= g_root * root / (2 * determinant)
    g_opacity = np.float64(g_seen.opacities[c, i])
    if views.antialiased:
        ratio = sharp / determinant
        if ratio > TINY:
            g_ratio = g_opacity * np.float64(opacity) / (2 * math.sqrt(ratio))
            g_sharp += g_ratio / determinant
            g_determinant -= g_ratio * ratio / determinant
        g_opacity *= math.sqrt(max(ratio, TINY))
    # determinant = sharp + eps (xx + yy + eps), sharp = |u x v|^2
    g_sharp += g_determinant
    g_xx += views.eps * g_determinant
    g_yy += views.eps * g_determinant
    u, v = rows[0], rows[1]
    for k in range(3):
        k1, k2 = (k + 1) % 3, (k + 2) % 3
        g_rows[0, k] = 2 * g_sharp * (v[k1] * cross[k2] - v[k2] * cross[k1]) + 2 * g_xx * u[k] + g_xy * v[k]
        g_rows[1, k] = 2 * g_sharp * (cross[k1] * u[k2] - cross[k2] * u[k1]) + 2 * g_yy * v[k] + g_xy * u[k]
    return g_opacity


@njit(cache=True, nogil=True, forceinline=True)
def _axis_grads(
    V, K, axis, nearness, slopes, bound, size, axes, jacobian, g_row, g_mean, visible, g_axes, g_point, g_camera
):  # pragma: no cover - compiled
    """Gradients of one pixel coordinate and its row -> those of the half axes, the camera-space point and the camera.

    `slopes` holds x / z of the centre and where the Jacobian is taken; `bound` says which of the two limits is active.
    """
    focal, center, rate, limited = K[axis, axis], K[axis, 2], K[axis, axis] * nearness, slopes[1]
    g_rate, g_limited = 0.0, 0.0
    for k in range(3):
        g_jacobian = 0.0
        for column in range(3):
            g_jacobian += axes[k, column] * g_row[column]
            g_axes[k, column] += jacobian[k] * g_row[column]
        g_rate += g_jacobian * (V[axis, k] - limited * V[2, k])
        g_limited -= rate * g_jacobian * V[2, k]
        g_camera[4 * axis + k] += rate * g_jacobian
        g_camera[8 + k] -= rate * limited * g_jacobian
    g_slope, g_focal, g_center = g_mean * focal, g_mean * slopes[0] + g_rate * nearness, g_mean
    if bound == 0:
        g_slope += g_limited
    else:
        side = 0.0 if bound < 0 else size
        g_focal -= g_limited * (side - center + bound * FRUSTUM_MARGIN * 0.5 * size) / (focal * focal)
        g_center -= g_limited / focal
    g_camera[12 + axis] += g_focal
    g_camera[14 + axis] += g_center
    g_point[axis] += g_slope * nearness
    if visible:
        g_point[2] -= (g_rate * rate + g_slope * slopes[0]) * nearness


@njit(cache=True, nogil=True, forceinline=True)
def _shape_grads(scales, i, R, quat, g_axes, g_scene):  # pragma: no cover - compiled
    """Gradients of the half axes -> those of the scales and quaternion (w, x, y, z normalised, and its length)."""
    for k in range(3):
        along = 0.0
        for row in range(3):
            along += g_axes[row, k] * R[row, k]
            g_axes[row, k] *= np.float64(scales[i, k])
        g_scene.scales[i, k] = along
    w, x, y, z, length = quat
    G = g_axes  # from here on the gradient of R
    xy, xz, yz = G[0, 1] + G[1, 0], G[0, 2] + G[2, 0], G[1, 2] + G[2, 1]
    turn_x, turn_y, turn_z = G[2, 1] - G[1, 2], G[0, 2] - G[2, 0], G[1, 0] - G[0, 1]
    g_w = 2 * (x * turn_x + y * turn_y + z * turn_z)
    g_x = 2 * (y * xy + z * xz + w * turn_x - 2 * x * (G[1, 1] + G[2, 2]))
    g_y = 2 * (x * xy + z * yz + w * turn_y - 2 * y * (G[0, 0] + G[2, 2]))
    g_z = 2 * (x * xz + y * yz + w * turn_z - 2 * z * (G[0, 0] + G[1, 1]))
    along = w * g_w + x * g_x + y * g_y + z * g_z
    g_scene.quats[i, 0], g_scene.quats[i, 1] = (g_w - w * along) / length, (g_x - x * along) / length
    g_scene.quats[i, 2], g_scene.quats[i, 3] = (g_y - y * along) / length, (g_z - z * along) / length
