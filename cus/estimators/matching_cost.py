"""How badly the reference and its sources match on a plane: a soft census, fused with the warp.

Neighbour differences are compared after a clamp (a census of more than one bit): blind to an offset in brightness,
robust to outliers, and smooth enough for subpixel depth. `plane_cost` is the compiled form for the CPU;
`plane_cost_torch` says the same in tensor operations, for other devices and as its reference.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

CONTRAST = 0.06  # difference between neighbours, in [0, 1] grey, at which the cost saturates


def plane_cost(
    gray: Tensor, source: Tensor, source_valid: Tensor, rays: Tensor, shift: Tensor, plane: float, window: int
) -> Tensor:
    """Dissimilarity in [0, 1] of each pixel and what the source shows of it on one plane; inf where it shows nothing.

    Args:
        gray: [H, W] reference.
        source: [H, W] picture of the source.
        source_valid: [H, W] bool, False on padding.
        rays: [3, H, W] homogeneous source pixels of the reference's pixels at infinity.
        shift: [3] homogeneous displacement per unit of inverse depth.
        plane: inverse depth.
        window: side of the compared window in pixels, odd.
    """
    if gray.device.type != "cpu":
        return plane_cost_torch(gray, source, source_valid, rays, shift, plane, window)
    warped, seen = _warp(source.numpy(), source_valid.numpy(), rays.numpy(), shift.numpy(), np.float32(plane))
    reach = window // 2
    reference = F.pad(gray[None, None], (reach,) * 4, mode="replicate")[0, 0].numpy()
    warped = F.pad(torch.from_numpy(warped)[None, None], (reach,) * 4, mode="replicate")[0, 0].numpy()
    cost = _soft_census(reference, warped, reach, np.float32(1.0 / CONTRAST))
    return torch.from_numpy(cost).masked_fill_(torch.from_numpy(~seen), torch.inf)


def plane_cost_torch(
    gray: Tensor, source: Tensor, source_valid: Tensor, rays: Tensor, shift: Tensor, plane: float, window: int
) -> Tensor:
    """`plane_cost` in tensor operations, on any device."""
    height, width = gray.shape
    x, y, z = rays + shift[:, None, None] * plane
    safe = z.clamp(min=1e-6)
    pixels = torch.stack([x / safe, y / safe], dim=-1)
    size = pixels.new_tensor([width, height])
    seen = (z > 1e-6) & (pixels > 0).all(dim=-1) & (pixels < size).all(dim=-1)
    grid = (pixels / size * 2 - 1).clamp(-2.0, 2.0)[None]
    warped = F.grid_sample(source[None, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    column, row = (pixels[..., i].nan_to_num().clamp(0, side - 1).long() for i, side in ((0, width), (1, height)))
    seen &= source_valid[row, column]

    cost = torch.zeros_like(gray)
    reach = window // 2
    padded = [F.pad(image[None, None], (reach,) * 4, mode="replicate")[0, 0] for image in (gray, warped)]
    for dy in range(window):
        for dx in range(window):
            differences = [
                ((pad[dy : dy + height, dx : dx + width] - image) / CONTRAST).clamp(-1.0, 1.0)
                for pad, image in zip(padded, (gray, warped), strict=True)
            ]
            cost += (differences[0] - differences[1]).abs()
    return (cost / (2 * (window * window - 1))).masked_fill_(~seen, torch.inf)


@njit(cache=True, fastmath=True, nogil=True)
def _warp(source, source_valid, rays, shift, plane):  # pragma: no cover - compiled
    height, width = source.shape
    warped = np.empty((height, width), dtype=np.float32)
    seen = np.empty((height, width), dtype=np.bool_)
    half, one, tiny = np.float32(0.5), np.float32(1.0), np.float32(1e-6)
    for row in range(height):
        for column in range(width):
            z = rays[2, row, column] + shift[2] * plane
            scale = one / max(z, tiny)
            x = (rays[0, row, column] + shift[0] * plane) * scale
            y = (rays[1, row, column] + shift[1] * plane) * scale
            inside = z > tiny and x > 0 and y > 0 and x < width and y < height
            x = min(max(x - half, np.float32(0.0)), np.float32(width - 1))
            y = min(max(y - half, np.float32(0.0)), np.float32(height - 1))
            left, top = int(x), int(y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            fx, fy = x - np.float32(left), y - np.float32(top)
            above = source[top, left] * (one - fx) + source[top, right] * fx
            below = source[bottom, left] * (one - fx) + source[bottom, right] * fx
            warped[row, column] = above * (one - fy) + below * fy
            seen[row, column] = inside and source_valid[int(y + half), int(x + half)]
    return warped, seen


@njit(cache=True, fastmath=True, nogil=True)
def _soft_census(reference, warped, reach, sharpness):  # pragma: no cover - compiled
    height, width = reference.shape[0] - 2 * reach, reference.shape[1] - 2 * reach
    cost = np.zeros((height, width), dtype=np.float32)
    one = np.float32(1.0)
    window = 2 * reach + 1
    norm = np.float32(1.0 / (2 * (window * window - 1)))
    for row in range(height):
        line = cost[row]
        center_r = reference[row + reach, reach : reach + width]
        center_w = warped[row + reach, reach : reach + width]
        for dy in range(window):
            for dx in range(window):
                if dy == reach and dx == reach:
                    continue
                side_r = reference[row + dy, dx : dx + width]
                side_w = warped[row + dy, dx : dx + width]
                for column in range(width):
                    a = min(max((side_r[column] - center_r[column]) * sharpness, -one), one)
                    b = min(max((side_w[column] - center_w[column]) * sharpness, -one), one)
                    line[column] += abs(a - b)
        for column in range(width):
            line[column] *= norm
    return cost
