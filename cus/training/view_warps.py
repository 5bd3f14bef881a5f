"""Differentiable warps of pictures and features between two posed views, by the depth of one of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

EDGE = 1e-3  # minimum z-depth of a point in front of a camera, in scene units


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
