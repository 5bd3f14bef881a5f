"""Pictures of a fitted scene, and how near they come to photographs."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rendered:
    """What a fit shows to N cameras.

    Attributes:
        images: [N, 3, H, W] in [0, 1], over black.
        alphas: [N, H, W] opacities.
        depths: [N, H, W] z-depths in scene units, 0 where less than half is opaque.
    """

    images: Tensor
    alphas: Tensor
    depths: Tensor


def psnr(images: Tensor, targets: Tensor, mask: Tensor) -> float:
    """PSNR in dB of images [..., 3, H, W] in [0, 1] against targets, over mask [..., H, W]; infinite where equal."""
    errors = (images.clamp(0, 1) - targets).square().mean(dim=-3)[mask]
    return -10 * math.log10(float(errors.mean())) if len(errors) and float(errors.mean()) > 0 else math.inf
