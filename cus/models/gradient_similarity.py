"""Similarity of gradient magnitudes (Xue et al. 2014), of which GMSD is the deviation."""

import torch
from torch import Tensor
from torch.nn import functional as F

_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # rows Y, I, Q
_C = 170 / 255**2  # the paper's 170, for values in [0, 1]


def yiq(image: Tensor) -> Tensor:
    """RGB [3, H, W] -> NTSC luma and chroma [3, H, W]."""
    return torch.einsum("ij,jhw->ihw", torch.tensor(_YIQ, dtype=image.dtype), image)


def halved(image: Tensor) -> Tensor:
    """Means of 2x2 pixels, [C, H, W] -> [C, ceil(H/2), ceil(W/2)]; an odd last row or column is averaged with zeros.

    The zeros follow piq, for comparable numbers.
    """
    return F.avg_pool2d(F.pad(image, [0, image.shape[-1] % 2, 0, image.shape[-2] % 2]), 2)


def halved_mask(mask: Tensor | None, like: Tensor) -> Tensor:
    """Fraction [h, w] of every 2x2 block inside the mask, for a halved `like` [..., h, w]; ones without a mask."""
    if mask is None:
        return torch.ones(like.shape[-2:], dtype=like.dtype)
    padding = [0, mask.shape[-1] % 2, 0, mask.shape[-2] % 2]
    return F.avg_pool2d(F.pad(mask[None].to(like), padding, mode="replicate"), 2)[0]


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
