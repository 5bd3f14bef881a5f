"""Peak signal-to-noise ratio, plain and after a fit of the colours."""

import math

import torch
from torch import Tensor

from cus.evaluation.metrics.inputs import checked, masked_mean

PSNR_CAP = 100.0


def psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """-10 log10 of the mean squared error over pixels and channels, dB; at most `PSNR_CAP`, which equal pictures get.

    The cap keeps means over several pictures finite. Of 8-bit pictures that differ, only those reach it that differ by
    one step in fewer than one of 150,000 values.

    Args:
        image: [3, H, W] in [0, 1].
        target: Of the same shape.
        mask: [H, W] bool, the pixels that count; None for all.

    Raises:
        ValueError: see `checked`.
    """
    image, target, mask = checked(image, target, mask)
    error = masked_mean((image - target).square(), mask)
    return min(PSNR_CAP, -10 * math.log10(error)) if error > 0 else PSNR_CAP


def color_corrected_psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """PSNR after the affine map of RGB that brings the picture nearest to the target; never below `psnr`.

    Photographs of one scene differ in exposure and white balance by up to half a stop, which no method can know from
    the references and which then decides whole tables. The map (3x3 and an offset, least squares over the pixels that
    count) takes that out; as in multinerf it is fitted to the truth, so the number is shown beside the plain one.

    Args:
        image: [3, H, W] in [0, 1].
        target: Of the same shape.
        mask: [H, W] bool, the pixels that count and that the map is fitted to; None for all.

    Raises:
        ValueError: see `checked`.
    """
    return psnr(color_corrected(image, target, mask), target, mask)


def color_corrected(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The picture [3, H, W] float64 under the affine map of its colours that is nearest to the target, clamped."""
    image, target, mask = checked(image, target, mask)
    # `checked` put the target in the picture's place beyond the mask: those pixels must not enter the fit.
    counted = torch.ones(image.shape[1:], dtype=torch.bool) if mask is None else mask
    colors = torch.cat([image[:, counted], image.new_ones(1, int(counted.sum()))]).T
    # The pseudo-inverse takes pictures of one colour, too.
    fitted = torch.linalg.lstsq(colors, target[:, counted].T, driver="gelsd").solution
    corrected = torch.einsum("ij,ihw->jhw", fitted[:3], image) + fitted[3][:, None, None]
    return corrected.clamp(0, 1)
