"""Checks whether photographs show parallax, or a rotation of the camera explains them."""

from dataclasses import replace

import numpy as np

from cus.errors import InputError
from cus.estimators import sfm
from cus.estimators.matches import Pair
from cus.estimators.sfm import Intrinsics

MIN_PARALLAX = 0.75  # pixels, twice the position error of features
# Candidate focal lengths for a rotation, in units of the longest side: far beyond any guess.
TRIED_FACTORS = np.geomspace(0.3, 6.0, 13)


def require_parallax(features: list[sfm.Features], pairs: list[Pair], cameras: list[Intrinsics]) -> None:
    """Refuse photographs whose matches can be explained by camera rotation alone, at any candidate focal length.

    Args:
        features: features of every view.
        pairs: verified matches to check.
        cameras: intrinsics of every view; unknown focal lengths are those of a factor of 1.

    Raises:
        InputError: no pair shows parallax.
    """
    largest = 0.0
    for pair in pairs:
        a, b = features[pair.a].pixels[pair.matches[:, 0]], features[pair.b].pixels[pair.matches[:, 1]]
        largest = max(largest, least_rotation_residual(a, b, cameras[pair.a], cameras[pair.b]))
        if largest >= MIN_PARALLAX:
            return
    raise InputError(
        f"the photographs show no parallax: turning the camera alone explains the matches to {largest:.1f} pixels. "
        "They were taken from one place, or are copies; step sideways by a tenth of the distance to the subject, or "
        "use the estimator 'da3', which sees depth in each"
    )


def least_rotation_residual(
    pixels_a: np.ndarray, pixels_b: np.ndarray, camera_a: Intrinsics, camera_b: Intrinsics
) -> float:
    """The smallest `rotation_residual` over the focal length, if it is not known.

    Two pictures of a rotating camera determine its focal length well, so a coarse list of guesses is not enough.
    """
    if camera_a.known and camera_b.known:
        return rotation_residual(pixels_a, pixels_b, camera_a, camera_b)

    def residual(log_factor: float) -> float:
        factor = float(np.exp(log_factor))
        a, b = (c if c.known else replace(c, focal=c.focal * factor) for c in (camera_a, camera_b))
        return rotation_residual(pixels_a, pixels_b, a, b)

    tried, costs = np.log(TRIED_FACTORS), [np.inf]
    for _ in range(4):
        costs = [residual(value) for value in tried]
        best = int(np.argmin(costs))
        tried = np.linspace(tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)], 7)
    return min(costs)


def rotation_residual(pixels_a: np.ndarray, pixels_b: np.ndarray, camera_a: Intrinsics, camera_b: Intrinsics) -> float:
    """Median distance in pixels between matched pixels after the best pure rotation: the parallax of a pair."""
    a, b = (
        np.column_stack([(p - [c.cx, c.cy]) / c.focal, np.ones(len(p))])
        for p, c in ((pixels_a, camera_a), (pixels_b, camera_b))
    )
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    weight = np.ones(len(a))
    residual = weight
    for _ in range(10):
        u, _, vt = np.linalg.svd((b * weight[:, None]).T @ a)
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        residual = np.linalg.norm(b - a @ rotation.T, axis=1)
        weight = 1.0 / np.maximum(residual, 0.5 / camera_b.focal)
    return float(np.median(residual)) * camera_b.focal
