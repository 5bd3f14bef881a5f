"""The embedded estimator: poses from features, depth from plane sweeps, no weights."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import poses
from cus.estimators.consistency import agreeing, confidence, round_trip_errors
from cus.estimators.filling import fill_unconfirmed, smooth_surfaces
from cus.estimators.plane_sweep import (
    Sweep,
    SweepSettings,
    aggregate_costs,
    grayscale,
    matching_costs,
    place_planes,
    plane_spacing,
)
from cus.estimators.scene import SceneEstimate, check_arguments
from cus.estimators.structure import Structure
from cus.estimators.upsampling import enlarge
from cus.estimators.volumes import in_bytes, rival_margin, subpixel_argmin

Progress = Callable[[int, int], None]
POSE_STEPS = 4  # what finding the cameras takes, in units of one sweep


@dataclass(frozen=True)
class StereoSettings:
    """Options of the stereo estimator.

    Attributes:
        longest_side: depth is computed on pictures of at most this size, then enlarged along image edges.
        coarse_side: size of the pictures that find the range of depths.
        max_sources: how many other views each view is compared with.
        same_surface: neighbours whose displacements differ by less, in pixels, are averaged.
        sweep: planes and aggregation.
    """

    longest_side: int = 640
    coarse_side: int = 192
    max_sources: int = 4
    same_surface: float = 0.75
    sweep: SweepSettings = field(default_factory=SweepSettings)


@dataclass
class _View:
    """What the sweep of one view leaves: costs are kept in 8 bits, they are large."""

    sources: list[int]
    sweep: Sweep
    planes: Tensor
    spacing: float
    costs: Tensor
    positions: Tensor
    margin: Tensor

    def inverse_depths(self, positions: Tensor) -> Tensor:
        return self.planes[0] + positions * (self.planes[1] - self.planes[0])

    def positions_of(self, inverse_depths: Tensor) -> Tensor:
        return (inverse_depths - self.planes[0]) / (self.planes[1] - self.planes[0])


def estimate_stereo(
    images: Tensor,
    cameras: Cameras | None = None,
    *,
    valid: Tensor | None = None,
    focals: Tensor | None = None,
    settings: StereoSettings | None = None,
    on_progress: Progress | None = None,
) -> SceneEstimate:
    """`estimate_scene` by feature matching and plane sweeps; arguments, result and errors as there."""
    check_arguments(images, cameras, valid, focals)
    settings = settings or StereoSettings()
    cameras = None if cameras is None else cameras.to(images.device)
    valid = None if valid is None else valid.to(images.device)
    steps = POSE_STEPS + 2 * len(images)
    report = on_progress or (lambda done, total: None)
    _refuse_blank(images, valid)
    if cameras is None:
        structure = poses.estimate_poses(
            images, focals, valid, lambda done, total: report(POSE_STEPS * done // total, steps)
        )
        known = poses.cameras_of(structure, images)
    else:
        structure = poses.structure_of(images, cameras, valid)
        known = cameras
    report(POSE_STEPS, steps)
    inverse, confidences = sweep_views(
        images, known, valid, structure, settings, on_progress=lambda done, _: report(POSE_STEPS + done, steps)
    )
    depths = torch.where(inverse > 0, 1.0 / inverse.clamp(min=1e-12), torch.zeros_like(inverse))
    scene = SceneEstimate(images, known, depths, confidences, structure.notes)
    return scene if cameras is not None else scene.in_own_unit()


def sweep_views(
    images: Tensor,
    cameras: Cameras,
    valid: Tensor | None,
    structure: Structure,
    settings: StereoSettings,
    on_progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Inverse depths and confidences [V, H, W] of posed views, at the size of `images`."""
    views, _, height, width = images.shape
    sources = [structure.sources_for(view, settings.max_sources) for view in range(views)]
    ranges = _search_ranges(images, cameras, valid, structure, sources, settings)
    small, small_cameras, small_valid = _shrunk(images, cameras, valid, settings.longest_side)
    swept = []
    for view in range(views):
        sweep = Sweep.between(small, small_cameras, view, sources[view], small_valid)
        swept.append(_sweep_view(sweep, sources[view], ranges[view], settings.sweep))
        on_progress(view + 1, 2 * views)

    first, agree = _cross_check(swept, small_cameras, small_valid)
    filled = torch.empty_like(first)
    for view, state in enumerate(swept):
        positions = fill_unconfirmed(
            state.sweep,
            state.planes,
            state.costs / 255,
            agree[view],
            first[state.sources],
            agree[state.sources],
            settings.sweep,
        )
        filled[view] = state.inverse_depths(positions)
        on_progress(views + view + 1, 2 * views)

    inverse = images.new_zeros(views, height, width)
    confidences = images.new_zeros(views, height, width)
    for view, state in enumerate(swept):
        errors = round_trip_errors(filled, small_cameras, view, state.sources)
        positions = state.positions_of(filled[view])
        index = positions.round().long().clamp(0, len(state.planes) - 1)
        cost = state.costs.gather(-1, index[..., None])[..., 0].float() / 255
        trust = confidence(errors, agree[view], state.margin, cost)
        reach = settings.same_surface / state.spacing
        smooth = state.inverse_depths(smooth_surfaces(positions, state.sweep.gray, trust.square(), reach))
        if (height, width) == tuple(small.shape[-2:]):
            inverse[view], confidences[view] = smooth, trust
        else:
            inverse[view], confidences[view] = enlarge(smooth, trust, small[view], images[view])
    if valid is not None:
        inverse, confidences = inverse * valid, confidences * valid
    return inverse, confidences


def _sweep_view(sweep: Sweep, sources: list[int], bounds: tuple[float, float], settings: SweepSettings) -> _View:
    planes = place_planes(sweep, *bounds, settings)
    costs = matching_costs(sweep, planes, settings.window)
    total = aggregate_costs(costs, sweep, planes, settings)
    spacing = plane_spacing(sweep, planes)
    return _View(sources, sweep, planes, spacing, in_bytes(costs), subpixel_argmin(total), rival_margin(total, spacing))


def _cross_check(swept: list[_View], cameras: Cameras, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depths [V, H, W] of the first sweeps and where another view confirms them [V, H, W] bool."""
    inverse = torch.stack([state.inverse_depths(state.positions) for state in swept])
    agree = torch.zeros_like(valid)
    for view, state in enumerate(swept):
        errors = round_trip_errors(inverse, cameras, view, state.sources)
        agree[view] = agreeing(errors, state.positions * state.spacing) & valid[view]
    return inverse, agree


def _search_ranges(
    images: Tensor,
    cameras: Cameras,
    valid: Tensor | None,
    structure: Structure,
    sources: list[list[int]],
    settings: StereoSettings,
) -> list[tuple[float, float]]:
    """Inverse depths to search in each view.

    Sparse points miss what has no corners, and the nearest things most of all. A sweep of tiny pictures over a generous
    range costs next to nothing; what its views agree on and the sparse points together bound the real sweep.
    """
    tiny, tiny_cameras, tiny_valid = _shrunk(images, cameras, valid, settings.coarse_side)
    swept = []
    for view in range(len(images)):
        sweep = Sweep.between(tiny, tiny_cameras, view, sources[view], tiny_valid)
        swept.append(_sweep_view(sweep, sources[view], _generous_range(structure, view, sweep), settings.sweep))
    inverse, agree = _cross_check(swept, tiny_cameras, tiny_valid)
    ranges = []
    for view, state in enumerate(swept):
        sparse = 1.0 / structure.depths_seen_by(view)
        dense = inverse[view][agree[view]].cpu().double().numpy()
        bounds = [np.percentile(values, [0.5, 99.5]) for values in (sparse, dense) if len(values) >= 8]
        if not bounds:
            ranges.append((float(state.planes[0]), float(state.planes[-1])))
            continue
        low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
        margin = 0.08 * (high - low) + 0.02 * high
        # Whatever lies beyond all that was seen (the sky) comes to rest at twice the distance.
        ranges.append((float(max(low - margin, 0.5 * low)), float(high + margin)))
    return ranges


def _generous_range(structure: Structure, view: int, sweep: Sweep) -> tuple[float, float]:
    inverse = 1.0 / structure.depths_seen_by(view)
    if len(inverse) >= 8:
        low, high = np.percentile(inverse, [1, 99])
        return float(0.3 * low), float(2.0 * high)
    # Without sparse points: from infinity to a displacement of a third of the picture.
    rate = sweep.displacement_rate(0.0)
    if rate <= 0:
        raise InputError("the given cameras see nothing in common; do they belong to these photographs, in this order?")
    return 0.0, 0.33 * sweep.gray.shape[1] / rate


def _shrunk(
    images: Tensor, cameras: Cameras, valid: Tensor | None, longest_side: int
) -> tuple[Tensor, Cameras, Tensor]:
    views, _, height, width = images.shape
    valid = torch.ones(views, height, width, dtype=torch.bool, device=images.device) if valid is None else valid
    scale = longest_side / max(height, width)
    if scale >= 1:
        return images, cameras, valid
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    small = F.interpolate(images, size=size, mode="area")
    inside = F.interpolate(valid[:, None].float(), size=size, mode="area")[:, 0] > 0.99
    return small, cameras.resized(size[1], size[0]), inside


def _refuse_blank(images: Tensor, valid: Tensor | None) -> None:
    for view, gray in enumerate(grayscale(images)):
        content = gray if valid is None else gray[valid[view]]
        if content.numel() == 0 or float(content.max() - content.min()) < 0.02:
            raise InputError(f"view {view + 1} is blank (one flat colour); use another photograph")
