"""Structural similarity (Wang et al. 2004), differentiable."""

import torch
from torch import Tensor

from cus.splats.cpu.ssim import SMALLEST_WIDTH, ssim_cpu

_C1, _C2 = 0.01**2, 0.03**2  # for values in [0, 1]
_RADIUS = 5  # the usual window of 11 x 11
_SIGMA = 1.5
_BLOCK = 64


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Mean structural similarity with an 11 x 11 Gaussian window; images are mirrored at their borders.

    Args:
        images: [..., C, H, W] in [0, 1], H and W at least 6.
        targets: Images of the same shape.

    Returns:
        One number per image [...], at most 1, reached for equal images.
    """
    if images.shape != targets.shape or images.ndim < 3:
        raise ValueError(f"expected two [..., C, H, W] of one shape, got {list(images.shape)}, {list(targets.shape)}")
    if min(images.shape[-2:]) <= _RADIUS:
        raise ValueError(f"SSIM needs images of at least 6x6 pixels, got {list(images.shape[-2:])}")
    if _in_kernels(images, targets):
        window = _window(torch.float32, images.device).numpy()
        return ssim_cpu(images, targets, window, (_C1, _C2)).mean(dim=(-3, -2, -1))
    x, y = images, targets
    mean_x, square_x, product = _blur(torch.stack([x, x * x, x * y])).unbind()
    mean_y, square_y = _blur(torch.stack([y, y * y])).unbind()  # separately, because targets rarely need gradients
    squares, cross = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    likeness = (2 * cross + _C1) * (2 * (product - cross) + _C2)
    size = (squares + _C1) * (square_x + square_y - squares + _C2)
    return (likeness / size).mean(dim=(-3, -2, -1))


def _in_kernels(images: Tensor, targets: Tensor) -> bool:
    """Whether to use the compiled kernels; with gradients they save three quarters of the time."""
    wanted = torch.is_grad_enabled() and images.requires_grad and not targets.requires_grad
    single = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (images, targets))
    return wanted and single and images.shape[-1] >= SMALLEST_WIDTH


def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of the Gaussian window [11] with sum 1."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, device=device)
    weights = torch.exp(-0.5 * (offsets.to(dtype) / _SIGMA) ** 2)
    return weights / weights.sum()


def _blur(maps: Tensor) -> Tensor:
    """Window averages of [..., H, W].

    Computed as products with the blocks of a banded matrix: on CPUs several times faster than a depthwise convolution.
    """
    for _ in range(2):  # columns, then, transposed, rows
        size = maps.shape[-1]
        matrix = _window_matrix(size, maps)
        blocks = []
        for start in range(0, size, _BLOCK):
            end = min(start + _BLOCK, size)
            low, high = max(start - _RADIUS, 0), min(end + _RADIUS, size)
            blocks.append(maps[..., low:high] @ matrix[start:end, low:high].T)
        maps = torch.cat(blocks, dim=-1).transpose(-1, -2)
    return maps


def _window_matrix(n: int, like: Tensor) -> Tensor:
    """Matrix [n, n] that averages a signal of n values with the Gaussian window, mirrored at the ends."""
    places = torch.arange(n, device=like.device)[:, None] + torch.arange(-_RADIUS, _RADIUS + 1, device=like.device)
    places = (n - 1) - ((n - 1) - places.abs()).abs()
    return like.new_zeros(n, n).scatter_add_(1, places, _window(like.dtype, like.device).expand(n, -1).contiguous())
