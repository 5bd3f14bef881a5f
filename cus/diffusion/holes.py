"""Fills holes of conditioning images from their surroundings, for models that restore rather than invent."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Holes open where something near hides something far: a pixel's weight is its depth relative to the largest in a window
# of this fraction of the picture around it, to this power.
_WINDOW, _DISTANCE_POWER = 1 / 2, 6


def fill_holes(images: Tensor, known: Tensor, depths: Tensor | None = None) -> Tensor:
    """Fill holes in conditioning images by continuing their surroundings, far surfaces first.

    A pyramid of weighted means of known pixels fills the unknown ones (push and pull: Gortler et al., "The Lumigraph",
    1996), so wider holes get smoother fills. Known pixels do not change; an image without known pixels stays black.

    Args:
        images: [T, 3, H, W] in [0, 1].
        known: [T, H, W] bool, False in holes.
        depths: [T, H, W] z-depths in any unit, positive where known; None: near and far have equal weights.
    """
    # Memory is measured with shapes without values: behave as if there were holes.
    if not known.is_meta and bool(known.all()):
        return images
    weights = known.to(images.dtype)
    if depths is not None:
        reach = max(1, round(_WINDOW * max(images.shape[-2:]) / 2))
        largest = F.max_pool2d(depths[:, None].to(images), 2 * reach + 1, 1, reach)[:, 0].clamp(min=1e-12)
        weights = weights * (depths.to(images) / largest).clamp(0.1, 1) ** _DISTANCE_POWER
    return torch.where(known[:, None], images, _pulled(images, weights[:, None])).clamp(0, 1)


def _pulled(values: Tensor, weights: Tensor) -> Tensor:
    """Blend values [T, C, h, w] with means over ever larger cells where their weights [T, 1, h, w] are below 1."""
    height, width = values.shape[-2:]
    if max(height, width) == 1:
        return values
    margin = (0, width % 2, 0, height % 2)
    pushed = F.avg_pool2d(F.pad(values * weights, margin), 2)
    mean_weights = F.avg_pool2d(F.pad(weights, margin), 2)
    coarse = _pulled(pushed / mean_weights.clamp(min=1e-30), mean_weights)
    trust = mean_weights + 1e-3  # cells with few known or only near pixels hardly count for their neighbours
    both = F.interpolate(torch.cat([coarse * trust, trust], dim=1), scale_factor=2.0, mode="bilinear")
    up = (both[:, :-1] / both[:, -1:])[..., :height, :width]
    return torch.lerp(up, values, weights)
