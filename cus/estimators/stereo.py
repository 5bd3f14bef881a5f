"""The embedded estimator: poses from features, depth from plane sweeps, no weights."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import poses
from cus.estimators.consistency import agreeing, confidence, round_trip_errors
from cus.estimators.estimator import Estimator, Request
from cus.estimators.filling import fill_unconfirmed, smooth_surfaces
from cus.estimators.plane_sweep import (
    Sweep,
    SweepSettings,
    aggregate_costs,
    in_bytes,
    matching_costs,
    place_planes,
    plane_spacing,
    rival_margin,
    subpixel_argmin,
)
from cus.estimators.poses import without_overlap
from cus.estimators.structure import MIN_COMMON, Structure
from cus.estimators.upsampling import enlarge
from cus.scene import SceneEstimate

Progress = Callable[[int, int], None]
STEPS_A_VIEW = 20  # progress steps per view
# Fractions of the time, as measured with four and eight photographs: of finding the cameras, and of the parts of the
# rest (the last one is merging and enlarging).
POSE_SHARE = 0.4
COARSE, SWEEPING, FILLING = 0.15, 0.55, 0.2
LEAST_CONFIRMED = 0.01  # fraction of a view's pixels; chance alone confirms less


@dataclass(frozen=True)
class StereoSettings:
    """Options of the stereo estimator.

    Attributes:
        longest_side: depth is computed on pictures of at most this size in pixels, then enlarged along image edges.
        coarse_side: size in pixels of the pictures for finding the range of depths.
        max_sources: maximum number of other views that each view is compared with.
        same_surface: neighbours are averaged if their displacements differ by less than this many pixels.
        sweep: settings of planes and aggregation.
    """

    longest_side: int = 640
    coarse_side: int = 192
    max_sources: int = 4
    same_surface: float = 0.75
    sweep: SweepSettings = field(default_factory=SweepSettings)


@dataclass
class _View:
    """Results of the sweep of one view; costs are stored in 8 bits, because they are large."""

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


class Stereo(Estimator):
    """The embedded estimator, without weights: feature matching, then plane sweeps.

    Args:
        settings: sizes of its pictures, and of the sweeps.
    """

    name = "stereo"
    title = "stereo"

    def __init__(self, settings: StereoSettings = StereoSettings()) -> None:
        self.settings = settings

    def estimate(self, request: Request, weights: str | None) -> SceneEstimate:
        """Estimate cameras, unless they are known, and depth; some photographs may be left out (`all_views`)."""
        pictures, device = request.images, request.images.device
        valid = None if request.valid is None else request.valid.to(device)
        report = _Shares(len(pictures), request.on_progress)
        images = _without_invalid(pictures, valid)
        if request.cameras is not None:
            scene = _posed(images, request.cameras.to(device), valid, request.all_views, self.settings, report)
            return replace(scene, images=pictures)
        structure = poses.estimate_poses(
            images,
            request.focals,
            valid,
            sizes=request.sizes,
            all_views=request.all_views,
            on_progress=report.of_poses,
        )
        used = list(structure.used)
        images, valid = images[used], None if valid is None else valid[used]
        known = poses.cameras_of(structure, images)
        swept = sweep_views(images, known, valid, structure, self.settings, report.of_sweeps)
        scene = SceneEstimate(
            pictures[used],
            known,
            swept.depths,
            swept.confidences,
            structure.notes,
            left_out=tuple(view for view in range(report.views) if view not in used),
            focal_range=structure.focal_range,
        )
        return scene.in_own_unit()


def _without_invalid(images: Tensor, valid: Tensor | None) -> Tensor:
    """The images with invalid pixels replaced by the mean colour of each image."""
    if valid is None or bool(valid.all()):
        return images
    share = valid.to(images)[:, None]
    mean = (images * share).sum(dim=(2, 3), keepdim=True) / share.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return torch.where(valid[:, None], images, mean)


def _posed(
    images: Tensor,
    cameras: Cameras,
    valid: Tensor | None,
    all_views: bool,
    settings: StereoSettings,
    report: "_Shares",
) -> SceneEstimate:
    """Depth of views with known cameras; a view that shares nothing with others gets none, with a note."""
    structure = poses.structure_of(images, cameras, valid)
    reasons = without_overlap(images, cameras, valid, structure)
    _refuse_too_few(reasons, len(images), all_views)
    report.of_poses(1.0)
    chosen = [view for view in range(len(images)) if view not in reasons]
    some = structure.subset(chosen)
    part = None if valid is None else valid[chosen]
    swept = sweep_views(images[chosen], cameras[chosen], part, some, settings, report.of_sweeps)
    depths, confidences = images.new_zeros(2, *images[:, 0].shape)
    depths[chosen], confidences[chosen] = swept.depths, swept.confidences
    for place, view in enumerate(chosen):
        if swept.confirmed[place] < LEAST_CONFIRMED and len(some.depths_seen_by(place)) < MIN_COMMON:
            reasons[view] = "no other photograph confirms what it shows"
    if len(images) - len(reasons) >= 2:
        _refuse_too_few(reasons, len(images), all_views)
        depths[list(reasons)] = confidences[list(reasons)] = 0.0
        notes = [f"view {view + 1} gets no depth: {reason}" for view, reason in sorted(reasons.items())]
    else:
        notes = ["hardly any depth is confirmed by a second photograph: do the cameras belong to these photographs?"]
    return SceneEstimate(images, cameras, depths, confidences, tuple(notes))


def _refuse_too_few(reasons: dict[int, str], views: int, all_views: bool) -> None:
    """Raise InputError if fewer than two views can get a depth, or if one cannot although all are required."""
    if reasons and (all_views or views - len(reasons) < 2):
        view, reason = min(reasons.items())
        raise InputError(f"view {view + 1} cannot get a depth: {reason}; use another photograph, or leave it out")


class _Shares:
    """Converts fractions of the two parts of the work to steps: finding the cameras, then sweeping the views."""

    def __init__(self, views: int, on_progress: Progress | None) -> None:
        self.views, self._on_progress, self._last = views, on_progress, 0

    def of_poses(self, share: float) -> None:
        """Report the fraction of the first part."""
        self._tell(POSE_SHARE * share)

    def of_sweeps(self, share: float) -> None:
        """Report the fraction of the second part."""
        self._tell(POSE_SHARE + (1 - POSE_SHARE) * share)

    def _tell(self, share: float) -> None:
        steps = STEPS_A_VIEW * self.views
        # A restarted model does not reduce the reported progress.
        self._last = max(self._last, min(int(share * steps + 1e-6), steps))
        if self._on_progress is not None:
            self._on_progress(self._last, steps)


@dataclass(frozen=True)
class Swept:
    """Depths and confidences [V, H, W] of posed views, and the fraction [V] of the swept pixels confirmed by others."""

    depths: Tensor
    confidences: Tensor
    confirmed: Tensor


def sweep_views(
    images: Tensor,
    cameras: Cameras,
    valid: Tensor | None,
    structure: Structure,
    settings: StereoSettings,
    on_progress: Callable[[float], None],
) -> Swept:
    """Depth of posed views, at the size of `images`; 0 with a confidence of 0 where `valid` is False."""
    views, _, height, width = images.shape
    sources = [structure.sources_for(view, settings.max_sources) for view in range(views)]
    ranges = _search_ranges(images, cameras, valid, structure, sources, settings)
    on_progress(COARSE)
    small, small_cameras, small_valid = _shrunk(images, cameras, valid, settings.longest_side)
    swept = []
    for view in range(views):
        sweep = Sweep.between(small, small_cameras, view, sources[view], small_valid)
        swept.append(_sweep_view(sweep, sources[view], ranges[view], settings.sweep))
        on_progress(COARSE + SWEEPING * (view + 1) / views)

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
        filled[view] = state.inverse_depths(positions) * small_valid[view]
        on_progress(COARSE + SWEEPING + FILLING * (view + 1) / views)

    inverse = images.new_zeros(views, height, width)
    confidences = images.new_zeros(views, height, width)
    for view, state in enumerate(swept):
        errors = round_trip_errors(filled, small_cameras, view, state.sources)
        positions = state.positions_of(filled[view])
        index = positions.round().long().clamp(0, len(state.planes) - 1)
        cost = state.costs.gather(-1, index[..., None])[..., 0].float() / 255
        trust = confidence(errors, agree[view], state.margin, cost) * small_valid[view]
        reach = settings.same_surface / state.spacing
        smooth = state.inverse_depths(smooth_surfaces(positions, state.sweep.gray, trust.square(), reach))
        if (height, width) == tuple(small.shape[-2:]):
            inverse[view], confidences[view] = smooth, trust
        else:
            inverse[view], confidences[view] = enlarge(smooth, trust, small[view], images[view])
        on_progress(1.0 - (1.0 - COARSE - SWEEPING - FILLING) * (views - view - 1) / views)
    if valid is not None:
        inverse, confidences = inverse * valid, confidences * valid
    depths = torch.where(inverse > 0, 1.0 / inverse.clamp(min=1e-12), torch.zeros_like(inverse))
    share = agree.flatten(1).float().mean(dim=1)
    return Swept(depths, torch.where(depths > 0, confidences, torch.zeros_like(depths)), share)


def _sweep_view(sweep: Sweep, sources: list[int], bounds: tuple[float, float], settings: SweepSettings) -> _View:
    planes = place_planes(sweep, *bounds, settings)
    costs = matching_costs(sweep, planes, settings.window)
    total = aggregate_costs(costs, sweep, planes, settings)
    spacing = plane_spacing(sweep, planes)
    if spacing <= 0:
        raise InputError(
            "nothing that one photograph shows lies inside another at the depths and poses found: use photographs that "
            "overlap by half or more and are taken at most some 40 degrees apart, or give the cameras (--cameras)"
        )
    return _View(sources, sweep, planes, spacing, in_bytes(costs), subpixel_argmin(total), rival_margin(total, spacing))


def _cross_check(swept: list[_View], cameras: Cameras, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depths [V, H, W] of the first sweeps, and which are confirmed by another view, [V, H, W] bool."""
    inverse = torch.stack([state.inverse_depths(state.positions) for state in swept]) * valid
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
    """Ranges of inverse depths to search in each view.

    Sparse points miss areas without corners, and especially the nearest surfaces. A sweep of tiny pictures over a
    generous range costs almost nothing; its consistent depths and the sparse points together bound the real sweep.
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
        # Everything beyond the farthest point seen (the sky) is placed at twice the distance.
        ranges.append((float(max(low - margin, 0.5 * low)), float(high + margin)))
    return ranges


def _generous_range(structure: Structure, view: int, sweep: Sweep) -> tuple[float, float]:
    inverse = 1.0 / structure.depths_seen_by(view)
    if len(inverse) >= 8:
        low, high = np.percentile(inverse, [1, 99])
        return float(0.3 * low), float(2.0 * high)
    # Without sparse points: from infinity, or as far as the sources see, to a displacement of a third of the picture.
    baseline = float(sweep.shifts.norm(dim=1).max()) / sweep.gray.shape[1]
    for farthest in (0.0, *(0.05 * 2.0**step / max(baseline, 1e-12) for step in range(8))):
        rate = sweep.displacement_rate(farthest)
        if rate > 0:
            return farthest, farthest + 0.33 * sweep.gray.shape[1] / rate
    raise InputError("the given cameras see nothing in common; do they belong to these photographs, in this order?")


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
