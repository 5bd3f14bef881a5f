"""Peak signal-to-noise ratio."""

import math

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
