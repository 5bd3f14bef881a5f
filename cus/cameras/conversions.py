"""Every change of camera axes in the project, in functions named `b_from_a` (docs/conventions.md)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _flip_y_and_z(matrices: Tensor) -> Tensor:
    return matrices * matrices.new_tensor([1.0, -1.0, -1.0, 1.0])


def opencv_c2w_from_opengl_c2w(c2w: Tensor) -> Tensor:
    """[..., 4, 4] camera-to-world: OpenGL/Blender/nerfstudio (y up, z back) -> OpenCV (y down, z forward)."""
    return _flip_y_and_z(c2w)


def opengl_c2w_from_opencv_c2w(c2w: Tensor) -> Tensor:
    """[..., 4, 4] camera-to-world: OpenCV (y down, z forward) -> OpenGL/Blender/nerfstudio (y up, z back)."""
    return _flip_y_and_z(c2w)


def opencv_c2w_from_llff_c2w(c2w: Tensor) -> Tensor:
    """[..., 4, 4] camera-to-world: LLFF's poses_bounds.npy (down, right, back) -> OpenCV (right, down, forward)."""
    down, right, back, center = c2w.unbind(dim=-1)
    return torch.stack([right, down, -back, center], dim=-1)


# Signs of the real spherical harmonics of degree 0 to 3 when y and z are reversed: each is odd or even in y z.
_SH_SIGNS_Y_Z = (1, -1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, 1, -1, 1)


def rub_points_from_rdf(points: Tensor) -> Tensor:
    """[..., 3] positions: world axes right, down, front (3DGS's PLY files) -> right, up, back (SPZ, three.js)."""
    return points * points.new_tensor([1.0, -1.0, -1.0])


def rdf_points_from_rub(points: Tensor) -> Tensor:
    """[..., 3] positions: world axes right, up, back (SPZ, three.js) -> right, down, front (3DGS's PLY files)."""
    return points * points.new_tensor([1.0, -1.0, -1.0])


def rub_quats_from_rdf(quats: Tensor) -> Tensor:
    """[..., 4] orientations wxyz of Gaussians: world axes right, down, front -> right, up, back.

    The rotation R becomes F R F, F = diag(1, -1, -1): a Gaussian is symmetric in its own axes, so the F on the right
    makes no visible difference.
    """
    return quats * quats.new_tensor([1.0, 1.0, -1.0, -1.0])


def rdf_quats_from_rub(quats: Tensor) -> Tensor:
    """[..., 4] orientations wxyz of Gaussians: world axes right, up, back -> right, down, front."""
    return quats * quats.new_tensor([1.0, 1.0, -1.0, -1.0])


def rub_sh_from_rdf(sh: Tensor) -> Tensor:
    """[..., K, 3] harmonics coefficients, K = 1, 4, 9 or 16: world axes right, down, front -> right, up, back."""
    return sh * sh.new_tensor(_SH_SIGNS_Y_Z[: sh.shape[-2]])[:, None]


def rdf_sh_from_rub(sh: Tensor) -> Tensor:
    """[..., K, 3] harmonics coefficients, K = 1, 4, 9 or 16: world axes right, up, back -> right, down, front."""
    return sh * sh.new_tensor(_SH_SIGNS_Y_Z[: sh.shape[-2]])[:, None]


def viewmats_from_c2w(c2w: Tensor, names: Sequence[str] | None = None) -> Tensor:
    """World-to-camera matrices [..., 4, 4] from camera-to-world; the rotation is first made exactly orthonormal (SVD).

    Args:
        c2w: camera-to-world matrices.
        names: names of the N matrices [N, 4, 4] for messages.

    Raises:
        ValueError: a last row other than 0 0 0 1, or a 3x3 part further than 1e-2 from a rotation; the message names
            the first such matrix and says whether it is scaled, mirrored or skewed.
    """
    c2w = c2w.double()
    u, _, vh = torch.linalg.svd(c2w[..., :3, :3])
    rotations = u @ vh
    last = c2w.new_tensor([0.0, 0.0, 0.0, 1.0])
    bad = ((c2w[..., 3, :] - last).abs() > 1e-3).any(dim=-1) | (torch.linalg.det(rotations) < 0)
    bad |= ((rotations - c2w[..., :3, :3]).abs() > 1e-2).flatten(-2).any(dim=-1)
    if bool(bad.any()):
        first = int(bad.flatten().nonzero()[0])
        name = f"camera-to-world matrix {first}" if names is None else names[first]
        raise ValueError(f"{name}: {_not_rigid(c2w.reshape(-1, 4, 4)[first])}")
    viewmats = torch.zeros_like(c2w)
    viewmats[..., :3, :3] = rotations.mT
    viewmats[..., :3, 3] = -(rotations.mT @ c2w[..., :3, 3:])[..., 0]
    viewmats[..., 3, 3] = 1
    return viewmats.float()


def _not_rigid(matrix: Tensor) -> str:
    """Explain why a matrix [4, 4] is not a rigid motion."""
    row = [round(value, 4) + 0.0 for value in matrix[3].tolist()]
    if (matrix[3] - matrix.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().max() > 1e-3:
        return f"the matrix is not rigid: its last row must be 0 0 0 1, got {row}"
    lengths = matrix[:3, :3].norm(dim=0)
    if float(torch.linalg.det(matrix[:3, :3])) < 0:
        return "the matrix contains a reflection (its determinant is negative); one axis points the wrong way"
    normal = matrix[:3, :3] / lengths.clamp(min=1e-12)
    if (normal.mT @ normal - torch.eye(3).to(normal)).abs().max() < 1e-2:
        scales = ", ".join(f"{length:.4g}" for length in lengths.tolist())
        return f"the matrix is not rigid: its axes are scaled (lengths {scales}, expected 1); divide the scale out"
    return "the matrix is not rigid: its upper-left 3x3 part is not a rotation (its columns are not perpendicular)"


def focal_from_35mm(focal_35mm: float, width: int, height: int) -> float:
    """Focal length in pixels from its 35 mm equivalent in mm, by the picture's diagonal (43.27 mm; CIPA DCG-001)."""
    return focal_35mm * (width**2 + height**2) ** 0.5 / (36.0**2 + 24.0**2) ** 0.5


def focal_from_fov(fov_degrees: float, width: int) -> float:
    """Focal length in pixels from the horizontal field of view in degrees."""
    return 0.5 * width / torch.tan(torch.deg2rad(torch.tensor(fov_degrees / 2, dtype=torch.float64))).item()


def fov_from_focal(focal: float, width: float) -> float:
    """Horizontal field of view in degrees of `width` pixels, from the focal length in the same pixels."""
    return math.degrees(2 * math.atan(0.5 * width / focal))
