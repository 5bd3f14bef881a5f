"""Holes of conditioning images filled from their surroundings, for models that restore what they are shown."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Holes open where something near hides something far: a pixel's weight is its depth, over the largest in a window of
# this share of the picture around it, to this power.
_WINDOW, _DISTANCE_POWER = 1 / 2, 6


def fill_holes(images: Tensor, known: Tensor, depths: Tensor | None = None) -> Tensor:
    """Conditioning images whose holes continue what lies around them, what is far before what is near.

    A pyramid of weighted means of known pixels fills the unknown ones (push and pull: Gortler et al., "The Lumigraph",
    1996), so that the fill is as smooth as its hole is wide. Known pixels stay as they are; an image without any stays
    black.

    Args:
        images: [T, 3, H, W] in [0, 1].
        known: [T, H, W] bool.
        depths: [T, H, W], z-depth in any unit, positive where known; None: near and far count alike.
    """
    # Where memory is counted there are shapes without values: as if there were holes.
    if not known.is_meta and bool(known.all()):
        return images
    weights = known.to(images.dtype)
    if depths is not None:
        reach = max(1, round(_WINDOW * max(images.shape[-2:]) / 2))
        largest = F.max_pool2d(depths[:, None].to(images), 2 * reach + 1, 1, reach)[:, 0].clamp(min=1e-12)
        weights = weights * (depths.to(images) / largest).clamp(0.1, 1) ** _DISTANCE_POWER
    return torch.where(known[:, None], images, _pulled(images, weights[:, None])).clamp(0, 1)


def _pulled(values: Tensor, weights: Tensor) -> Tensor:
    """[T, C, h, w] values, drawn to means over ever larger cells as far as their weights [T, 1, h, w] are below 1."""
    height, width = values.shape[-2:]
    if max(height, width) == 1:
        return values
    margin = (0, width % 2, 0, height % 2)
    pushed = F.avg_pool2d(F.pad(values * weights, margin), 2)
    mean_weights = F.avg_pool2d(F.pad(weights, margin), 2)
    coarse = _pulled(pushed / mean_weights.clamp(min=1e-30), mean_weights)
    trust = mean_weights + 1e-3  # cells that hold little known, or what is near, say little of those beside them
    both = F.interpolate(torch.cat([coarse * trust, trust], dim=1), scale_factor=2.0, mode="bilinear")
    up = (both[:, :-1] / both[:, -1:])[..., :height, :width]
    return torch.lerp(up, values, weights)
