"""One target of the fused warp: the depth that the references' meshes give it, and the mean of what they show there."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cus.conditioning.fused.blend import Layer, normalised
from cus.conditioning.fused.operations import Operations
from cus.conditioning.fused.views import Placement, View


def drawn_inverse_depth(
    views: Sequence[View],
    places: Sequence[Placement],
    size: tuple[int, int],
    operations: Operations,
    limits: Tensor | None = None,
) -> Tensor:
    """[H, W] the fused 1 / z of a target, 0 in holes.

    Args:
        views: V references.
        places: where they stand towards the target.
        size: (H, W) of the target.
        operations: in tensor operations, or in kernels.
        limits: see `cus.conditioning.fused.mesh.rasterise`.
    """
    surfaces = [
        operations.rasterise(view.depths, view.confidences, view.reliable, view.slopes, place.M, place.v, size, limits)
        for view, place in zip(views, places, strict=True)
    ]
    return operations.fuse_depths(surfaces)


def mixed(layers: Sequence[Layer]) -> tuple[Tensor, Tensor]:
    """The layers' mean by weight [3, H, W], not clamped, and the weights [V, H, W], which sum to 1 where any sees."""
    weights = normalised(torch.stack([layer.weights for layer in layers]))
    image = torch.stack([share * layer.colors for share, layer in zip(weights, layers, strict=True)]).sum(dim=0)
    return image, weights
