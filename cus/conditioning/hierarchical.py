"""Hierarchical warping of the reference views into close-up target cameras (Section III-B, Algorithm 1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.canvas import Canvas
from cus.conditioning.conditioning import Conditioning, blank_conditioning
from cus.conditioning.occlusion import DEPTH_TOLERANCE, dilated_depths, sample_spacing
from cus.conditioning.reliability import divide_reliability
from cus.conditioning.warp import Projection, project_depths, splat, winners
from cus.errors import InputError

if TYPE_CHECKING:
    from cus.estimators import SceneEstimate

Merge = Literal["nearest", "depth"]
LARGEST_SCALE = 64
# The gaps that the coarsest scale has to close: all but the widest few, which steep surfaces stretch without end.
COVERED_QUANTILE = 0.95


@dataclass(frozen=True)
class _Reference:
    """A reference view: flat colours [N, 3], depths [H, W], reliability masks [N], spacing [N] and camera."""

    colors: Tensor
    depths: Tensor
    reliable: Tensor
    unreliable: Tensor
    spacing: Tensor
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
    conditioning = blank_conditioning(targets)
    for index in range(len(targets)):
        order = torch.argsort(distances[index], stable=True).tolist()
        canvas = _warp_target([references[view] for view in order], targets[index], scales, tolerance, merge)
        canvas.copy_to(conditioning, index)
        if on_progress is not None:
            on_progress(index + 1, len(targets))
    if not bool(conditioning.masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: no point of the {len(references)} reference views lands in any of "
            f"the {len(targets)} target cameras; aim the path at what the photographs show, or move it closer to them"
        )
    return conditioning


def check_scales(scales: Sequence[int]) -> tuple[int, ...]:
    """The scales as a tuple. Raises ValueError unless they are ascending positive whole numbers."""
    checked = tuple(int(scale) for scale in scales)
    if not checked or checked[0] < 1 or list(checked) != sorted(set(checked)) or checked != tuple(scales):
        raise ValueError(f"scales must be ascending positive whole numbers such as (1, 4), got {tuple(scales)}")
    return checked


def scales_for_spacing(spacing: float) -> tuple[int, ...]:
    """1, 2, 4, ... up to the first scale whose cells are no smaller than the spacing of the points, in pixels.

    A hundredth smaller is no matter: by rounding alone the spacing of a view warped onto itself is a little above 1.
    """
    scales = [1]
    while scales[-1] < min(0.99 * spacing, LARGEST_SCALE):
        scales.append(scales[-1] * 2)
    return tuple(scales)


def _references(scene: "SceneEstimate") -> list[_Reference]:
    reliable, unreliable = divide_reliability(scene)
    return [
        _Reference(
            scene.images[view].flatten(1).T.contiguous(),
            scene.depths[view],
            reliable[view].flatten(),
            unreliable[view].flatten(),
            sample_spacing(scene.depths[view], reliable[view]).flatten(),
            scene.cameras[view],
        )
        for view in range(len(scene.images))
    ]


def _warp_target(
    references: Sequence[_Reference], target: Cameras, scales: tuple[int, ...] | None, tolerance: float, merge: Merge
) -> Canvas:
    """One target, from references that are ordered by the distance of their cameras from it."""
    projections = [project_depths(reference.depths, reference.camera, target) for reference in references]
    buffers = [splat(p, reference.reliable) for p, reference in zip(projections, references, strict=True)]
    limits = None
    if math.isfinite(tolerance):
        limits = _dilated(buffers, references, target) + tolerance
    merged = Canvas.blank(target.width, target.height, references[0].depths.device)
    for reference, projection, keys in zip(references, projections, buffers, strict=True):
        # The nearest reference goes first and the next ones only fill; by depth each needs a picture of its own.
        canvas = merged if merge == "nearest" else Canvas.blank(target.width, target.height, keys.device)
        if canvas.complete:
            break
        chosen = scales or scales_for_spacing(point_spacing(projection, reference.reliable, reference.camera))
        canvas.paint(reference.colors, projection, keys, chosen, limits)
        if not canvas.complete:
            canvas.paint(reference.colors, projection, splat(projection, reference.unreliable), chosen)
        if merge == "depth":
            merged = _nearer(merged, canvas)
    return merged


def _nearer(first: Canvas, second: Canvas) -> Canvas:
    """Of each pixel the nearer surface; the first's where they are equal."""
    use = second.mask & (~first.mask | (second.depths < first.depths))
    return Canvas(
        torch.where(use[..., None], second.image, first.image),
        first.mask | second.mask,
        torch.where(use, second.depths, first.depths),
    )


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


def _dilated(buffers: Sequence[Tensor], references: Sequence[_Reference], target: Cameras) -> Tensor:
    """D_dilate [H, W] of Eq. 5 from the z-buffers [H, W] of the references' reliable points."""
    depths, spacings = [], []
    for keys, reference in zip(buffers, references, strict=True):
        filled, index, z = winners(keys)
        # A source pixel spans z / focal of the surface, seen in the target at z' / focal'.
        magnification = _focal(target) / _focal(reference.camera) * reference.depths.flatten()[index]
        spacings.append(reference.spacing[index] * magnification / torch.where(filled, z, 1.0))
        depths.append(z)
    return dilated_depths(depths, spacings)


def _focal(camera: Cameras) -> float:
    """Geometric mean of the focal lengths in pixels."""
    return float(torch.linalg.det(camera.Ks[0, :2, :2]).abs().sqrt())
