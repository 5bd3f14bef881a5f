"""Pose of a held-out photograph in an estimated scene, from features that it shares with the references.

Estimated poses and depths are consistently wrong: the scene is slightly bent, and a camera that is correct in the data
set's world misses it. Resection places the held-out camera where the estimated scene matches the photograph. It is
done once per case, before any picture is made and for all rows, from the photographs alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.estimators.consistency import sample_without_mixing
from cus.estimators.matches import MIN_MATCHES, detect
from cus.estimators.sfm import Features, Intrinsics, absolute_pose, match_features
from cus.estimators.structure import error_threshold

# The rotation is fitted to matches in the crop and around it, up to this many of its widths.
WINDOW = 1.5
# Pixels of the working size: larger residuals count linearly in the fit of the rotation.
SOFT_ERROR = 0.5

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Resection:
    """The pose of a photograph.

    Attributes:
        viewmats: [1, 4, 4] float32 world-to-camera.
        matches: number of features that determined the pose.
        error: median distance in pixels of the given photograph between the features in the window and their
            projections.
    """

    viewmats: Tensor
    matches: int
    error: float


def reference_features(scene: SceneEstimate, valid: Tensor | None = None) -> list[Features]:
    """Features of the references, for `resected`, which describes the arguments."""
    return detect(scene.images, valid, 1.0)


def resected(
    scene: SceneEstimate,
    features: Sequence[Features],
    photo: Tensor,
    camera: Cameras,
    window: Window,
    valid: Tensor | None = None,
) -> Resection:
    """Estimate the pose of a photograph in a scene.

    Features of the photograph that match a reference are points of the scene at the reference's reliable depths. All of
    them determine the pose (RANSAC); then only the rotation is refined with those in the window, so that the remaining
    bending of the scene does not shift the requested part.

    Args:
        scene: V references with estimated cameras and depths.
        features: features of the references (`reference_features`).
        photo: [3, H, W] RGB in [0, 1].
        camera: one camera of H x W pixels; its intrinsics are kept, its pose is ignored.
        window: left, top, right, bottom of the requested part in fractions of H x W pixels.
        valid: [H, W] bool, False on padding.

    Raises:
        InputError: fewer than `MIN_MATCHES` features agree on a pose.
    """
    own = detect(photo[None], None if valid is None else valid[None], 1.0)[0]
    pixels, points = _matched(scene, features, own)
    K = camera.Ks[0].double().cpu().numpy()
    focal, middle = np.array([K[0, 0], K[1, 1]]), K[:2, 2]
    # Square pixels centred on the principal point, as pose estimation assumes.
    square = Intrinsics(float(focal[0]), 0.0, 0.0, camera.width, camera.height)
    seen = (pixels - middle) * (focal[0] / focal)
    found = absolute_pose(seen, points, square, error_threshold(square)) if len(points) >= MIN_MATCHES else None
    agreeing = 0 if found is None else int(found[1].sum())
    if found is None or agreeing < MIN_MATCHES:
        raise InputError(
            f"the held-out photograph cannot be placed in the estimated scene: {agreeing} of its features agree on a "
            f"pose, at least {MIN_MATCHES} are needed; use given poses or a larger size"
        )
    viewmat, inliers = found
    near = inliers & _around(window, pixels / [camera.width, camera.height])
    if near.sum() >= MIN_MATCHES:
        viewmat = _turned(viewmat, seen[near], points[near], float(focal[0]))
    else:
        near = inliers
    errors = np.linalg.norm(_residuals(viewmat, seen[near], points[near], float(focal[0])), axis=1)
    return Resection(torch.from_numpy(viewmat)[None].float(), agreeing, float(np.median(errors)))


def _matched(scene: SceneEstimate, features: Sequence[Features], own: Features) -> tuple[np.ndarray, np.ndarray]:
    """[M, 2] pixels of features and their points [M, 3] in the scene."""
    pixels, points = [np.zeros((0, 2))], [np.zeros((0, 3))]
    for index, theirs in enumerate(features):
        matches = match_features(theirs, own)
        if len(matches) == 0:
            continue
        world, reliable = _points(scene, index, theirs.pixels[matches[:, 0]])
        pixels.append(own.pixels[matches[reliable, 1]])
        points.append(world[reliable])
    return np.concatenate(pixels), np.concatenate(points)


def _points(scene: SceneEstimate, index: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[M, 3] points of the scene at pixels [M, 2] of a reference, and [M] bool where its depth is reliable."""
    camera = scene.cameras[index]
    at = torch.from_numpy(pixels)
    grid = (2 * at / at.new_tensor([camera.width, camera.height]) - 1).float()[None]
    depths = scene.depths[index].float().cpu()
    z = sample_without_mixing(depths, grid)[0].double()
    x, y = at[:, 0].long().clamp(0, camera.width - 1), at[:, 1].long().clamp(0, camera.height - 1)
    reliable = scene.reliable[index].cpu()[y, x] & (z > 0)
    K, viewmat = camera.Ks[0].double().cpu(), camera.viewmats[0].double().cpu()
    rays = torch.cat([at, torch.ones_like(at[:, :1])], dim=1) @ K.inverse().mT
    world = (rays * z[:, None] - viewmat[:3, 3]) @ viewmat[:3, :3]
    return world.numpy(), reliable.numpy()


def _around(window: Window, places: np.ndarray) -> np.ndarray:
    """[M] bool: places [M, 2] within `WINDOW` times the window around its middle."""
    low, high = np.array(window[:2]), np.array(window[2:])
    return np.all(np.abs(places - (low + high) / 2) <= WINDOW * (high - low) / 2, axis=1)


def _residuals(viewmat: np.ndarray, seen: np.ndarray, points: np.ndarray, focal: float) -> np.ndarray:
    """[M, 2] reprojection errors in pixels."""
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    return focal * local[:, :2] / np.maximum(local[:, 2:], 1e-12) - seen


def _turned(viewmat: np.ndarray, seen: np.ndarray, points: np.ndarray, focal: float) -> np.ndarray:
    """[4, 4] the pose, rotated about its centre to minimise the reprojection errors."""

    def turn(vector: np.ndarray) -> np.ndarray:
        turned = viewmat.copy()
        turned[:3] = Rotation.from_rotvec(vector).as_matrix() @ viewmat[:3]
        return turned

    found = least_squares(
        lambda vector: _residuals(turn(vector), seen, points, focal).ravel(),
        np.zeros(3),
        loss="soft_l1",
        f_scale=SOFT_ERROR,
    )
    return turn(found.x)
