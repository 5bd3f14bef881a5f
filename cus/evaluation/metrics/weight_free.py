"""Metrics of a picture and its truth that need no weights: PSNR, SSIM, GMSD and HaarPSI."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cus.evaluation.metrics.inputs import checked, masked_mean
from cus.models.gradient_similarity import deviation, gmsd_map, halved, halved_mask, yiq

PSNR_CAP = 100.0
# Of SSIM.
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the data range L = 1
_RADIUS, _SIGMA = 5, 1.5  # window of 11 x 11
_BORDER = cv2.BORDER_REFLECT_101  # mirrored about the outermost pixels
# Of HaarPSI.
_C, _ALPHA = 30.0, 4.2  # for values in [0, 255]
_SCALES = 3
_SMALLEST = 2 ** (_SCALES + 1)


def psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """-10 log10 of the mean squared error over pixels and channels, dB; `PSNR_CAP` at most and for equal pictures.

    The cap keeps means over several pictures finite. Different 8-bit pictures only reach it if fewer than one in
    150,000 values differs, by one step.

    Args:
        image: [3, H, W] RGB in [0, 1].
        target: Picture of the same shape.
        mask: [H, W] bool, the pixels that count; None for all.

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    image, target, mask = checked(image, target, mask)
    error = masked_mean((image - target).square(), mask)
    return min(PSNR_CAP, -10 * math.log10(error)) if error > 0 else PSNR_CAP


def color_corrected_psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """PSNR after the affine map of RGB that best matches the picture to the target; never below `psnr`.

    Photographs of one scene differ in exposure and white balance by up to half a stop, which no method can know from
    the references and which would decide whole tables. The map (3x3 and an offset, least squares over the pixels that
    count) removes this; as in multinerf it is fitted to the truth, so the number is shown next to the plain one.

    Args:
        image: [3, H, W] RGB in [0, 1].
        target: Picture of the same shape.
        mask: [H, W] bool, the pixels that count and to which the map is fitted; None for all.

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    return psnr(color_corrected(image, target, mask), target, mask)


def color_corrected(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The picture [3, H, W] float64 after the affine colour map that best matches the target, clamped."""
    image, target, mask = checked(image, target, mask)
    # `checked` replaced the picture by the target outside the mask: those pixels must not enter the fit.
    counted = torch.ones(image.shape[1:], dtype=torch.bool) if mask is None else mask
    colors = torch.cat([image[:, counted], image.new_ones(1, int(counted.sum()))]).T
    # The pseudo-inverse also handles pictures of a single colour.
    fitted = torch.linalg.lstsq(colors, target[:, counted].T, driver="gelsd").solution
    corrected = torch.einsum("ij,ihw->jhw", fitted[:3], image) + fitted[3][:, None, None]
    return corrected.clamp(0, 1)


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
    """Structural similarity (Wang et al. 2004): mean of its map over pixels and RGB channels.

    11x11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03.

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


def gmsd(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of the similarity of gradient magnitudes (Xue et al. 2014); 0 for equal pictures.

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
    return float(deviation(similarity, halved_mask(mask, similarity)))


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
    """Weighted similarity of Haar wavelet coefficients, in [0, 1]; 1 for equal pictures.

    Eqs. 10 to 12 of Reisenhofer et al. 2018.

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
