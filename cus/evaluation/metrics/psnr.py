"""Peak signal-to-noise ratio, plain and after a colour fit."""

import math

import torch
from torch import Tensor

from cus.evaluation.metrics.inputs import checked, masked_mean

PSNR_CAP = 100.0


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
