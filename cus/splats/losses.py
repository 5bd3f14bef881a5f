"""Losses of the fit, and the weight of each image in them (Section III-E)."""

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.cpu.ssim import SMALLEST_WIDTH, ssim_cpu

# Of SSIM, for values in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2
_RADIUS = 5  # the usual window of 11 x 11
_SIGMA = 1.5
_BLOCK = 64
# The expected depth of a pixel is not meaningful if less than half of the pixel is covered.
_COVERED = 0.5
# One doubling of the magnification counts as this many baselines; see `image_confidence`.
_BASELINES_PER_OCTAVE = 0.25


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) with an 11 x 11 Gaussian window, differentiable.

    Images are mirrored at their borders.

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


def disparity_error(expected: Tensor, alphas: Tensor, depths: Tensor, weights: Tensor) -> Tensor:
    """Mean of |d / d_rendered - 1|, the error of the disparity 1 / d relative to the known one.

    Relative, so that the unit of the scene cancels; in disparity, because parallax measures disparity: a matching error
    of one pixel is the same error in disparity at any depth, and a wrong far depth hardly moves a picture.

    Args:
        expected: Rendered expected depth [H, W], > 0 where covered.
        alphas: Coverage [H, W] in [0, 1]; pixels less than half covered do not count.
        depths: Known z-depths [H, W], 0 = none.
        weights: Confidence [H, W] in [0, 1].

    Returns:
        One number, averaged over all pixels.
    """
    counts = (depths > 0) & (alphas.detach() > _COVERED)
    # A depth half as large as known is an error of 1; still nearer ones must not outweigh all others together.
    safe = expected.where(counts, expected.new_ones(())).clamp_min(1e-12)
    errors = (depths / safe - 1).abs().clamp_max(1.0)
    return (errors * weights * counts).mean()


def image_confidence(
    cameras: Cameras, reference_cameras: Cameras, *, baseline: float | None = None, falloff: float = 1.0
) -> Tensor:
    """W_image: 1 at a reference, decreasing with the distance to the nearest one (the paper gives no formula).

        W = exp(-falloff * d),  d^2 = (distance of the centres / baseline)^2 + (log2(focal / reference focal) / 4)^2

    The reference with the smallest d counts. Distances are in units of the reference baseline, as in 3DGS-Enhancer, so
    the scale of the scene cancels. A longer lens counts too, because a camera that zooms gives the same generated
    detail as one that moves closer; but only a quarter of a baseline per doubling: the colours and geometry of a zoomed
    frame still lie under pixels that a reference saw from the same position. So a x4 zoom on the spot has weight 0.61,
    as has the middle between two references; a baseline outside them gives 0.37.

    Args:
        cameras: N generated views.
        reference_cameras: At least one camera; focal lengths must be for the same image size.
        baseline: Length in scene units; default: the mean distance of each reference to its nearest neighbour.
        falloff: Rate of the exponential, >= 0; 0 gives every image the weight 1.

    Returns:
        Weights [N] in (0, 1].

    Raises:
        ValueError: The baseline is needed (a single reference, or all in one place) or an image size differs.
    """
    if (cameras.width, cameras.height) != (reference_cameras.width, reference_cameras.height):
        raise ValueError("cameras and reference_cameras must be for the same image size; see Cameras.resized")
    centers = reference_cameras.centers
    if baseline is None:
        gaps = torch.cdist(centers, centers).fill_diagonal_(float("inf")).amin(dim=1)
        baseline = float(gaps.mean())
    if not 0 < baseline < float("inf"):
        raise ValueError(f"the references span no baseline ({baseline}); give `baseline` in scene units")
    moved = torch.cdist(cameras.centers, centers) / baseline
    focals, reference_focals = cameras.Ks[:, 0, 0], reference_cameras.Ks[:, 0, 0]
    octaves = torch.log2(focals[:, None] / reference_focals[None])
    distances = torch.hypot(moved, _BASELINES_PER_OCTAVE * octaves)
    return torch.exp(-falloff * distances.amin(dim=1))
