"""Sample pictures and their measures."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import save_image


def psnr(images: Tensor, targets: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images [..., 3, H, W] in [0, 1], over `mask` [..., H, W] if given."""
    errors = (images.clamp(0, 1) - targets).square().mean(-3)
    mean = errors.mean() if mask is None else errors[mask].mean()
    return float(-10 * torch.log10(mean))


def box_blurred(images: Tensor, radius: int = 1) -> Tensor:
    """Box blur of [N, 3, H, W] with replicated borders: a baseline for restorers of noisy warps."""
    if radius == 0:
        return images
    return F.avg_pool2d(F.pad(images, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)


def save_grid(path: Path, images: Tensor | Sequence[Tensor], columns: int) -> None:
    """Write [3, H, W] images in [0, 1] as one PNG with `columns` pictures per row; smaller ones get black margins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    padded = [F.pad(image, (0, width - image.shape[-1], 0, height - image.shape[-2])) for image in images]
    save_image(torch.stack(padded).float().cpu().clamp(0, 1), path, nrow=columns)
