"""One depth for each target pixel from the references' meshes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cus.conditioning.fused.mesh import Surface

# Surfaces whose 1 / z differs by no more than this fraction of the larger are the same surface.
SAME_SURFACE = 0.05
# Confidence counts squared, and never less than this.
LEAST_CONFIDENCE = 0.01


def fuse_depths(surfaces: Sequence[Surface]) -> Tensor:
    """Fuse the references' surfaces into the 1 / z of a target.

    Reliable surfaces take precedence. The support of each surface at a pixel is the sum of the squared confidences of
    all surfaces that agree with it; those that agree with the best supported one (the first among equals) give the
    mean.

    Args:
        surfaces: V surfaces of one target.

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
