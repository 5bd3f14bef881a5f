"""Input checks of all metrics, and masked means."""

import torch
from torch import Tensor

_ROUNDING = 1e-4  # resampling and compositing exceed [0, 1] by at most this much


class PictureTooSmall(ValueError):
    """The metric is not defined for pictures of this size."""


def checked_image(image: Tensor, name: str = "image") -> Tensor:
    """A picture [3, H, W] as float64 on the CPU, where weight-free metrics are computed: the same on every machine.

    Values outside [0, 1] by rounding (1e-4) are clamped.

    Raises:
        ValueError: a wrong shape, NaN or infinite values, or values outside [0, 1].
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"{name} is {list(image.shape)}; expected [3, H, W]")
    image = image.detach().to("cpu", torch.float64)
    if not image.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values")
    low, high = float(image.min()), float(image.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(f"{name} has values from {low:.4g} to {high:.4g}; expected [0, 1]: clamp or rescale it first")
    return image.clamp(0, 1)


def checked(
    image: Tensor, target: Tensor, mask: Tensor | None, smallest: int = 1
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Image, target [3, H, W] (float64) and mask [H, W] (bool) on the CPU; the mask is None if everything counts.

    Outside the mask the returned image equals the target: windows that reach across the mask's edge see no error there,
    so nothing outside the mask can change a score.

    Args:
        image: [3, H, W] RGB in [0, 1].
        target: Picture of the same shape.
        mask: [H, W] bool, True where pixels count; None for all.
        smallest: Minimum height and width for the metric in pixels.

    Raises:
        PictureTooSmall: a side is shorter than `smallest`.
        ValueError: shapes differ, values are not in [0, 1], or the mask is not bool or has no True pixel.
    """
    image, target = checked_image(image), checked_image(target, "target")
    if image.shape != target.shape:
        raise ValueError(f"image is {list(image.shape)} but target {list(target.shape)}; expected one shape")
    if min(image.shape[1:]) < smallest:
        raise PictureTooSmall(
            f"pictures are {list(image.shape[1:])}; this metric needs at least {smallest} pixels a side"
        )
    if mask is None:
        return image, target, None
    if mask.shape != image.shape[1:] or mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype} {list(mask.shape)}; expected torch.bool {list(image.shape[1:])}")
    if not mask.any():
        raise ValueError("the mask has no True pixel: there is nothing to score")
    mask = mask.cpu()
    return torch.where(mask, image, target), target, None if mask.all() else mask


def masked_mean(values: Tensor, mask: Tensor | None) -> float:
    """Mean of a map [..., H, W] over the True pixels of a mask [H, W]; over everything without one."""
    return float(values.mean() if mask is None else values[..., mask].mean())
