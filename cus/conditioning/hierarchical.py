"""Hierarchical warping of the reference views into close-up target cameras (Section III-B, Algorithm 1)."""

import math
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.canvas import Canvas
from cus.conditioning.conditioning import Conditioning, blank_conditioning
from cus.conditioning.cpu.occlusion import sample_spacing_cpu
from cus.conditioning.cpu.targets import warp_targets_cpu
from cus.conditioning.occlusion import DEPTH_TOLERANCE, dilated_depths, sample_spacing
from cus.conditioning.options import WIDE_SPACING, Backend, Merge, WarpOptions, check_scales, resolved_backend
from cus.conditioning.references import Reference, references_of
from cus.conditioning.warp import project_depths, splat, surface_means, winners
from cus.errors import InputError
from cus.scene import SceneEstimate


def hierarchical_warp(
    scene: SceneEstimate,
    target_cameras: Cameras,
    suppress_background: bool = True,
    scales: Sequence[int] | None = None,
    *,
    merge: Merge = "nearest",
    backend: Backend = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """Warp the scene's reference views into target cameras (Algorithm 1).

    Each reference is warped at high resolution and at lower ones; what a lower resolution gives is enlarged mask-aware
    and fills the holes that the higher ones left. Reliable depths go first, then the unreliable ones fill what is still
    open, then the references are merged. Holes that remain are black, masked False, of depth 0. Where several points
    of a reference land in each pixel, the pixel is their mean, of the nearest surface.

    Args:
        scene: reference images with cameras, depths (0 = none) and confidences.
        target_cameras: T cameras of any size, on any device.
        suppress_background: remove background that leaks through sparse foreground (Eq. 5). For inference; training
            keeps the leaks, because too clean conditions teach too little.
        scales: divisors of the resolution, ascending, e.g. (1, 4) for the paper's two levels. None chooses 1, 2, 4, ...
            for each reference and target until the spacing of the projected points is covered.
        merge: where references disagree, "nearest" keeps the one whose camera centre is nearest to the target's (the
            paper), "depth" the one whose surface is nearest to the target.
        backend: "cpu" for float32 on the CPU, in Numba kernels, a thread a target (the first call on a machine compiles
            them, some seconds); "torch" anywhere, the oracle of the tests. "auto" takes the first that fits.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning of the target cameras' size, on the scene's device.

    Raises:
        InputError: no point of the scene lands in any target, or backend="cpu" where it cannot run.
        ValueError: scales that are not ascending positive whole numbers, no target, or an unknown merge or backend.
    """
    if len(target_cameras) < 1:
        raise ValueError("expected at least one target camera")
    for name, value, known in (("merge", merge, get_args(Merge)), ("backend", backend, get_args(Backend))):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if scales is not None:
        scales = check_scales(scales)
    compiled = resolved_backend(backend, (scene.images, scene.depths), "a float32 scene") == "cpu"
    targets = target_cameras.to(scene.images.device)
    references = references_of(scene, sample_spacing_cpu if compiled else sample_spacing)
    tolerance = DEPTH_TOLERANCE * scene.scale if suppress_background and bool(scene.reliable.any()) else math.inf
    orders = torch.cdist(targets.centers, scene.cameras.centers).argsort(dim=1, stable=True).tolist()
    conditioning = blank_conditioning(targets)

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress(done, len(targets))

    warp_targets = warp_targets_cpu if compiled else _warp_targets
    warp_targets(references, targets, orders, WarpOptions(scales, tolerance, merge), conditioning, report)
    if not bool(conditioning.masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: no point of the {len(references)} reference views lands in any of "
            f"the {len(targets)} target cameras; aim the path at what the photographs show, or move it closer to them"
        )
    return conditioning


def _warp_targets(
    references: Sequence[Reference],
    targets: Cameras,
    orders: Sequence[Sequence[int]],
    options: WarpOptions,
    conditioning: Conditioning,
    on_target: Callable[[int], None],
) -> None:
    """`warp_targets_cpu` in tensor operations, on any device."""
    for index, order in enumerate(orders):
        _warp_target([references[view] for view in order], targets[index], options).copy_to(conditioning, index)
        on_target(index + 1)


def _warp_target(references: Sequence[Reference], target: Cameras, options: WarpOptions) -> Canvas:
    """One target, from references that are ordered by the distance of their cameras from it."""
    projections = [project_depths(reference.depths, reference.camera, target) for reference in references]
    buffers = [splat(p, reference.reliable) for p, reference in zip(projections, references, strict=True)]
    limits = None
    if math.isfinite(options.tolerance):
        limits = _dilated(buffers, references, target) + options.tolerance
    merged = Canvas.blank(target.width, target.height, references[0].depths.device)
    for reference, projection, keys in zip(references, projections, buffers, strict=True):
        # The nearest reference goes first and the next ones only fill; by depth each needs a picture of its own.
        canvas = merged if options.merge == "nearest" else Canvas.blank(target.width, target.height, keys.device)
        if canvas.complete:
            break
        spacing = reference.projected_spacing(projection)
        levels = options.levels(spacing.largest)
        for chosen, z_buffer, nearest in ((reference.reliable, keys, limits), (reference.unreliable, None, None)):
            if canvas.complete:
                break
            z_buffer = splat(projection, chosen) if z_buffer is None else z_buffer
            wide = spacing.typical < WIDE_SPACING
            means = surface_means(reference.colors, projection, chosen, z_buffer) if wide else None
            canvas.paint(reference.colors, projection, z_buffer, levels, nearest, means)
        if options.merge == "depth":
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


def _dilated(buffers: Sequence[Tensor], references: Sequence[Reference], target: Cameras) -> Tensor:
    """D_dilate [H, W] of Eq. 5 from the z-buffers [H, W] of the references' reliable points."""
    depths, spacings = [], []
    for keys, reference in zip(buffers, references, strict=True):
        _, index, z = winners(keys)
        depths.append(torch.where(reference.hides[index], z, 0.0))
        spacings.append(reference.spacing_in(target, index, z))
    return dilated_depths(depths, spacings)
