"""Levels of detail: each Gaussian is shown in views of about the sampling rate that it was made at.

A view samples a Gaussian at its focal length over its depth there, in pixels per scene unit. Detail for close-ups would
alias or blur views from afar, and what represents the whole would cover the detail. As in GaussianZoom, the share of a
Gaussian is max(0, 1 - |log_s(rate / its own rate)|): between two levels whose rates differ by the factor s, the shares
of both add up to one. Here each Gaussian has a lowest and a highest rate: the coarsest level has no lowest one, the
finest, and those without finer detail at their place, no highest one.
"""

import math

import torch
from torch import Tensor

from cus.cameras import Cameras

# The base s of the logarithm: coming this many times nearer, one level replaces the other.
STEP = 3**0.5
# Opacities this near to 1 have no usable logarithm of transmittance.
_OPAQUE = 1e-6


def sampling_rates(means: Tensor, camera: Cameras) -> Tensor:
    """Pixels per scene unit [N] at the centres [N, 3] in one camera; 0 behind it."""
    depths = camera.project(means)[1][0]
    return torch.where(depths > 0, camera.Ks[0, 0, 0] / depths.clamp(min=1e-12), torch.zeros_like(depths))


def shares(rates: Tensor, means: Tensor, camera: Cameras) -> Tensor:
    """Shares [N] in [0, 1] of Gaussians in one camera's picture.

    Args:
        rates: lowest and highest rate [N, 2] at which each is fully shown; 0 = no limit.
        means: centres [N, 3].
        camera: one camera.
    """
    with torch.no_grad():
        seen = sampling_rates(means, camera).clamp(min=1e-12).log()
        low, high = rates.clamp(min=1e-30).log().unbind(1)
        unlimited = rates == 0
        below = torch.where(unlimited[:, 0], 0.0, (low - seen).clamp(min=0))
        above = torch.where(unlimited[:, 1], 0.0, (seen - high).clamp(min=0))
        return (1 - (below + above) / math.log(STEP)).clamp(min=0)


def opacities_at(opacities: Tensor, share: Tensor) -> Tensor:
    """Opacities [N] of which only a share [N] counts: a layer of it lets through its transmittance to that power.

    So two levels of the same surface, each with its share, are together as opaque as one of them.
    """
    return 1 - (1 - opacities).clamp(min=_OPAQUE) ** share
