"""Converts an estimate to the world of known cameras."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.alignment import Alignment, align_cameras
from cus.estimators import poses
from cus.estimators.focal_lengths import with_known_focals
from cus.scene import SceneEstimate

LEAST_POINTS = 30  # minimum number of triangulated points to determine the scale of a view's depths
# Above these errors an estimate does not match the geometry of the given cameras, and its depths are wrong, too.
LARGE_TURN = 3.0  # degrees
LARGE_SHIFT = 0.1  # of the baseline
LARGE_FOCAL = 0.1  # of the focal length
LARGE_SPREAD = 0.1  # of the depth


def with_known_cameras(scene: SceneEstimate, given: Cameras, valid: Tensor | None, source: str) -> SceneEstimate:
    """Transform the estimate's depths to the world of the given cameras, which are kept exactly.

    The similarity that aligns the estimated cameras with the given ones scales all depths. An error remains, because
    the given poses and focal lengths differ from the estimated ones: a longer lens moves things away and tilts them.
    Points triangulated with the given cameras serve as the reference. So the estimate is evaluated both as it is and
    corrected for the given focal lengths (`with_known_focals`); each view is scaled by the median ratio of the points'
    depths to the estimated ones (a median, because some matches are wrong), and the variant with smaller differences
    from the points is kept. A view with fewer than `LEAST_POINTS` takes the median of the others' scales.

    A single camera does not determine the scale: the depths of one view are corrected for its focal length, and keep
    the estimator's own unit.

    Args:
        scene: estimate in its own world and unit.
        given: V known cameras of its images.
        valid: [V, H, W] bool or None: False on padding.
        source: the estimator's name, for the notes.

    Raises:
        InputError: cameras that fit neither the photographs nor the estimate.
    """
    if len(given) == 1:
        return _with_one_known_camera(scene, given, source)
    alignment = align_cameras(scene.cameras, given)
    points = triangulated_points(scene.images, given, valid)
    through = with_known_focals(scene, _focals(given), source)
    fitted = _fitted(scene, alignment.scale, points)
    if fitted.spreads:
        other = _fitted(through, alignment.scale * scene.scale / through.scale, points)
        fitted = min(fitted, other, key=lambda candidate: max(candidate.spreads, default=float("inf")))
    moved = replace(fitted.scene, cameras=given.to(scene.depths.device), notes=scene.notes)
    return moved.with_notes(*residual_notes(alignment, fitted.factors, fitted.spreads, source))


def _with_one_known_camera(scene: SceneEstimate, given: Cameras, source: str) -> SceneEstimate:
    through = with_known_focals(scene, _focals(given), source)
    error = float((_focals(scene.cameras).cpu() / _focals(given).cpu() - 1).abs())
    notes = [
        f"the given camera is kept; {source}'s own is off by {error:.1%} of the focal length; one camera tells nothing "
        f"of the scale, so depths are in {source}'s own unit"
    ]
    if error > LARGE_FOCAL:
        notes.append(f"warning: {source} disagrees with the given camera, so its depths are off, too; check the camera")
    return replace(through, cameras=given.to(scene.depths.device), notes=scene.notes).with_notes(*notes)


def _focals(cameras: Cameras) -> Tensor:
    return (cameras.Ks[:, 0, 0] * cameras.Ks[:, 1, 1]).sqrt()


@dataclass(frozen=True)
class _Fitted:
    """An estimate with depths in the given unit, the final factors, and the differences from the points, V or fewer."""

    scene: SceneEstimate
    factors: list[float]
    spreads: list[float]


def _fitted(scene: SceneEstimate, scale: float, points: list[tuple[Tensor, Tensor, Tensor]]) -> _Fitted:
    depths = scene.depths * scale
    ratios = []
    for view, (x, y, seen) in enumerate(points):
        estimated = depths[view, y, x]
        ratios.append((seen / estimated)[estimated > 0].cpu())
    enough = [len(ratio) >= LEAST_POINTS for ratio in ratios]
    told = [float(ratio.median()) for ratio, is_enough in zip(ratios, enough, strict=True) if is_enough]
    common = float(torch.tensor(told).median()) if told else 1.0
    factors = [float(r.median()) if is_enough else common for r, is_enough in zip(ratios, enough, strict=True)]
    spreads = [
        float((ratio / factor - 1).abs().median())
        for ratio, factor, is_enough in zip(ratios, factors, enough, strict=True)
        if is_enough
    ]
    return _Fitted(replace(scene, depths=depths * depths.new_tensor(factors)[:, None, None]), factors, spreads)


def triangulated_points(images: Tensor, given: Cameras, valid: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each view the columns [N], rows [N] and depths [N] of points triangulated with given cameras.

    Raises:
        InputError: the given cameras do not fit the photographs.
    """
    structure = poses.structure_of(images, given, valid)
    points = []
    for view in range(len(images)):
        mine = structure.observations.track[structure.observations.view == view]
        world = torch.from_numpy(structure.points[mine]).to(images)
        pixels, seen = (value[0] for value in given[view].to(images.device).project(world))
        x, y = (pixels[:, axis].floor().long() for axis in (0, 1))
        inside = (seen > 0) & (x >= 0) & (y >= 0) & (x < given.width) & (y < given.height)
        points.append((x[inside], y[inside], seen[inside]))
    return points


def residual_notes(alignment: Alignment, factors: list[float], spreads: list[float], source: str) -> list[str]:
    """Notes on the differences between given cameras and estimate, with a warning if they are large."""
    turn, shift = float(alignment.rotation_errors.max()), float(alignment.position_errors.max())
    focal = float(alignment.focal_errors.abs().max())
    notes = [
        f"the given cameras are kept; {source}'s own, laid over them (1 of its units is {alignment.scale:.4g}), are "
        f"off by at most {turn:.2f} degrees, {shift:.1%} of the baseline and {focal:.1%} of the focal length"
    ]
    if spreads:
        scales = ", ".join(f"{factor:.3f}" for factor in factors)
        notes.append(
            f"depths are fitted to points triangulated with the given cameras (factors {scales}), from which they "
            f"differ by {max(spreads):.1%} in the median of the worst view"
        )
    else:
        notes.append(
            "too few features match between the views to fit the depths to the given cameras: they have the "
            "scale of the alignment alone"
        )
    if turn > LARGE_TURN or shift > LARGE_SHIFT or focal > LARGE_FOCAL or max(spreads, default=0.0) > LARGE_SPREAD:
        notes.append(
            f"warning: {source} disagrees with the given cameras, so its depths are off, too; check the cameras, or "
            "use the estimator 'stereo', which sees through the given cameras alone"
        )
    return notes
