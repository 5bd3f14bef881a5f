"""Real spherical harmonics up to degree 3, in the order and signs of 3D Gaussian Splatting (Kerbl et al. 2023)."""

import math

import torch
from torch import Tensor

# Normalisation of the real harmonics, e.g. SH_C0 = 1 / (2 sqrt(pi)).
SH_C0 = 0.5 / math.sqrt(math.pi)
_C1 = math.sqrt(3 / (4 * math.pi))
_C2_XY = 0.5 * math.sqrt(15 / math.pi)
_C2_Z2 = 0.25 * math.sqrt(5 / math.pi)
_C2_X2Y2 = 0.25 * math.sqrt(15 / math.pi)
_C3_3 = 0.25 * math.sqrt(35 / (2 * math.pi))
_C3_2 = 0.5 * math.sqrt(105 / math.pi)
_C3_1 = 0.25 * math.sqrt(21 / (2 * math.pi))
_C3_0 = 0.25 * math.sqrt(7 / math.pi)
_C3_2P = 0.25 * math.sqrt(105 / math.pi)

MAX_DEGREE = 3


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Values of the harmonics.

    Args:
        degree: 0 to 3.
        directions: Unit vectors [..., 3].

    Returns:
        [..., (degree + 1)^2].
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"sh_degree must be 0 to {MAX_DEGREE}, got {degree}")
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        basis += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            _C2_XY * x * y,
            -_C2_XY * y * z,
            _C2_Z2 * (2 * zz - xx - yy),
            -_C2_XY * x * z,
            _C2_X2Y2 * (xx - yy),
        ]
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            -_C3_3 * y * (3 * xx - yy),
            _C3_2 * x * y * z,
            -_C3_1 * y * (4 * zz - xx - yy),
            _C3_0 * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3_1 * x * (4 * zz - xx - yy),
            _C3_2P * z * (xx - yy),
            -_C3_3 * x * (xx - 3 * yy),
        ]
    return torch.stack(basis, dim=-1)


def evaluate_sh(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Colour seen along each direction: max(0, 0.5 + harmonics . coefficients), as in 3DGS.

    Args:
        degree: Highest degree to use, 0 to 3; the coefficients may hold more.
        directions: Vectors from the camera to the Gaussian [..., 3], of any length but zero.
        coefficients: Coefficients [..., K, 3] with K >= (degree + 1)^2.

    Returns:
        Colours [..., 3], >= 0 (not clamped above).
    """
    bands = (degree + 1) ** 2
    if coefficients.shape[-2] < bands:
        raise ValueError(f"sh_degree {degree} needs {bands} coefficients, got {coefficients.shape[-2]}")
    if degree == 0:  # avoids normalising directions that are not used
        return (SH_C0 * coefficients[..., 0, :] + 0.5).clamp_min(0)
    basis = sh_basis(degree, torch.nn.functional.normalize(directions, dim=-1))
    return ((basis[..., None] * coefficients[..., :bands, :]).sum(dim=-2) + 0.5).clamp_min(0)


def sh_from_rgb(rgb: Tensor) -> Tensor:
    """Degree-0 coefficients [..., 3] of a colour [..., 3] that is the same from all directions."""
    return (rgb - 0.5) / SH_C0
