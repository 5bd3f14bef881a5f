"""Projection of Gaussians for the CPU rasterizer, fused into one kernel forward and one backward.

Formulas and conventions match `cus.splats.projection`. The conic is returned in square-root form,

    sigma = (root (dx + slant dy))^2 + steep dy^2,
    root = sqrt(yy / (2 det)),  slant = -xy / yy,  steep = 1 / (2 yy)

with xx, xy, yy the 2D covariance and det its determinant: in this form float32 can hold a needle of a thousand pixels,
whose conic would lose its determinant. Arithmetic is in float64, which costs nothing next to the memory traffic.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cus.kernels.threads import in_pieces
from cus.splats.cpu.projection_kernels import project_backward, project_forward
from cus.splats.projection import ProjectionOptions

# Gaussians per chunk of the backward pass: fixed, so that the sums do not depend on the number of threads.
_PIECE = 2048


def project_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    options: ProjectionOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `cus.splats.projection.project`, for float32 on the CPU, and with the 2D covariances in square-root form.

    Returns:
        means2d [C, N, 2], forms [C, N, 3] (root, slant, steep), depths [C, N], opacities [C, N] with antialiasing,
        radii [C, N, 2] (int32, 0 where culled).
    """
    return _Project.apply(means, quats, scales, opacities, viewmats, Ks, options)  # type: ignore[return-value]


def conics_from_forms(forms: Tensor) -> Tensor:
    """Upper triangles of the inverse 2D covariances [..., 3] from the square-root form [..., 3]."""
    root, slant, steep = forms.unbind(-1)
    xx = 2 * root * root
    xy = xx * slant
    return torch.stack([xx, xy, 2 * steep + xy * slant], dim=-1)


class Scene(NamedTuple):
    """N Gaussians, or gradients with respect to them, float32: [N, 3], [N, 4], [N, 3], [N]."""

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
    """Gaussians as the cameras see them, or gradients in these, float32: [C, N, 2], [C, N, 3], [C, N], [C, N]."""

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
        in_pieces(lambda a, b: project_forward(scene, views, seen, radii, a, b), count)
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
        # For each chunk: rotation and translation row by row, then fx, fy, cx, cy.
        camera_grads = np.zeros((pieces, cameras, 16))

        def work(first: int, last: int) -> None:
            for piece in range(first, last):
                start, end = piece * _PIECE, min((piece + 1) * _PIECE, count)
                project_backward(scene, views, upstream, outputs, camera_grads[piece], start, end)

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
    """Convert all numbers to fixed types, because kernels are compiled for types."""
    cameras = _array(viewmats).astype(np.float64), _array(Ks).astype(np.float64)
    o = options
    lengths = (o.width, o.height, o.near_plane, o.far_plane, o.radius_clip, o.eps2d)
    width, height, near, far, clip, eps = (float(length) for length in lengths)
    return Views(*cameras, width, height, near, far, clip, eps, bool(o.antialiased))
