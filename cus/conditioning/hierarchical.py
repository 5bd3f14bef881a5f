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
from cus.conditioning.options import Backend, Merge, WarpOptions, check_scales, resolved_backend
from cus.conditioning.references import Reference, Spacing, references_of
from cus.conditioning.warp import Projection, project_depths, splat, surface_means, winners
from cus.conditioning.warp_target import warp_target
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

    Each reference is warped at high resolution and at lower ones; a lower resolution is enlarged mask-aware and fills
    the holes left by the higher ones. Reliable depths come first, then unreliable ones fill the rest, then the
    references are merged. Remaining holes are black, masked False, of depth 0. Where several points of a reference land
    in each pixel, the pixel is the mean of those on the nearest surface.

    Args:
        scene: reference images with cameras, depths (0 = none) and confidences.
        target_cameras: T cameras of any size, on any device.
        suppress_background: remove background that leaks through sparse foreground (Eq. 5). For inference; training
            keeps the leaks, because overly clean conditions teach too little.
        scales: divisors of the resolution, ascending, e.g. (1, 4) for the paper's two levels. None chooses 1, 2, 4, ...
            for each reference and target until the spacing of the projected points is covered.
        merge: where references disagree, "nearest" keeps the one whose camera centre is nearest to the target's (the
            paper's choice), "depth" the one whose surface is nearest to the target.
        backend: "cpu": Numba kernels for float32 on the CPU, one thread per target (the first call on a machine
            compiles them for some seconds); "torch": any device, the tests' reference; "auto": the first that fits.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning of the target cameras' size, on the scene's device.

    Raises:
        InputError: no point of the scene lands in any target, or backend="cpu" on another device or dtype.
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
    """`warp_targets_cpu` as tensor operations, on any device."""
    for index, order in enumerate(orders):
        ops = _TensorOps(targets[index], conditioning.images.device)
        canvas = warp_target(ops, ops.blank(), [references[view] for view in order], options)
        canvas.copy_to(conditioning, index)
        on_target(index + 1)


class _TensorOps:
    """The steps of Algorithm 1 for one target as tensor operations; caches a view's projection and z-buffer."""

    def __init__(self, target: Cameras, device: torch.device) -> None:
        self.target, self.device = target, device
        self.projected: dict[int, tuple[Projection, Tensor]] = {}

    def blank(self) -> Canvas:
        return Canvas.blank(self.target.width, self.target.height, self.device)

    def limits(self, views: Sequence[Reference], tolerance: float) -> Tensor:
        depths, spacings = [], []
        for view in views:
            _, index, z = winners(self._reliable(view)[1])
            depths.append(torch.where(view.hides[index], z, 0.0))
            spacings.append(view.spacing_in(self.target, index, z))
        return dilated_depths(depths, spacings) + tolerance

    def spacing(self, view: Reference) -> Spacing:
        return view.projected_spacing(self._reliable(view)[0])

    def paint(
        self,
        canvas: Canvas,
        view: Reference,
        chosen: Tensor,
        scales: Sequence[int],
        average: bool,
        limits: Tensor | None,
    ) -> None:
        projection, keys = self._reliable(view)
        if chosen is not view.reliable:
            keys = splat(projection, chosen)
        means = surface_means(view.colors, projection, chosen, keys) if average else None
        canvas.paint(view.colors, projection, keys, scales, limits, means)

    def nearer(self, first: Canvas, second: Canvas) -> Canvas:
        use = second.mask & (~first.mask | (second.depths < first.depths))
        return Canvas(
            torch.where(use[..., None], second.image, first.image),
            first.mask | second.mask,
            torch.where(use, second.depths, first.depths),
        )

    def _reliable(self, view: Reference) -> tuple[Projection, Tensor]:
        """All points of a view in the target, and the z-buffer [H, W] of its reliable ones."""
        if id(view) not in self.projected:
            projection = project_depths(view.depths, view.camera, self.target)
            self.projected[id(view)] = projection, splat(projection, view.reliable)
        return self.projected[id(view)]
