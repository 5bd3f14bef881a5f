"""Similarity of gradient magnitudes (Xue et al. 2014), of which GMSD is the deviation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.models.halving import halved, yiq

_C = 170 / 255**2  # the paper's 170, for values in [0, 1]


def gmsd_map(image: Tensor, target: Tensor) -> Tensor:
    """Similarity of gradient magnitudes in (0, 1], [ceil(H/2), ceil(W/2)], of two RGB pictures [3, H, W]."""
    luma = torch.stack([halved(yiq(picture)[:1]) for picture in (image, target)])
    prewitt = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=luma.dtype) / 3
    gradients = F.conv2d(luma, torch.stack([prewitt, prewitt.T])[:, None], padding=1)
    x, y = gradients.square().sum(dim=1).sqrt()
    return (2 * x * y + _C) / (x**2 + y**2 + _C)


def deviation(similarity: Tensor, weights: Tensor | None = None) -> Tensor:
    """Standard deviation of a map [h, w] (Eq. 6), over its pixels alike or by weights [h, w]."""
    weights = torch.ones_like(similarity) if weights is None else weights
    weights = weights / weights.sum()
    mean = (weights * similarity).sum()
    return (weights * (similarity - mean).square()).sum().sqrt()
