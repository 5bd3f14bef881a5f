"""Structural similarity (Wang et al. 2004), with its map."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.evaluation.metrics.inputs import checked, masked_mean

_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1
_RADIUS, _SIGMA = 5, 1.5  # window of 11 x 11


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """Similarity at every pixel, [C, H, W], of two pictures [C, H, W] of at least 6x6; mirrored at the borders."""
    window = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1, dtype=image.dtype) / _SIGMA) ** 2)
    window = window / window.sum()
    stack = torch.stack([image, target, image * image, target * target, image * target])
    shape = stack.shape
    stack = F.pad(stack.flatten(0, 1)[:, None], [_RADIUS] * 4, mode="reflect")
    stack = F.conv2d(F.conv2d(stack, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_x, mean_y, square_x, square_y, product = stack.view(shape).unbind()
    squares, cross = mean_x**2 + mean_y**2, mean_x * mean_y
    likeness = (2 * cross + _C1) * (2 * (product - cross) + _C2)
    return likeness / ((squares + _C1) * (square_x + square_y - squares + _C2))


def ssim(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Mean of the similarity map over pixels and RGB channels: 11x11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03.

    Border rule: pictures are mirrored and every pixel counts, as in torchmetrics. scikit-image
    (`gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`) leaves out the outer 5 pixels: its
    number is the mean of `ssim_map` without them.

    Args:
        image: [3, H, W] in [0, 1], at least 6x6.
        target: Of the same shape.
        mask: [H, W] bool. The map is averaged over its pixels; beyond it the target stands in for the image.

    Raises:
        ValueError: see `checked`.
    """
    image, target, mask = checked(image, target, mask, smallest=_RADIUS + 1)
    return masked_mean(ssim_map(image, target), mask)
