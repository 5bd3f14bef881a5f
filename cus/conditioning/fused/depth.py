"""One depth for each target pixel from what the references' meshes say."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cus.conditioning.fused.mesh import Surface

# Surfaces whose 1 / z differ by no more than this share of the larger are one.
SAME_SURFACE = 0.05
# Confidence counts squared, and never less than this.
LEAST_CONFIDENCE = 0.01


def fuse_depths(surfaces: Sequence[Surface]) -> Tensor:
    """The fused 1 / z of a target.

    Reliable surfaces go before the others. Each of a pixel's surfaces is backed by all that agree with it, by the
    square of their confidence; of the best backed (the first of equals) those that agree give the mean.

    Args:
        surfaces: V of them, of one target.

    Returns:
        [H, W] float64; 0 where no reference has a surface.
    """
    inverse = torch.stack([surface.inverse for surface in surfaces])
    reliable = torch.stack([surface.reliable for surface in surfaces])
    counted = (inverse > 0) & (reliable | ~reliable.any(dim=0))
    weights = torch.stack([surface.confidences for surface in surfaces]).clamp(min=LEAST_CONFIDENCE) ** 2 * counted
    best_support, fused = torch.zeros_like(inverse[0]), torch.zeros_like(inverse[0])
    for own, there in zip(inverse, counted, strict=True):
        agrees = (inverse - own).abs() <= SAME_SURFACE * torch.maximum(inverse, own)
        support = (weights * agrees).sum(dim=0) * there
        mean = (weights * agrees * inverse).sum(dim=0) / support.clamp(min=1e-12)
        better = support > best_support
        fused = torch.where(better, mean, fused)
        best_support = torch.where(better, support, best_support)
    return fused
