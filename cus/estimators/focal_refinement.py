"""How well three or more placed views determine their focal length: bundle adjustment at fixed ones near the best."""

from dataclasses import replace

import numpy as np

from cus.estimators import sfm
from cus.estimators.focal_profile import CELLS, LEAST_SCALE, FocalGuess, PairLosses, most_probable
from cus.estimators.matches import thinned
from cus.estimators.reconstruction import Model, refined
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import error_threshold, reprojection, triangulate

STEPS = np.array([0.65, 0.8, 0.92, 1.0, 1.08, 1.25, 1.55])
MAX_TRACKS = 1500
SYSTEMATIC = 0.02  # standard deviation, of the logarithm, of lens distortion and similar errors
MOVED = 0.02  # relative change of the focal length above which everything is adjusted to it


def refined_guess(model: Model, tracks: Observations, unit: list[Intrinsics]) -> tuple[Model, FocalGuess]:
    """The model with the focal length from both the views and the prior, and its range.

    Bundle adjustment alone takes the best focal length, however small its advantage. So the views are also adjusted at
    focal lengths around it, and the increase of the loss is weighed as for a pair (`most_probable`).

    Args:
        model: three or more views, refined together with their focal length.
        tracks: tracks through all views.
        unit: intrinsics at a factor of 1.
    """
    free = next(view for view in sorted(model.viewmats) if not model.cameras[view].known)
    best = model.cameras[free].focal / unit[free].focal
    mine = tracks[np.isin(tracks.view, list(model.viewmats))]
    _, track = np.unique(mine.track, return_inverse=True)
    chosen = thinned(Observations(track, mine.view, mine.pixels), MAX_TRACKS)
    points, good = triangulate(model.viewmats, model.cameras, chosen, error_threshold(model.cameras[0]))
    seen = chosen[good]
    losses = [_losses(model, points, seen, step) for step in STEPS]
    cell = (seen.pixels / [model.cameras[0].width, model.cameras[0].height] * CELLS).astype(int).clip(0, CELLS - 1)
    blocks = (seen.view * CELLS + cell[:, 1]) * CELLS + cell[:, 0]
    guess = most_probable([PairLosses(np.stack(losses), blocks)], best * STEPS, SYSTEMATIC)
    if abs(np.log(guess.factor / best)) <= MOVED:
        return model, replace(guess, factor=best)
    moved = replace(model, cameras=_scaled_focals(model.cameras, guess.factor / best))
    return refined(moved, tracks, refine_focals=False), guess


def _losses(model: Model, points: np.ndarray, seen: Observations, step: float) -> np.ndarray:
    """[M] Cauchy losses of observations after adjusting everything but the focal length, which is scaled by `step`."""
    viewmats, cameras, points = sfm.adjust_bundle(
        model.viewmats,
        _scaled_focals(model.cameras, step),
        points,
        seen,
        refine_focals=False,
        loss_scale=LEAST_SCALE,
    )
    errors, _ = reprojection(viewmats, cameras, points, seen)
    return np.log1p(np.square(errors / LEAST_SCALE))


def _scaled_focals(cameras: list[Intrinsics], factor: float) -> list[Intrinsics]:
    return [c if c.known else replace(c, focal=c.focal * factor) for c in cameras]
