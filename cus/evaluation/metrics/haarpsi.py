"""Haar wavelet-based perceptual similarity index (Reisenhofer et al. 2018)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.evaluation.metrics.inputs import checked
from cus.models.halving import halved, halved_mask, yiq

_C, _ALPHA = 30.0, 4.2  # for values in [0, 255]
_SCALES = 3
_SMALLEST = 2 ** (_SCALES + 1)


def haarpsi_maps(image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Similarities and weights, each [3, ceil(H/2), ceil(W/2)], of two RGB pictures [3, H, W].

    The first two maps belong to the luma's horizontal and vertical wavelets, the third to the two chroma channels.
    """
    x, y = (halved(255 * yiq(picture)) for picture in (image, target))
    luma = torch.stack([_wavelets(x[:1]), _wavelets(y[:1])])  # [2, scale, orientation, h, w]
    similarity = _similarity(luma[0, :2], luma[1, :2]).mean(dim=0)
    weights = luma[:, 2].amax(dim=0)
    chroma = torch.stack([F.avg_pool2d(F.pad(p[1:], [0, 1, 0, 1]), 2, stride=1).abs() for p in (x, y)])
    chroma_similarity = _similarity(chroma[0], chroma[1]).mean(dim=0, keepdim=True)
    return torch.cat([similarity, chroma_similarity]), torch.cat([weights, weights.mean(dim=0, keepdim=True)])


def haarpsi(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Weighted similarity of Haar wavelet coefficients, in [0, 1]; 1 for equal pictures (Eqs. 10 to 12 of the paper).

    Computed for colours at half size, with three scales, C = 30 and alpha = 4.2. If all weights are zero (no structure
    in either picture) the index is 1.

    Args:
        image: [3, H, W] RGB in [0, 1], at least 16x16.
        target: Picture of the same shape.
        mask: [H, W] bool. The weighted sums are over its pixels: at half size, each has the fraction of its 2x2 pixels
            inside the mask as weight. Outside the mask the target replaces the image.

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    image, target, mask = checked(image, target, mask, smallest=_SMALLEST)
    similarity, weights = haarpsi_maps(image, target)
    weights = weights * halved_mask(mask, weights)
    total = weights.sum()
    if total == 0:
        return 1.0
    score = (weights * torch.sigmoid(_ALPHA * similarity)).sum() / total
    return min(1.0, float((torch.logit(score) / _ALPHA) ** 2))


def _wavelets(luma: Tensor) -> Tensor:
    """Magnitudes of the Haar coefficients [scale, orientation, h, w] of [1, h, w], fine to coarse, zero-padded."""
    found = []
    for scale in range(1, _SCALES + 1):
        size = 2**scale
        step = torch.full((size, size), 1 / size, dtype=luma.dtype)
        step[size // 2 :] *= -1
        before, after = size // 2 - 1, size // 2
        padded = F.pad(luma, [before, after, before, after])
        found.append(F.conv2d(padded, torch.stack([step, step.T])[:, None]).abs())
    return torch.stack(found)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Similarity of two magnitudes, in (0, 1]."""
    return (2 * x * y + _C) / (x**2 + y**2 + _C)
