"""Structural similarity (Wang et al. 2004), with its map."""

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.evaluation.metrics.inputs import checked, masked_mean

_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1
_RADIUS, _SIGMA = 5, 1.5  # window of 11 x 11
_BORDER = cv2.BORDER_REFLECT_101  # mirrored about the outermost pixels


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """Similarity at every pixel, [C, H, W], of two pictures [C, H, W] of at least 6x6; mirrored at the borders."""
    maps = (image, target, image * image, target * target, image * target)
    mean_x, mean_y, square_x, square_y, product = (_windowed(values) for values in maps)
    squares, cross = mean_x**2 + mean_y**2, mean_x * mean_y
    likeness = (2 * cross + _C1) * (2 * (product - cross) + _C2)
    return likeness / ((squares + _C1) * (square_x + square_y - squares + _C2))


def _windowed(values: Tensor) -> Tensor:
    """Window averages of [C, H, W], in float64 for exact variances; OpenCV is ten times faster than torch for this."""
    planes = [cv2.GaussianBlur(plane.numpy(), (2 * _RADIUS + 1,) * 2, _SIGMA, borderType=_BORDER) for plane in values]
    return torch.from_numpy(np.stack(planes))


def ssim(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Mean of the similarity map over pixels and RGB channels: 11x11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03.

    Border rule: pictures are mirrored and every pixel counts, as in torchmetrics. scikit-image (`gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, data_range=1`) omits the outer 5 pixels: its number is the mean of
    `ssim_map` without them.

    Args:
        image: [3, H, W] RGB in [0, 1], at least 6x6.
        target: Picture of the same shape.
        mask: [H, W] bool. The map is averaged over its pixels; outside it the target replaces the image.

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    image, target, mask = checked(image, target, mask, smallest=_RADIUS + 1)
    return masked_mean(ssim_map(image, target), mask)
