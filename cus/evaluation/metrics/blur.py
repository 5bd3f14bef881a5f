"""The Gaussian blur with which a picture scores best: how much a classical row gains by smoothing alone."""

import cv2
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from cus.evaluation.metrics.inputs import checked, checked_image
from cus.evaluation.metrics.weight_free import psnr

BLUR_GRID = (0.0, *(0.25 * 2 ** (k / 2) for k in range(13)))  # 0, then 0.25 to 16 pixels in steps of sqrt(2)
_TOLERANCE = 0.01  # pixels


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """A picture [3, H, W] under a Gaussian of `sigma` pixels, mirrored at its borders; unchanged with 0."""
    if sigma == 0:
        return image
    pixels = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    blurred = cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return torch.from_numpy(np.ascontiguousarray(blurred.transpose(2, 0, 1))).to(image)


def best_blur(image: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[float, Tensor]:
    """Find the Gaussian blur of a picture with the highest PSNR.

    Searches all of `BLUR_GRID`, then the interval around its best sigma, to 0.01 pixels. The result is at least as good
    as every sigma of the grid, including 0 (no blur); it is chosen with the target, so it is an upper bound, not a
    method.

    Args:
        image: [3, H, W] in [0, 1], float32 or float64.
        target: Picture of the same shape.
        mask: [H, W] bool, pixels to score; the blur itself uses all pixels.

    Returns:
        Sigma in pixels, in [0, 16], and the blurred picture [3, H, W].

    Raises:
        ValueError: invalid pictures or mask (`checked`).
    """
    checked(image, target, mask)
    image = checked_image(image).to(image)

    def loss(sigma: float) -> float:
        return -psnr(gaussian_blur(image, sigma), target, mask)

    losses = [loss(sigma) for sigma in BLUR_GRID]
    best = int(np.argmin(losses))  # the first among equals, i.e. the least blur
    low, high = BLUR_GRID[max(best - 1, 0)], BLUR_GRID[min(best + 1, len(BLUR_GRID) - 1)]
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": _TOLERANCE})
    sigma = float(found.x) if found.fun < losses[best] else BLUR_GRID[best]
    return sigma, gaussian_blur(image, sigma)
