"""Losses for learning depth without labels, from posed pictures only.

Photometric reprojection with the minimum over views and automasking, and edge-aware smoothness follow Godard et
al. 2019; consistency follows Bian et al. 2019.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.training.view_warps import projected, resized, sampled

View = tuple[Tensor, Tensor, Tensor]
"""Another view: picture [B, 3, H, W], intrinsics [B, 3, 3], and transform from a view's camera [B, 4, 4]."""
SSIM_SHARE = 0.85
NOWHERE = 10.0  # larger than any photometric error


def photometric(first: Tensor, second: Tensor) -> Tensor:
    """[B, 1, H, W] photometric error of pictures [B, 3, H, W] in [0, 1]: SSIM over 3x3 pixels and L1, 0 if equal."""
    a, b = (F.pad(picture, (1, 1, 1, 1), mode="reflect") for picture in (first, second))
    mean_a, mean_b = _box(a), _box(b)
    var_a = _box(a * a) - mean_a**2
    var_b = _box(b * b) - mean_b**2
    cov = _box(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    dissimilarity = ((1 - ssim) / 2).clamp(0, 1)
    return (SSIM_SHARE * dissimilarity + (1 - SSIM_SHARE) * (first - second).abs()).mean(1, keepdim=True)


def reprojection(
    image: Tensor,
    depths: Tensor,
    K: Tensor,
    others: Sequence[View],
    *,
    automasking: bool = True,
    halvings: int = 3,
) -> Tensor:
    """Photometric error of other views warped to a view by its depth; the best of the other views counts.

    Pixels that no other view can see are excluded and, with automasking, also those that some other view shows better
    at the same position (objects that move with the camera). Halved pictures have the same weight as whole ones: in
    them, even a depth that is far off gets a useful gradient.

    Args:
        image: [B, 3, H, W] in [0, 1], the view.
        depths: [B, 1, H, W] z-depths of the view.
        K: [B, 3, 3] intrinsics of the view.
        others: other views of the scene.
        automasking: whether to use automasking; in static scenes it also excludes pixels whose depth is still far off.
        halvings: number of halved pictures in addition to the full size.
    """
    total = image.new_zeros(())
    for halving in range(halvings + 1):
        factor = 0.5**halving
        small = _halved(image, halving)
        depth = _halved(depths, halving)
        errors, unmoved = [], []
        for other, other_K, viewmats in others:
            picture = _halved(other, halving)
            pixels, _, inside = projected(depth, resized(K, factor), resized(other_K, factor), viewmats)
            error = photometric(sampled(picture, pixels), small)
            errors.append(torch.where(inside, error, NOWHERE))
            if automasking:
                unmoved.append(photometric(picture, small))
        best = torch.cat(errors, dim=1).amin(dim=1)
        counts = best < (torch.cat(unmoved, dim=1).amin(dim=1) if automasking else NOWHERE)
        total = total + (best * counts).sum() / counts.sum().clamp(min=1)
    return total / (halvings + 1)


def smoothness(depths: Tensor, image: Tensor) -> Tensor:
    """Differences of the inverse depth [B, 1, H, W], relative to its mean, where the picture [B, 3, H, W] is smooth."""
    inverse = 1 / depths
    inverse = inverse / inverse.mean(dim=(2, 3), keepdim=True)
    total = image.new_zeros(())
    for axis in (-1, -2):
        edges = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (inverse.diff(dim=axis).abs() * torch.exp(-8 * edges)).mean()
    return total


def consistency(depths: Tensor, other_depths: Tensor, K: Tensor, other_K: Tensor, viewmats: Tensor) -> Tensor:
    """Disagreement between the depths of two views, in [0, 1].

    Args:
        depths: [B, 1, H, W] z-depths of the view.
        other_depths: [B, 1, H, W] z-depths of the other view.
        K: [B, 3, 3] intrinsics of the view.
        other_K: [B, 3, 3] intrinsics of the other view.
        viewmats: [B, 4, 4] from the view's camera to the other's.
    """
    pixels, there, inside = projected(depths, K, other_K, viewmats)
    found = sampled(other_depths, pixels)
    error = (there - found).abs() / (there.clamp(min=0) + found)
    return (error * inside).sum() / inside.sum().clamp(min=1)


def _box(values: Tensor) -> Tensor:
    """Means over 3x3 pixels without padding; pooling is several times slower on a CPU."""
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


def _halved(pictures: Tensor, times: int) -> Tensor:
    return pictures if times == 0 else F.avg_pool2d(pictures, 2**times)
