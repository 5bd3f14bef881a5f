import math

import numpy as np
import pytest
import torch

from cus.splats.sh import evaluate_sh, sh_basis, sh_from_rgb


def sphere() -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and weights that integrate polynomials of degree 7 over the sphere exactly (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    azimuths = 2 * math.pi * np.arange(16) / 16
    z = np.repeat(nodes, 16)
    ring = np.sqrt(1 - z * z)
    directions = np.stack([ring * np.tile(np.cos(azimuths), 8), ring * np.tile(np.sin(azimuths), 8), z], axis=1)
    return torch.from_numpy(directions), torch.from_numpy(np.repeat(weights, 16) * 2 * math.pi / 16)


def test_the_sixteen_harmonics_are_orthonormal() -> None:
    directions, weights = sphere()
    basis = sh_basis(3, directions)
    torch.testing.assert_close(basis.T @ (weights[:, None] * basis), torch.eye(16, dtype=torch.float64))


def test_order_and_signs_are_those_of_3dgs() -> None:
    """Bands 1 to 3 along directions that single out coefficients; signs as in the published implementation."""
    x, y, z = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(sh_basis(0, z), torch.tensor([0.28209479177387814], dtype=torch.float64))
    assert [round(float(sh_basis(1, d)[i]), 6) for d, i in ((y, 1), (z, 2), (x, 3))] == [-0.488603, 0.488603, -0.488603]
    diagonal = (x + y) / 2**0.5
    assert float(sh_basis(2, diagonal)[4]) == pytest.approx(1.0925484305920792 / 2)
    assert float(sh_basis(2, z)[6]) == pytest.approx(0.31539156525252005 * 2)
    assert float(sh_basis(2, x)[8]) == pytest.approx(0.5462742152960396)
    assert float(sh_basis(3, y)[9]) == pytest.approx(0.5900435899266435)
    assert float(sh_basis(3, z)[12]) == pytest.approx(0.3731763325901154 * 2)
    assert float(sh_basis(3, x)[15]) == pytest.approx(-0.5900435899266435)


def test_colors_are_shifted_clamped_and_independent_of_the_length_of_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(20, 3, generator=generator)
    coefficients = torch.randn(20, 16, 3, generator=generator)
    for degree in range(4):
        colors = evaluate_sh(degree, directions, coefficients)
        torch.testing.assert_close(evaluate_sh(degree, 5 * directions, coefficients), colors)
        assert colors.min() == 0  # some would be negative
    rgb = torch.rand(7, 3, generator=generator)
    torch.testing.assert_close(evaluate_sh(0, directions[:7], sh_from_rgb(rgb)[:, None]), rgb)


def test_wrong_degrees_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 3"):
        sh_basis(4, torch.zeros(3))
    with pytest.raises(ValueError, match="needs 9 coefficients"):
        evaluate_sh(2, torch.ones(5, 3), torch.zeros(5, 4, 3))
