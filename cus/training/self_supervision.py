"""Losses for learning depth without labels, from posed pictures only.

Photometric reprojection with the minimum over views and automasking, and edge-aware smoothness follow Godard et
al. 2019; consistency follows Bian et al. 2019.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

View = tuple[Tensor, Tensor, Tensor]
"""Another view: picture [B, 3, H, W], intrinsics [B, 3, 3], and transform from a view's camera [B, 4, 4]."""
SSIM_SHARE = 0.85
NOWHERE = 10.0  # larger than any photometric error
EDGE = 1e-3  # minimum z-depth of a point in front of a camera, in scene units


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


def rays(Ks: Tensor, height: int, width: int) -> Tensor:
    """[B, 3, H * W] directions through the pixel centres with z = 1, of intrinsics [B, 3, 3] in pixels of H x W."""
    xs = torch.arange(width, dtype=Ks.dtype, device=Ks.device) + 0.5
    ys = torch.arange(height, dtype=Ks.dtype, device=Ks.device) + 0.5
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy")).flatten(1)
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return torch.stack([(grid[0] - cx) / fx, (grid[1] - cy) / fy, torch.ones_like(fx * grid[0])], dim=1)


def resized(Ks: Tensor, factor: float) -> Tensor:
    """Intrinsics [..., 3, 3] for pictures whose sides are `factor` times as long."""
    return Ks * Ks.new_tensor([factor, factor, 1.0])[:, None]


def projected(depths: Tensor, Ks: Tensor, other_Ks: Tensor, viewmats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project the points of a view into another camera.

    Args:
        depths: [B, 1, H, W] z-depths of the view.
        Ks: [B, 3, 3] intrinsics of the view in pixels of H x W.
        other_Ks: [B, 3, 3] intrinsics of the other view.
        viewmats: [B, 4, 4] from the view's camera to the other's.

    Returns:
        Pixels in the other view [B, H, W, 2], z-depths there [B, 1, H, W], and which are valid there [B, 1, H, W].
    """
    batch, _, height, width = depths.shape
    # Pixel coordinates need more digits than half precision has.
    with torch.autocast(depths.device.type, enabled=False):
        points = rays(Ks, height, width) * depths.float().flatten(2)
        moved = viewmats[:, :3, :3] @ points + viewmats[:, :3, 3:]
        z = moved[:, 2:].clamp(min=EDGE)
        pixels = (other_Ks @ (moved / z))[:, :2].transpose(1, 2).reshape(batch, height, width, 2)
    size = pixels.new_tensor([width, height])
    inside = ((pixels > 0) & (pixels < size)).all(-1) & (moved[:, 2] > EDGE).reshape(batch, height, width)
    return pixels, moved[:, 2:].reshape(batch, 1, height, width), inside[:, None]


def sampled(values: Tensor, pixels: Tensor) -> Tensor:
    """Inverse warp: `values` [B, C, H, W] sampled bilinearly at pixels [B, h, w, 2]; the border is repeated outside."""
    size = pixels.new_tensor([values.shape[-1], values.shape[-2]])
    grid = 2 * pixels / size - 1
    return F.grid_sample(values.to(grid), grid, padding_mode="border", align_corners=False)


def splatted(values: Tensor, pixels: Tensor, depths: Tensor, inside: Tensor) -> Tensor:
    """Direct warp: splat each pixel of `values` into the other view; nearer ones outweigh farther ones.

    Args:
        values: [B, C, H, W] values to splat.
        pixels: [B, H, W, 2] target pixel of each value.
        depths: [B, 1, H, W] target depth of each value.
        inside: [B, 1, H, W] bool, whether the target is inside the view.

    Returns:
        [B, C, H, W], 0 where no value lands.
    """
    batch, channels, height, width = values.shape
    nearness = 1 / depths.clamp(min=EDGE)
    # A surface that is a tenth nearer than another one has about 2.7 times its weight.
    weight = torch.exp(10 * (nearness / nearness.amax(dim=(2, 3), keepdim=True) - 1)) * inside
    corner = torch.floor(pixels - 0.5)
    share = pixels - 0.5 - corner
    stacked = torch.cat([values.to(weight) * weight, weight], dim=1).flatten(2)
    total = stacked.new_zeros(batch, channels + 1, height * width)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[..., 0] + dx, corner[..., 1] + dy
        part = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
        there = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long().flatten(1)[:, None]
        laid = stacked * (part * there).flatten(1)[:, None]
        total = total.scatter_add(2, index.expand_as(laid), laid)
    total = total.reshape(batch, channels + 1, height, width)
    return total[:, :-1] / total[:, -1:].clamp(min=1e-6)
