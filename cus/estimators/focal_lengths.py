"""Corrects an estimate for known focal lengths."""

from dataclasses import replace

import cv2
import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.scene import SceneEstimate

SAMPLES = 2000  # number of points used to place a camera
LARGE_ERROR = 0.1
# A lens that is wrong by a factor bends a world by about this factor; cameras that suggest a much larger bend, because
# they hardly have a baseline, are no evidence for it.
MOST_BENDING = 2.0  # as an exponent of the factor


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
