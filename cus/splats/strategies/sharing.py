"""Opacity and size of several copies of a Gaussian in the same place."""

import math

import torch
from torch import Tensor

# The sum alternates; beyond this many copies double precision is insufficient for opaque Gaussians.
MOST_COPIES = 51


def shared_by_copies(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and size of N copies that together look like one Gaussian (3DGS-MCMC, Kheradmand et al. 2024, Eq. 9).

    N equal Gaussians in one place, composited, are as opaque in the middle if 1 - (1 - o')^N = o. Away from the middle
    their opacity decreases more slowly, which smaller half axes compensate: their integral along a line, the sum over k
    of C(N, k) (-1)^(k-1) o'^k / sqrt(k) times the half axis, stays that of the original. (The paper's double sum, with
    the binomials added up.)

    Args:
        opacities: Opacities of the originals [K], in [0, 1).
        copies: Number of copies of each [K], 1 to 51; 1 changes nothing.

    Returns:
        The copies' opacities [K], and the factors of their half axes [K].
    """
    o, n = opacities.double(), copies.clamp(1, MOST_COPIES).double()
    each = -torch.expm1(torch.log1p(-o) / n)
    binomials, powers, integrals = torch.ones_like(o), torch.ones_like(o), torch.zeros_like(o)
    for k in range(1, int(n.max()) + 1 if len(n) else 1):
        # C(N, k) from C(N, k - 1); it becomes zero for k > N.
        binomials = binomials * (n - k + 1).clamp_min(0) / k
        powers = powers * each
        integrals += (1 if k % 2 else -1) * binomials * powers / math.sqrt(k)
    factors = torch.where(o > 0, o / integrals.clamp_min(1e-300), torch.ones_like(o))
    return each.to(opacities), factors.to(opacities)
