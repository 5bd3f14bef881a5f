"""Gradient magnitude similarity deviation (Xue et al. 2014)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.evaluation.metrics.halving import halved, halved_mask, yiq
from cus.evaluation.metrics.inputs import checked

_C = 170 / 255**2  # the paper's 170, for values in [0, 1]


def gmsd_map(image: Tensor, target: Tensor) -> Tensor:
    """Similarity of gradient magnitudes in (0, 1], [ceil(H/2), ceil(W/2)], of two RGB pictures [3, H, W]."""
    luma = torch.stack([halved(yiq(picture)[:1]) for picture in (image, target)])
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=luma.dtype) / 3
    gradients = F.conv2d(luma, torch.stack([prewitt, prewitt.T])[:, None], padding=1)
    x, y = gradients.square().sum(dim=1).sqrt()
    return (2 * x * y + _C) / (x**2 + y**2 + _C)


def gmsd(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of the similarity of gradient magnitudes; lower is better, 0 for equal pictures.

    Luma at half size, Prewitt gradients, c = 170 for values in [0, 255] (Eqs. 4 and 6 of the paper). It measures how
    unevenly gradients are degraded: a uniform error counts little.

    Args:
        image: [3, H, W] RGB in [0, 1].
        target: Picture of the same shape.
        mask: [H, W] bool. The deviation is over its pixels: at half size, each has the fraction of its 2x2 pixels
            inside the mask as weight. Outside the mask the target replaces the image.

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    image, target, mask = checked(image, target, mask)
    similarity = gmsd_map(image, target)
    weights = halved_mask(mask, similarity)
    weights = weights / weights.sum()
    mean = (weights * similarity).sum()
    return float((weights * (similarity - mean).square()).sum().sqrt())
