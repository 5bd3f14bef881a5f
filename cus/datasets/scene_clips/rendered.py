"""Renders of a fitted scene, and their PSNR against photographs."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rendered:
    """Renders of a fit from N cameras.

    Attributes:
        images: [N, 3, H, W] in [0, 1], over black.
        alphas: [N, H, W] opacities in [0, 1].
        depths: [N, H, W] z-depths in scene units, 0 where the opacity is below one half.
    """

    images: Tensor
    alphas: Tensor
    depths: Tensor


def psnr(images: Tensor, targets: Tensor, mask: Tensor) -> float:
    """PSNR in dB of images [..., 3, H, W] in [0, 1] against targets, over mask [..., H, W]; infinite for equal ones."""
    errors = (images.clamp(0, 1) - targets).square().mean(dim=-3)[mask]
    return -10 * math.log10(float(errors.mean())) if len(errors) and float(errors.mean()) > 0 else math.inf
