"""An estimate brought into the world of cameras that are known."""

from dataclasses import replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.alignment import Alignment, align_cameras
from cus.estimators import poses
from cus.estimators.scene import SceneEstimate

LEAST_POINTS = 30  # triangulated points that tell the scale of a view's depths
# Beyond these an estimate is not of the geometry that the given cameras see, and its depths are off with it.
LARGE_TURN = 3.0  # degrees
LARGE_SHIFT = 0.1  # of the baseline
LARGE_FOCAL = 0.1  # of the focal length
LARGE_SPREAD = 0.1  # of the depth


def with_known_cameras(scene: SceneEstimate, given: Cameras, valid: Tensor | None, source: str) -> SceneEstimate:
    """The estimate's depths in the world of the given cameras, which are kept exactly.

    The similarity that lays the estimated cameras over the given ones scales all depths. It leaves an error: the given
    poses and focal lengths differ from the estimated ones, and a depth grows with the focal length it was seen
    through. So each view is scaled once more, by the median of the depths of points that are triangulated with the
    given cameras over the estimated ones; a median, because some matches are wrong. A view that sees fewer than
    `LEAST_POINTS` takes the median of the others' corrections.

    Args:
        scene: the estimate, in its own world and unit.
        given: V cameras of its images.
        valid: [V, H, W] bool or None: False on padding.
        source: the estimator's name, for the notes.

    Raises:
        InputError: cameras that fit neither the photographs nor the estimate.
    """
    alignment = align_cameras(scene.cameras, given)
    depths = scene.depths * alignment.scale
    ratios = triangulated_ratios(scene.images, depths, given, valid)
    told = [float(ratio.median()) for ratio in ratios if len(ratio) >= LEAST_POINTS]
    common = float(torch.tensor(told).median()) if told else 1.0
    factors = [float(ratio.median()) if len(ratio) >= LEAST_POINTS else common for ratio in ratios]
    depths = depths * depths.new_tensor(factors)[:, None, None]
    spreads = [
        float((ratio / factor - 1).abs().median())
        for ratio, factor in zip(ratios, factors, strict=True)
        if len(ratio) >= LEAST_POINTS
    ]
    moved = replace(scene, cameras=given.to(scene.depths.device), depths=depths)
    return moved.with_notes(*residual_notes(alignment, factors, spreads, source))


def triangulated_ratios(images: Tensor, depths: Tensor, given: Cameras, valid: Tensor | None) -> list[Tensor]:
    """V of [N]: depths of triangulated points over the estimated depths [V, H, W] at the pixels where they are seen.

    Raises:
        InputError: the given cameras do not fit the photographs.
    """
    structure = poses.structure_of(images, given, valid)
    height, width = depths.shape[-2:]
    ratios = []
    for view in range(len(images)):
        mine = structure.observations.track[structure.observations.view == view]
        points = torch.from_numpy(structure.points[mine]).to(depths)
        pixels, seen = (value[0] for value in given[view].to(depths.device).project(points))
        x, y = pixels[:, 0].floor().long().clamp(0, width - 1), pixels[:, 1].floor().long().clamp(0, height - 1)
        estimated = depths[view, y, x]
        known = (estimated > 0) & (seen > 0)
        ratios.append((seen[known] / estimated[known]).cpu())
    return ratios


def residual_notes(alignment: Alignment, factors: list[float], spreads: list[float], source: str) -> list[str]:
    """What the given cameras and the estimate disagree in, and a warning where it is much."""
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
