"""Hierarchical warping of the reference views into close-up target cameras (Section III-B, Algorithm 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.occlusion import DEPTH_TOLERANCE, leaked_background
from cus.conditioning.reliability import divide_reliability
from cus.conditioning.warp import EMPTY, Projection, enlarge, project_depths, pyramid, repeat, splat, winners
from cus.errors import InputError

if TYPE_CHECKING:
    from cus.estimators import SceneEstimate

Merge = Literal["nearest", "depth"]
LARGEST_SCALE = 64
# The gaps that the coarsest scale has to close: all but the widest few, which steep surfaces stretch without end.
COVERED_QUANTILE = 0.95


@dataclass(frozen=True)
class Layer:
    """A (partly) filled target picture: image [3, H, W], mask [H, W] bool, depths [H, W]."""

    image: Tensor
    mask: Tensor
    depths: Tensor

    def over(self, other: "Layer") -> "Layer":
        """This picture, its holes filled from `other` (Eq. 4)."""
        return Layer(
            torch.where(self.mask, self.image, other.image),
            self.mask | other.mask,
            torch.where(self.mask, self.depths, other.depths),
        )


@dataclass(frozen=True)
class _Reference:
    """A reference view: flat colours [3, N], depths [H, W], reliability masks [N] and its camera."""

    colors: Tensor
    depths: Tensor
    reliable: Tensor
    unreliable: Tensor
    camera: Cameras


def hierarchical_warp(
    scene: "SceneEstimate",
    target_cameras: Cameras,
    suppress_background: bool = True,
    scales: Sequence[int] | None = None,
    *,
    merge: Merge = "nearest",
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """Warp the scene's reference views into target cameras (Algorithm 1).

    Each reference is warped at high resolution and at lower ones; what a lower resolution gives is enlarged mask-aware
    and fills the holes that the higher ones left. Reliable depths go first, then the unreliable ones fill what is still
    open, then the references are merged. Holes that remain are black, masked False, of depth 0.

    Args:
        scene: reference images with cameras, depths (0 = none) and confidences.
        target_cameras: T cameras of any size, on any device.
        suppress_background: remove background that leaks through sparse foreground (Eq. 5). For inference; training
            keeps the leaks, because too clean conditions teach too little.
        scales: divisors of the resolution, ascending, e.g. (1, 4) for the paper's two levels. None chooses 1, 2, 4, ...
            for each reference and target until the spacing of the projected points is covered.
        merge: where references disagree, "nearest" keeps the one whose camera centre is nearest to the target's (the
            paper), "depth" the one whose surface is nearest to the target.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning of the target cameras' size, on the scene's device.

    Raises:
        InputError: no point of the scene lands in any target.
        ValueError: scales that are not ascending positive whole numbers, no target, or an unknown merge.
    """
    if len(target_cameras) < 1:
        raise ValueError("expected at least one target camera")
    if merge not in ("nearest", "depth"):
        raise ValueError(f"merge must be 'nearest' or 'depth', got {merge!r}")
    if scales is not None:
        scales = check_scales(scales)
    targets = target_cameras.to(scene.images.device)
    references = _references(scene)
    tolerance = DEPTH_TOLERANCE * scene.scale if suppress_background and bool(scene.reliable.any()) else math.inf
    distances = torch.cdist(targets.centers, scene.cameras.centers)
    shape = (targets.height, targets.width)
    images = scene.images.new_zeros((len(targets), 3, *shape))
    masks = torch.zeros((len(targets), *shape), dtype=torch.bool, device=images.device)
    depths = scene.depths.new_zeros((len(targets), *shape))
    for index in range(len(targets)):
        warped = _warp_references(references, targets[index], scales, tolerance)
        order = torch.argsort(distances[index], stable=True).tolist()
        merged = _merge([warped[view] for view in order], merge)
        images[index], masks[index], depths[index] = merged.image, merged.mask, merged.depths
        if on_progress is not None:
            on_progress(index + 1, len(targets))
    if not bool(masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: no point of the {len(references)} reference views lands in any of "
            f"the {len(targets)} target cameras; aim the path at what the photographs show, or move it closer to them"
        )
    return Conditioning(images, masks, depths)


def check_scales(scales: Sequence[int]) -> tuple[int, ...]:
    """The scales as a tuple. Raises ValueError unless they are ascending positive whole numbers."""
    checked = tuple(int(scale) for scale in scales)
    if not checked or checked[0] < 1 or list(checked) != sorted(set(checked)) or checked != tuple(scales):
        raise ValueError(f"scales must be ascending positive whole numbers such as (1, 4), got {tuple(scales)}")
    return checked


def scales_for_spacing(spacing: float) -> tuple[int, ...]:
    """1, 2, 4, ... up to the first scale whose cells are no smaller than the spacing of the points, in pixels."""
    scales = [1]
    while scales[-1] < min(spacing, LARGEST_SCALE):
        scales.append(scales[-1] * 2)
    return tuple(scales)


def _references(scene: "SceneEstimate") -> list[_Reference]:
    reliable, unreliable = divide_reliability(scene)
    return [
        _Reference(
            scene.images[view].flatten(1),
            scene.depths[view],
            reliable[view].flatten(),
            unreliable[view].flatten(),
            scene.cameras[view],
        )
        for view in range(len(scene.images))
    ]


def _warp_references(
    references: Sequence[_Reference], target: Cameras, scales: tuple[int, ...] | None, tolerance: float
) -> list[Layer]:
    """Every reference in one target, background suppressed, not yet merged."""
    projections = [project_depths(reference.depths, reference.camera, target) for reference in references]
    sure = [splat(p, reference.reliable) for p, reference in zip(projections, references, strict=True)]
    if math.isfinite(tolerance):
        sure = _suppress(sure, projections, references, target, tolerance)
    layers = []
    for reference, projection, keys in zip(references, projections, sure, strict=True):
        chosen = scales or scales_for_spacing(point_spacing(projection, reference.reliable, reference.camera))
        layer = fill_levels(reference.colors, keys, chosen)
        if not bool(layer.mask.all()):
            layer = layer.over(fill_levels(reference.colors, splat(projection, reference.unreliable), chosen))
        layers.append(layer)
    return layers


def point_spacing(projection: Projection, chosen: Tensor, source: Cameras) -> float:
    """Distance in target pixels between neighbouring source pixels, as a high quantile over the chosen visible ones.

    Measured on every other row and column of the source; 1 where too few neighbours are visible to tell.
    """
    shape = (source.height, source.width)
    x, y = projection.x.view(shape), projection.y.view(shape)
    usable = (projection.visible & chosen).view(shape)
    spacings = []
    for dy, dx in ((0, 1), (1, 0)):
        here = (slice(0, source.height - dy, 2), slice(0, source.width - dx, 2))
        there = (slice(dy, None, 2), slice(dx, None, 2))
        both = usable[here] & usable[there]
        spacings.append(torch.maximum((x[there] - x[here]).abs(), (y[there] - y[here]).abs())[both])
    spacing = torch.cat(spacings)
    if spacing.numel() == 0:
        return 1.0
    return float(spacing.kthvalue(max(1, round(COVERED_QUANTILE * spacing.numel()))).values)


def _suppress(
    buffers: Sequence[Tensor],
    projections: Sequence[Projection],
    references: Sequence[_Reference],
    target: Cameras,
    tolerance: float,
) -> list[Tensor]:
    """Empty the pixels of the z-buffers [H, W] that show leaked background (Eq. 5)."""
    depths, spacings = [], []
    for keys, reference in zip(buffers, references, strict=True):
        filled, index, z = winners(keys)
        focals = torch.stack([torch.linalg.det(c.Ks[0, :2, :2]).abs().sqrt() for c in (target, reference.camera)])
        magnification = float(focals[0] / focals[1])
        spacings.append(magnification * reference.depths.flatten()[index] / torch.where(filled, z, 1.0))
        depths.append(z)
    leaked = leaked_background(depths, spacings, tolerance)
    return [torch.where(mask, EMPTY, keys) for mask, keys in zip(leaked, buffers, strict=True)]


def fill_levels(colors: Tensor, keys: Tensor, scales: Sequence[int]) -> Layer:
    """Colours [3, N] of a z-buffer [H, W] at all scales, the finer over the coarser (Eq. 4)."""
    height, width = keys.shape
    layer = None
    for scale, level in zip(scales, pyramid(keys, scales), strict=True):
        filled, index, z = winners(level)
        values = torch.where(filled, colors[:, index], 0.0)
        image, mask = enlarge(values, filled, scale, width, height)
        coarse = Layer(image, mask, repeat(z, scale, width, height))
        layer = coarse if layer is None else layer.over(coarse)
    assert layer is not None
    return Layer(torch.where(layer.mask, layer.image, 0.0), layer.mask, layer.depths)


def _merge(layers: Sequence[Layer], merge: Merge) -> Layer:
    """One picture of layers that are ordered by the distance of their cameras from the target's."""
    merged = layers[0]
    for layer in layers[1:]:
        if merge == "depth":
            nearer = layer.mask & (~merged.mask | (layer.depths < merged.depths))
            layer, kept = Layer(layer.image, nearer, layer.depths), merged
            merged = layer.over(kept)
        else:
            merged = merged.over(layer)
    return merged
