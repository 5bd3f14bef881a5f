"""Corrects an estimate for known cameras, or for known focal lengths alone."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.alignment import Alignment, align_cameras
from cus.errors import InputError
from cus.estimators import poses
from cus.scene import SceneEstimate

LEAST_POINTS = 30  # minimum number of triangulated points to determine the scale of a view's depths
# Above these errors an estimate does not match the geometry of the given cameras, and its depths are wrong, too.
LARGE_TURN = 3.0  # degrees
LARGE_SHIFT = 0.1  # of the baseline
LARGE_FOCAL = 0.1  # of the focal length
LARGE_SPREAD = 0.1  # of the depth
SAMPLES = 2000  # number of points used to place a camera
LARGE_ERROR = 0.1
# A lens that is wrong by a factor bends a world by about this factor; cameras that suggest a much larger bend, because
# they hardly have a baseline, are no evidence for it.
MOST_BENDING = 2.0  # as an exponent of the factor


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


def with_known_focals(scene: SceneEstimate, focals: Tensor, source: str) -> SceneEstimate:
    """Correct an estimate for known focal lengths, keeping what the photographs show in place.

    Pictures alone do not determine a lens: a world transformed by a projective map H that fixes the first camera's
    pixels looks the same through cameras of other focal lengths. The known intrinsics leave three parameters of H,
    which
    tilt it: they are chosen such that all cameras are as nearly rigid as possible (metric upgrade with known
    intrinsics, Hartley and Zisserman 2004, chapter 19). For the rest, each camera is placed anew by its pixels on the
    transformed points (resection, Levenberg-Marquardt on reprojection errors).

    Args:
        scene: estimate whose first camera is the identity.
        focals: [V] focal lengths in pixels of the images; NaN where unknown: these change by the mean factor of the
            known ones, because a network's errors are similar in all views of a scene.
        source: the estimator's name, for the note.

    Returns:
        The estimate itself if no focal length is known.

    Raises:
        InputError: a focal length that is not positive.
    """
    known = torch.isfinite(focals)
    if not bool(known.any()):
        return scene
    for view in known.nonzero()[:, 0].tolist():
        if not focals[view] > 0:
            raise InputError(f"the focal length of view {view + 1} must be positive, got {focals[view]:g} pixels")
    old = (scene.cameras.Ks[:, 0, 0] * scene.cameras.Ks[:, 1, 1]).sqrt()
    wanted = focals.to(old)
    factors = wanted / old
    known = known.to(old.device)
    factors = torch.where(known, factors, factors[known].log().mean().exp())
    Ks = scene.cameras.Ks.clone()
    Ks[:, [0, 1], [0, 1]] *= factors[:, None]
    Ks[known, 0, 0] = Ks[known, 1, 1] = wanted[known]

    common = float(factors.log().mean().exp())
    motion, points, in_front = _moved_points(scene, common)
    viewmats, depths = scene.cameras.viewmats.clone(), torch.zeros_like(scene.depths)
    pixels = scene.cameras.pixel_centers()
    reliable = scene.reliable & in_front
    for view in range(len(scene)):
        if view > 0:
            chosen = _spread(reliable[view])
            start = _rigid(viewmats[view].double() @ torch.linalg.inv(motion), common)
            viewmats[view] = _resected(points[view][chosen], pixels[chosen], Ks[view], start)
        seen = points[view].float() @ viewmats[view, 2, :3] + viewmats[view, 2, 3]
        depths[view] = torch.where(in_front[view], seen.clamp(min=0.0), 0.0)
    confidences = torch.where(depths > 0, scene.confidences, 0.0)
    cameras = Cameras(viewmats, Ks, scene.cameras.width, scene.cameras.height)
    worst = float((1 / factors[known] - 1)[(1 / factors[known] - 1).abs().argmax()])
    note = f"focal lengths are the known ones; {source}'s own were off by {worst:+.1%} at most"
    if abs(worst) > LARGE_ERROR:
        note += "; if the photographs are cropped, what their files say is wrong: give --fov then"
    return replace(scene, cameras=cameras, depths=depths, confidences=confidences).with_notes(note)


def _moved_points(scene: SceneEstimate, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """The map of the world for a lens `factor` as long, the mapped points [V, H, W, 3], and those it keeps, bool."""
    points = scene.cameras.backproject(scene.depths).double()
    motion = metric_upgrade(scene.cameras.viewmats, factor, scene.scale)
    divisors = points @ motion[3, :3] + motion[3, 3]
    reach = max(factor, 1 / factor) ** MOST_BENDING + 0.01
    bends = divisors[scene.reliable] / divisors[scene.reliable].median()
    if not bool(((bends > 1 / reach) & (bends < reach)).all()):
        motion[3, :3] = 0.0
        divisors = points @ motion[3, :3] + motion[3, 3]
    moved = points @ motion[:3, :3].T / divisors.clamp(min=1e-6)[..., None]
    return motion, moved, (scene.depths > 0) & (divisors > 1e-6)


def metric_upgrade(viewmats: Tensor, factor: float, scale: float) -> Tensor:
    """[4, 4] float64: the projective map of the world that makes cameras rigid at changed focal lengths.

    Args:
        viewmats: [V, 4, 4] world-to-camera before the change, the first the identity.
        factor: ratio of new to old focal lengths; one for all views, because random differences between views would
            bend the world.
        scale: scene scale, the typical size of the scene.
    """
    lens = np.array([1 / factor, 1 / factor, 1.0])
    seen = lens[:, None] * viewmats[:, :3].double().cpu().numpy()  # calibrated pixels of the new lens, of old points
    first = np.diag(1 / lens)

    def back(tilt: np.ndarray) -> np.ndarray:
        inverse = np.eye(4)
        inverse[:3, :3], inverse[3, :3] = first, tilt / scale
        return inverse

    def not_rigid(tilt: np.ndarray) -> np.ndarray:
        parts = (seen[1:] @ back(tilt))[:, :, :3]
        gram = parts @ parts.transpose(0, 2, 1)
        gram /= np.trace(gram, axis1=1, axis2=2)[:, None, None] / 3
        # A weak regularisation keeps a tilt without evidence (e.g. if all cameras are in one place) at zero.
        return np.append((gram - np.eye(3)).ravel(), 1e-3 * tilt)

    return torch.from_numpy(np.linalg.inv(back(least_squares(not_rigid, np.zeros(3)).x))).to(viewmats.device)


def _rigid(camera: Tensor, factor: float) -> Tensor:
    """[4, 4] float32 rigid world-to-camera matrix nearest to a projective camera with a lens `factor` as long."""
    part = camera[:3].clone()
    part[:2] /= factor
    u, sizes, vh = torch.linalg.svd(part[:, :3])
    sign = torch.sign(torch.linalg.det(u @ vh))
    rigid = torch.eye(4, device=camera.device)
    rigid[:3, :3], rigid[:3, 3] = sign * u @ vh, sign * part[:, 3] / sizes.mean()
    return rigid


def _spread(mask: Tensor) -> Tensor:
    """[H, W] bool: at most about `SAMPLES` of the pixels in a mask, evenly spaced."""
    indices = mask.flatten().nonzero()[:, 0]
    chosen = torch.zeros_like(mask.flatten())
    chosen[indices[:: max(1, len(indices) // SAMPLES)]] = True
    return chosen.view_as(mask)


def _resected(points: Tensor, pixels: Tensor, K: Tensor, start: Tensor) -> Tensor:
    """[4, 4] world-to-camera matrix that projects points [N, 3] to pixels [N, 2], refined from `start`."""
    if len(points) < 6:
        return start
    world, seen, matrix = (value.double().cpu().numpy() for value in (points, pixels, K))
    turn, _ = cv2.Rodrigues(start[:3, :3].double().cpu().numpy())
    shift = start[:3, 3:].double().cpu().numpy().copy()
    turn, shift = cv2.solvePnPRefineLM(world[:, None], seen[:, None], matrix, None, turn, shift)
    refined = np.eye(4)
    refined[:3, :3], refined[:3, 3] = cv2.Rodrigues(turn)[0], shift[:, 0]
    return torch.from_numpy(refined).to(start) if np.isfinite(refined).all() else start
