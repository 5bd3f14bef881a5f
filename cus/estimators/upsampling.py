"""Enlarges depth and confidence to the size of the photographs without smearing depth edges."""

import torch
import torch.nn.functional as F
from torch import Tensor

SAME_SURFACE = 0.03  # relative spread of inverse depth within which four neighbours form one surface
COLOR_SIGMA = 0.06


def enlarge(inverse_depths: Tensor, confidences: Tensor, small: Tensor, large: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depths and confidences [H, W] at the size of the large picture.

    On one surface inverse depth is interpolated bilinearly (exact for planes). Across a depth edge every pixel takes
    the most similarly coloured of the 3x3 low-resolution pixels around it.

    Args:
        inverse_depths: [h, w] inverse depths.
        confidences: [h, w] confidences in [0, 1].
        small: [3, h, w] picture at low resolution.
        large: [3, H, W] picture.
    """
    height, width = large.shape[-2:]
    rows, columns = inverse_depths.shape
    y = (torch.arange(height, device=large.device) + 0.5) * rows / height - 0.5
    x = (torch.arange(width, device=large.device) + 0.5) * columns / width - 0.5
    corner_y, corner_x = y.floor().long(), x.floor().long()
    corners = []
    for dy in (0, 1):
        for dx in (0, 1):
            at_y, at_x = (corner_y + dy).clamp(0, rows - 1), (corner_x + dx).clamp(0, columns - 1)
            corners.append(inverse_depths[at_y][:, at_x])
    stacked = torch.stack(corners)
    smooth = stacked.amax(dim=0) - stacked.amin(dim=0) <= SAME_SURFACE * stacked.amax(dim=0)

    nearest_y, nearest_x = (y + 0.5).floor().long(), (x + 0.5).floor().long()
    best = torch.full((height, width), -torch.inf, device=large.device)
    chosen = torch.zeros_like(best)
    trusted = torch.zeros_like(best)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            at_y, at_x = (nearest_y + dy).clamp(0, rows - 1), (nearest_x + dx).clamp(0, columns - 1)
            color = (small[:, at_y][:, :, at_x] - large).square().sum(dim=0)
            away = (at_y - y).square()[:, None] + (at_x - x).square()[None]
            score = -color / (2 * COLOR_SIGMA**2) - away
            better = score > best
            best = torch.where(better, score, best)
            chosen = torch.where(better, inverse_depths[at_y][:, at_x], chosen)
            trusted = torch.where(better, confidences[at_y][:, at_x], trusted)
    linear, confident = (
        F.interpolate(value[None, None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        for value in (inverse_depths, confidences)
    )
    return torch.where(smooth, linear, chosen), torch.where(smooth, confident, trusted)
