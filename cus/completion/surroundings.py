"""Smooth fills: a pyramid of weighted means continues the surroundings of a hole, far surfaces first."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Holes open where something near hides something far. Where the two meet, within this many cells of a level of the
# pyramid, a cell's weight is its depth relative to the largest, to this power.
_REACH, _DISTANCE_POWER = 1, 3
# The border of a hole is compared with the depths expected in the hole, within this many pixels.
_BORDER = 4


def fill_holes(images: Tensor, known: Tensor, depths: Tensor | None = None) -> Tensor:
    """Fill holes by continuing their surroundings, far surfaces first.

    A pyramid of weighted means of known pixels fills the unknown ones (push and pull: Gortler et al., "The Lumigraph",
    1996), so wider holes get smoother fills. Near and far are compared on each level between neighbouring cells: what
    is farther away elsewhere in the picture does not count. Known pixels do not change; an image without known pixels
    stays black.

    Args:
        images: [T, C, H, W] in [0, 1].
        known: [T, H, W] bool, False in holes.
        depths: [T, H, W] z-depths in any unit, positive where known; None: near and far have equal weights.
    """
    # Memory is measured with shapes without values: behave as if there were holes.
    if not known.is_meta and bool(known.all()):
        return images
    weights = known.to(images.dtype)[:, None]
    if depths is None:
        filled = _pulled(images, weights, None)
    else:
        seen = torch.where(known, depths.to(images), 0)[:, None]
        everywhere = torch.where(known[:, None], seen, _pulled(seen, weights, seen))
        filled = _pulled(images, weights * _far_first(seen, everywhere, _BORDER), seen)
    return torch.where(known[:, None], images, filled).clamp(0, 1)


def _far_first(depths: Tensor, all_depths: Tensor, reach: int) -> Tensor:
    """[T, 1, h, w] weights of cells by their depths relative to the largest of `all_depths` within `reach` cells."""
    largest = F.max_pool2d(all_depths, 2 * reach + 1, 1, reach).clamp(min=1e-12)
    return (depths / largest).clamp(0.1, 1) ** _DISTANCE_POWER


def _pulled(values: Tensor, weights: Tensor, depths: Tensor | None) -> Tensor:
    """Blend values [T, C, h, w] with means over ever larger cells where their weights [T, 1, h, w] are below 1."""
    height, width = values.shape[-2:]
    if max(height, width) == 1:
        return values
    if depths is not None:
        weights = weights * _far_first(depths, depths, _REACH)
    margin = (0, width % 2, 0, height % 2)
    mean_weights = F.avg_pool2d(F.pad(weights, margin), 2)
    pushed, pushed_depths = (
        None if maps is None else F.avg_pool2d(F.pad(maps * weights, margin), 2) / mean_weights.clamp(min=1e-30)
        for maps in (values, depths)
    )
    assert pushed is not None
    coarse = _pulled(pushed, mean_weights, pushed_depths)
    trust = mean_weights + 1e-3  # cells with few known or only near pixels hardly count for their neighbours
    both = F.interpolate(torch.cat([coarse * trust, trust], dim=1), scale_factor=2.0, mode="bilinear")
    up = (both[:, :-1] / both[:, -1:])[..., :height, :width]
    return torch.lerp(up, values, weights)
