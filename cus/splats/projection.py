"""Projection of 3D Gaussians to 2D (EWA splatting, Zwicker et al. 2001), with gsplat's conventions.

Cameras are OpenCV (docs/conventions.md); the centre of the top-left pixel is (0.5, 0.5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Contributions below this opacity are skipped, as in 3DGS and gsplat.
ALPHA_CUTOFF = 1 / 255
# Distance in standard deviations at which opacity 1 falls to ALPHA_CUTOFF: sqrt(2 ln 255) = 3.3290; gsplat rounds up.
MAX_EXTENT = 3.33
# The Jacobian is taken at most this far outside the image (in units of half the field of view), as in 3DGS:
# the linearisation diverges for Gaussians beside the camera.
FRUSTUM_MARGIN = 0.3


@dataclass(frozen=True)
class Projection:
    """Gaussians as C cameras see them.

    Attributes:
        means2d: Centres in pixels [C, N, 2].
        depths: z-depths of the centres [C, N], scene units.
        conics: Upper triangles of the inverse 2D covariances [C, N, 3] (xx, xy, yy), 1 / pixels^2.
        opacities: Opacities [C, N], after antialiasing compensation if enabled.
        radii: Half sizes of the boxes outside which alpha < 1/255 [C, N, 2], int32 pixels; 0 where culled.
    """

    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor
    radii: Tensor


@dataclass(frozen=True)
class ProjectionOptions:
    """Image size, culling and smoothing, as for `cus.splats.rasterization`."""

    width: int
    height: int
    near_plane: float = 0.01
    far_plane: float = 1e10
    radius_clip: float = 0.0
    eps2d: float = 0.3
    antialiased: bool = False


def rotmat_from_quat(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (wxyz, any length but zero)."""
    w, x, y, z = normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    options: ProjectionOptions,
) -> Projection:
    """Project Gaussians into every camera; differentiable in all but the radii.

    Args:
        means: Centres [N, 3], world.
        quats: Orientations [N, 4], wxyz.
        scales: Linear standard deviations [N, 3].
        opacities: Opacities [N].
        viewmats: World-to-camera [C, 4, 4].
        Ks: Intrinsics [C, 3, 3] in pixels, without skew.
        options: Image size and limits.
    """
    rotations, translations = viewmats[:, :3, :3], viewmats[:, None, :3, 3]
    camera_means = means @ rotations.transpose(1, 2) + translations  # [C, N, 3]
    depths = camera_means[..., 2]
    visible = (depths >= options.near_plane) & (depths <= options.far_plane)
    # Culled Gaussians are computed at depth 1, so that no division spoils the gradients of the others.
    z = torch.where(visible, depths, torch.ones_like(depths))
    slopes = camera_means[..., :2] / z[..., None]
    focals = Ks[:, None, (0, 1), (0, 1)]  # [C, 1, 2]
    means2d = slopes * focals + Ks[:, None, :2, 2]

    # Rows of Jacobian @ rotation @ half axes, where the world covariance is half_axes half_axes^T.
    half_axes = rotmat_from_quat(quats) * scales[:, None, :]
    slopes = _limited(slopes, Ks, options)
    rows = []
    for axis in range(2):
        gradient = rotations[:, None, axis] - slopes[..., axis, None] * rotations[:, None, 2]
        gradient = (
            gradient * (focals[..., axis] / z)[..., None]
        )  # gradient of the pixel coordinate with respect to the world point [C, N, 3]
        rows.append((gradient[..., None] * half_axes).sum(dim=-2))
    row_x, row_y = rows
    xx, xy, yy = (row_x * row_x).sum(-1), (row_x * row_y).sum(-1), (row_y * row_y).sum(-1)
    # Cauchy-Binet: a sum of squares, where xx yy - xy^2 would lose most digits for long thin Gaussians.
    sharp_determinant = torch.linalg.cross(row_x, row_y).square().sum(-1)
    determinant = sharp_determinant + options.eps2d * (xx + yy + options.eps2d)
    xx, yy = xx + options.eps2d, yy + options.eps2d
    visible = visible & (determinant > 0)
    safe_determinant = torch.where(visible, determinant, torch.ones_like(determinant))
    conics = torch.stack([yy, -xy, xx], dim=-1) / safe_determinant[..., None]

    seen_opacities = opacities[None].expand(len(viewmats), -1)
    if options.antialiased:  # the energy of the sharp Gaussian, spread over the smoothed one (Mip-Splatting, Eq. 9)
        ratio = sharp_determinant / safe_determinant
        seen_opacities = seen_opacities * ratio.clamp_min(torch.finfo(ratio.dtype).tiny).sqrt()
    radii = _radii(means2d, xx, yy, seen_opacities, visible, options)
    return Projection(means2d, depths, conics, seen_opacities, radii)


def _limited(slopes: Tensor, Ks: Tensor, options: ProjectionOptions) -> Tensor:
    """Slopes x / z and y / z at which the Jacobian is taken [C, N, 2], limited to slightly outside the image."""
    focals, centers = Ks[:, None, (0, 1), (0, 1)], Ks[:, None, :2, 2]
    size = torch.tensor([options.width, options.height], dtype=Ks.dtype, device=Ks.device)
    margin = FRUSTUM_MARGIN * 0.5 * size / focals
    return torch.minimum(torch.maximum(slopes, -centers / focals - margin), (size - centers) / focals + margin)


@torch.no_grad()
def _radii(
    means2d: Tensor, xx: Tensor, yy: Tensor, opacities: Tensor, visible: Tensor, options: ProjectionOptions
) -> Tensor:
    """Box half sizes, from where the opacity falls under the cutoff (StopThePop, Radl et al. 2024, Section B.2)."""
    extent = (2 * (opacities / ALPHA_CUTOFF).clamp_min(1).log()).sqrt().clamp_max(MAX_EXTENT)
    radii = torch.ceil(extent[..., None] * torch.stack([xx, yy], dim=-1).sqrt())
    size = torch.tensor([options.width, options.height], dtype=radii.dtype, device=radii.device)
    inside = ((means2d + radii > 0) & (means2d - radii < size)).all(dim=-1)
    keep = visible & inside & (opacities >= ALPHA_CUTOFF) & (radii > options.radius_clip).any(dim=-1)
    # Next to the camera, means and radii exceed int32; one image diagonal more is as good as infinite.
    return (radii.clamp_max(2**24) * keep[..., None]).to(torch.int32)
