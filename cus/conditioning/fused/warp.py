"""Fused warp: every photograph, at its own resolution, sampled backwards through one depth map of each target."""

import math
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning, blank_conditioning
from cus.conditioning.cpu.occlusion import sample_spacing_cpu
from cus.conditioning.fused.agreement import agree
from cus.conditioning.fused.operations import KERNELS, TORCH, Operations
from cus.conditioning.fused.sharpening import resolution_of
from cus.conditioning.fused.suppression import suppression_limits
from cus.conditioning.fused.surfaces import drawn_inverse_depth, finished, mixed
from cus.conditioning.fused.views import View, placements, views_of
from cus.conditioning.occlusion import DEPTH_TOLERANCE, sample_spacing
from cus.conditioning.options import Backend, resolved_backend
from cus.conditioning.references import Reference, references_of
from cus.errors import InputError
from cus.kernels.threads import in_pieces
from cus.scene import SceneEstimate

# A layer shows a pixel if its reference sees it at least this well.
SEEN = 0.5


def fused_warp(
    scene: SceneEstimate,
    target_cameras: Cameras,
    photographs: Sequence[Tensor] | None = None,
    suppress_background: bool = True,
    *,
    agreed: bool = False,
    with_layers: bool = True,
    backend: Backend = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """Sample every photograph backwards through one fused depth map of each target.

    First the references are made to agree (`agree`). Then, for each target:

    1. Each reference's depth map is drawn into the target as a mesh: reliable surfaces first, then unreliable ones fill
       the rest; nothing is stretched over depth edges.
    2. The target's depth is the mean by confidence where the references' surfaces agree, else the best supported one.
    3. Every reference is sampled there with Lanczos3 at the resolution that the target needs. If its own depth says
       that it sees the point, it is weighted by the angle between its ray and the target's.
    4. Where the references agree on the detail, back-projection recovers what their pixels averaged; elsewhere the
       picture is softened to what they share.

    Holes are black, masked False, of depth 0.

    Args:
        scene: V >= 1 reference images with cameras, depths (0 = none) and confidences; with `gains`, a target gets the
            exposure of the nearest references.
        target_cameras: T cameras of any size, on any device.
        photographs: the same views at a larger size, V tensors [3, Hi, Wi], float32 in [0, 1] or uint8, as the source
            of colour. None takes the scene's own images.
        suppress_background: remove background that leaks through sparse foreground (Eq. 5), as in `hierarchical_warp`.
        agreed: whether the scene has been through `agree`; if not, this function calls it. If several calls share a
            scene, call `agree` once and pass its result.
        with_layers: whether to fill `Conditioning.layers`.
        backend: "cpu": Numba kernels for float32 on the CPU, one thread per target (the first call on a machine
            compiles them for some seconds); "torch": any device, the tests' reference; "auto": the first that fits.
        on_progress: called with (targets done, T).

    Returns:
        Conditioning of the target cameras' size, on the scene's device.

    Raises:
        InputError: no point of the scene lands in any target, the photographs do not match the scene's views, or
            backend="cpu" on another device or dtype.
        ValueError: no target, or an unknown backend.
    """
    if len(target_cameras) < 1:
        raise ValueError("expected at least one target camera")
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    compiled = resolved_backend(backend, (scene.images, scene.depths), "a float32 scene") == "cpu"
    targets = target_cameras.to(scene.images.device)
    if not agreed:
        scene = agree(scene, photographs, backend=backend)
    views = views_of(scene, photographs)
    for view in views:
        _ = view.slopes, view.packed, view.inverse_float  # once, before the threads need them
    references, tolerance = [], math.inf
    if suppress_background and bool(scene.reliable.any()):
        references = references_of(scene, sample_spacing_cpu if compiled else sample_spacing)
        tolerance = DEPTH_TOLERANCE * scene.scale
    conditioning = blank_conditioning(targets, with_layers)
    operations = KERNELS if compiled else TORCH

    def work(first: int, last: int) -> None:
        for index in range(first, last):
            _Target(views, references, targets[index], tolerance, operations).into(conditioning, index)

    # As many targets at a time as there are threads, so that progress is reported from the caller's thread.
    at_once = min(torch.get_num_threads(), len(targets)) if compiled else 1
    for first in range(0, len(targets), at_once):
        many = min(at_once, len(targets) - first)
        in_pieces(lambda a, b, first=first: work(first + a, first + b), many)
        for done in range(first, first + many):
            if on_progress is not None:
                on_progress(done + 1, len(targets))
    if not bool(conditioning.masks.any()):
        raise InputError(
            f"the target sees nothing of the scene: no surface of the {len(views)} reference views lands in any of "
            f"the {len(targets)} target cameras; aim the path at what the photographs show, or move it closer to them"
        )
    return conditioning


class _Target:
    """Renders one target camera on a thread."""

    def __init__(
        self,
        views: list[View],
        references: list[Reference],
        camera: Cameras,
        tolerance: float,
        operations: Operations,
    ) -> None:
        self.views, self.operations = views, operations
        self.size = camera.height, camera.width
        self.places = placements(views, camera)
        self.limits = suppression_limits(references, camera, tolerance) if references else None

    def into(self, conditioning: Conditioning, index: int) -> None:
        """Render the picture into `conditioning` at `index`."""
        inverse = drawn_inverse_depth(self.views, self.places, self.size, self.operations, self.limits)
        mask = inverse > 0
        pairs = zip(self.views, self.places, strict=True)
        layers = [self.operations.look_up(view, place, inverse) for view, place in pairs]
        blended = mixed(layers)
        image, agreement = finished(self.views, self.places, layers, blended, mask, self.operations)
        conditioning.images[index] = torch.where(mask, image, 0.0).clamp_(0, 1)
        conditioning.masks[index] = mask
        conditioning.depths[index] = torch.where(mask, 1 / inverse.clamp(min=1e-12), 0.0)
        if conditioning.resolved is not None:
            conditioning.resolved[index] = agreement * resolution_of(layers, blended[1]) * mask
        if conditioning.layers is not None:
            conditioning.layers.gate[index] = agreement * mask
            best = blended[1].sum(dim=(1, 2)).argsort(descending=True, stable=True)[:2].tolist()
            for place, view in enumerate(best):
                seen = mask & (layers[view].seen > SEEN)
                conditioning.layers.masks[index, place] = seen
                conditioning.layers.images[index, place] = torch.where(seen, layers[view].colors, 0.0).clamp_(0, 1)
