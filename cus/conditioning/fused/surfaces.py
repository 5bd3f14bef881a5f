"""One target of the fused warp: its depth from the references' meshes, and the mean of what the references show."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cus.conditioning.fused.blend import Layer, normalised
from cus.conditioning.fused.operations import Operations
from cus.conditioning.fused.sharpening import gate, magnification_of, sharpened
from cus.conditioning.fused.views import Placement, View


def drawn_inverse_depth(
    views: Sequence[View],
    places: Sequence[Placement],
    size: tuple[int, int],
    operations: Operations,
    limits: Tensor | None = None,
) -> Tensor:
    """[H, W] fused 1 / z of a target, 0 in holes.

    Args:
        views: V references.
        places: their positions relative to the target.
        size: (H, W) of the target in pixels.
        operations: tensor operations or kernels.
        limits: [H, W] largest depth of a reliable surface at each pixel; None accepts all.
    """
    surfaces = [
        operations.rasterise(view.depths, view.confidences, view.reliable, view.slopes, place.M, place.v, size, limits)
        for view, place in zip(views, places, strict=True)
    ]
    return operations.fuse_depths(surfaces)


def mixed(layers: Sequence[Layer]) -> tuple[Tensor, Tensor]:
    """The weighted mean of the layers [3, H, W], not clamped, and weights [V, H, W] with sum 1 where any layer sees."""
    weights = normalised(torch.stack([layer.weights for layer in layers]))
    image = torch.stack([share * layer.colors for share, layer in zip(weights, layers, strict=True)]).sum(dim=0)
    return image, weights


def finished(
    views: Sequence[View],
    places: Sequence[Placement],
    layers: Sequence[Layer],
    blended: tuple[Tensor, Tensor],
    mask: Tensor,
    operations: Operations,
) -> tuple[Tensor, Tensor]:
    """The picture of a target, sharpened where the references agree and softened where they do not.

    Args:
        views: V references.
        places: their poses relative to the target.
        layers: their warps to the target.
        blended: the layers' blend by `mixed`.
        mask: [H, W] bool, where there is a surface.
        operations: in tensor operations, or in kernels.

    Returns:
        [3, H, W], not clamped, and [H, W] in 0 .. 1, the share of the detail that they agree on.
    """
    image, weights = blended
    magnification = magnification_of(layers, weights)
    agreement = gate(layers, weights, image, magnification, operations.blur)
    projected = operations.back_projected(views, places, layers, weights, image, mask, magnification)
    return sharpened(image, projected, agreement, magnification, operations.blur), agreement
