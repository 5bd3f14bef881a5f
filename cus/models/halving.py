"""Halving and colour conversion as in GMSD and HaarPSI."""

import torch
from torch import Tensor
from torch.nn import functional as F

_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))  # rows Y, I, Q


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
