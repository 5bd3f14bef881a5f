"""How well a few pairs of views determine a focal length: the loss of their matches, a prior, and a range.

Two views determine a focal length weakly: the matches of one pair fit hardly worse at half of it. So the evidence of
the matches is weighted by its own scatter over the picture, and combined with the distribution of lenses in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator

from cus.estimators import sfm
from cus.estimators.matches import thinned
from cus.estimators.reconstruction import Model, refined
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import error_threshold, reprojection, triangulate

# Focal lengths in units of the longest side, the unit of all factors here: 36 mm of film.
FACTORS = np.geomspace(0.42, 2.66, 14)
START_FACTORS = (0.7, 1.05, 1.6)
# Four of five photographs are taken with 24 mm to 60 mm equivalent focal length.
PRIOR_MEDIAN = float(np.sqrt(24 * 60)) / 36
EIGHTY_PERCENT = 1.2816  # standard deviations around the mean that contain 80 %
PRIOR_SPREAD = float(np.log(60 / 24)) / (2 * EIGHTY_PERCENT)  # of the logarithm
LEAST_SCALE = 0.3  # pixels, of the Cauchy loss; about the position error of features
# Two views confuse lens distortion and an off-centre principal point with the focal length: a standard deviation.
SYSTEMATIC = 0.04
# Ratio of the ends of a range above which the guess is weak: more than 15 % to either side.
WEAK_GUESS = 1.35
# Weight of the matches of a weak guess. They are few, or all on one wall seen from far apart, and have common errors:
# pairs of the fountain (views 4 and 9) and of Sceaux castle (3 and 6) suggest a lens 1.2 to 1.7 times too long, more or
# less for every way of storing the photographs, although their scatter indicates that they cannot be so wrong.
WEAK_EVIDENCE = 0.1
CELLS = 4  # blocks of matches along each side of the picture
MAX_MATCHES = 600
ROUNDS = 15
STEPS = np.array([0.65, 0.8, 0.92, 1.0, 1.08, 1.25, 1.55])
MAX_TRACKS = 1500
ADJUSTED_SYSTEMATIC = 0.02  # standard deviation, of the logarithm, of lens distortion and similar errors
MOVED = 0.02  # relative change of the focal length above which everything is adjusted to it


@dataclass(frozen=True)
class FocalGuess:
    """A focal length in units of the longest side, and the range that contains it with a probability of 80 %."""

    factor: float
    low: float
    high: float


@dataclass(frozen=True)
class PairLosses:
    """Evidence of the matches of one pair on some focal lengths.

    Attributes:
        losses: [F, N] loss of each match under the best pose at that focal length: Cauchy's negative log-likelihood.
        blocks: [N] int, the cell of the picture that contains a match.
    """

    losses: np.ndarray
    blocks: np.ndarray


def guess_focal(pairs: Sequence["PairProfile"]) -> FocalGuess:
    """The common focal length of pairs of views, and its range; the prior's without any pair."""
    rough = most_probable([pair.losses(FACTORS) for pair in pairs], FACTORS)
    if not pairs:
        return rough
    # The minimum of many exact matches is narrower than the steps between `FACTORS`.
    step = FACTORS[1] / FACTORS[0]
    factors = np.unique(np.append(FACTORS, rough.factor * np.geomspace(1 / step, step, 9)))
    return most_probable([pair.losses(factors) for pair in pairs], factors)


def most_probable(pairs: Sequence[PairLosses], factors: np.ndarray, systematic: float = SYSTEMATIC) -> FocalGuess:
    """The median of the combination of losses and prior over focal lengths, and its range.

    The difference between a loss and the smallest one is compared with its standard error, from the scatter of the
    blocks (Vuong's test): neighbouring matches have similar errors, so counting each as independent evidence would be
    far too certain. If they leave a wide range even so, they have little weight (`WEAK_EVIDENCE`), and it is nearly the
    prior's.

    Args:
        pairs: losses at the same focal lengths; without any, only the prior counts.
        factors: [F] focal lengths, ascending.
        systematic: standard deviation, of the logarithm, of errors that the scatter does not show.
    """
    fine = np.linspace(np.log(factors[0]), np.log(factors[-1]), 1024)
    evidence = PchipInterpolator(np.log(factors), _evidence(pairs))(fine) if pairs else np.zeros_like(fine)
    guess = _joined_with_prior(fine, evidence, systematic)
    if pairs and guess.high > WEAK_GUESS * guess.low:
        guess = _joined_with_prior(fine, WEAK_EVIDENCE * evidence, systematic)
    return guess


def _evidence(pairs: Sequence[PairLosses]) -> np.ndarray:
    """[F] negative log-likelihood of the focal lengths, 0 at the best."""
    by_block = np.concatenate([_block_sums(pair) for pair in pairs], axis=1)  # [F, B]
    difference = by_block - by_block[by_block.sum(axis=1).argmin()]
    told, count = difference.sum(axis=1), max(by_block.shape[1], 2)
    scatter = np.square(difference - difference.mean(axis=1, keepdims=True)).sum(axis=1)
    error = np.sqrt(scatter * count / (count - 1))
    # Near the minimum the difference grows with the square of the distance and its error with the distance, so
    # a normal log-likelihood of the same significance is not half but twice the square of their ratio.
    return np.minimum(told, 2.0 * np.square(told / np.maximum(error, 1e-9)))


def _joined_with_prior(fine: np.ndarray, evidence: np.ndarray, systematic: float) -> FocalGuess:
    """Median and 80 % range of the probability over the logarithms of focal lengths."""
    cost = evidence + 0.5 * ((fine - np.log(PRIOR_MEDIAN)) / PRIOR_SPREAD) ** 2
    probability = np.exp(cost.min() - cost)
    low, middle, high = np.interp([0.1, 0.5, 0.9], np.cumsum(probability) / probability.sum(), fine)
    below, above = (float(np.hypot(d, EIGHTY_PERCENT * systematic)) for d in (middle - low, high - middle))
    return FocalGuess(*(float(np.exp(value)) for value in (middle, middle - below, middle + above)))


class PairProfile:
    """The matches of a pair of views, with their loss at any focal length under the best pose for it.

    Args:
        pixels_a: [N, 2] matched pixels of the first view.
        pixels_b: [N, 2] matched pixels of the second view.
        camera_a: intrinsics of the first view at a factor of 1; a known focal length is fixed.
        camera_b: intrinsics of the second view at a factor of 1; a known focal length is fixed.
    """

    def __init__(self, pixels_a: np.ndarray, pixels_b: np.ndarray, camera_a: Intrinsics, camera_b: Intrinsics) -> None:
        if len(pixels_a) > MAX_MATCHES:
            chosen = np.sort(np.random.default_rng(0).permutation(len(pixels_a))[:MAX_MATCHES])
            pixels_a, pixels_b = pixels_a[chosen], pixels_b[chosen]
        self._epipolar = _Epipolar.of(pixels_a, pixels_b, camera_a, camera_b)
        self._blocks = _cells(pixels_a, camera_a)
        self._scale = LEAST_SCALE
        starts = []
        for factor in START_FACTORS:
            cameras = [c if c.known else replace(c, focal=c.focal * factor) for c in (camera_a, camera_b)]
            found = sfm.relative_pose(pixels_a, pixels_b, cameras[0], cameras[1], max_error=2.0)
            if found is not None:
                starts.append(found[0])
        self._starts = np.stack(starts) if starts else np.zeros((0, 4, 4))

    def losses(self, factors: np.ndarray) -> PairLosses:
        """Losses at focal lengths [F], ascending; all 0 if no pose fits at all."""
        if len(self._starts) == 0:
            return PairLosses(np.zeros((len(factors), len(self._blocks))), self._blocks)
        best = None
        for start in self._starts:
            poses = np.repeat(start[None], len(factors), axis=0)
            found = self._refined(factors, poses[:, :3, :3], poses[:, :3, 3])
            best = found if best is None else best.better_of(found)
        assert best is not None
        if self._scale == LEAST_SCALE:
            # Adapted to the errors, which are larger for blurred, compressed or very different views.
            residuals = self._epipolar.residuals(factors, best.rotations, best.shifts)
            self._scale = max(LEAST_SCALE, float(np.median(np.abs(residuals[best.losses.sum(axis=1).argmin()]))))
            best = self._refined(factors, best.rotations, best.shifts)
        for step in (-1, 1):  # the pose found at a neighbouring focal length may be a better start
            index = (np.arange(len(factors)) + step).clip(0, len(factors) - 1)
            best = best.better_of(self._refined(factors, best.rotations[index], best.shifts[index]))
        return PairLosses(best.losses, self._blocks)

    def _refined(self, factors: np.ndarray, rotations: np.ndarray, shifts: np.ndarray) -> "_Poses":
        """Levenberg-Marquardt on the Sampson errors, with a Cauchy loss."""
        count = len(factors)
        damping = np.full(count, 1e-3)
        residuals = self._epipolar.residuals(factors, rotations, shifts)
        losses = self._cauchy(residuals)
        steps = np.tile(np.eye(5) * 1e-6, (count, 1))
        for _ in range(ROUNDS):
            tangents = _tangents(shifts)
            tried = _moved(*(np.repeat(value, 5, axis=0) for value in (rotations, shifts, tangents)), steps)
            moved = self._epipolar.residuals(np.repeat(factors, 5), *tried).reshape(count, 5, -1)
            jacobian = (moved - residuals[:, None]) / 1e-6
            weighted = jacobian / (1.0 + np.square(residuals / self._scale))[:, None]
            normal = weighted @ jacobian.transpose(0, 2, 1)
            normal = normal + damping[:, None, None] * (np.eye(5) * normal) + 1e-9 * np.eye(5)
            step = -np.linalg.solve(normal, weighted @ residuals[..., None])[..., 0]
            turned, shifted = _moved(rotations, shifts, tangents, step)
            tried_residuals = self._epipolar.residuals(factors, turned, shifted)
            tried_losses = self._cauchy(tried_residuals)
            gain = losses.sum(axis=1) - tried_losses.sum(axis=1)
            better = gain > 0
            damping = np.where(better, damping * 0.3, damping * 5.0)
            rotations = np.where(better[:, None, None], turned, rotations)
            shifts = np.where(better[:, None], shifted, shifts)
            residuals = np.where(better[:, None], tried_residuals, residuals)
            losses = np.where(better[:, None], tried_losses, losses)
            if (gain < 1e-3).all() and better.any():
                break
        return _Poses(rotations, shifts, losses)

    def _cauchy(self, residuals: np.ndarray) -> np.ndarray:
        return np.log1p(np.square(residuals / self._scale))


@dataclass(frozen=True)
class _Epipolar:
    """Matched pixels relative to the principal points, in units of `size` pixels.

    Attributes:
        a: [N, 3] homogeneous pixels of the first view.
        b: [N, 3] homogeneous pixels of the second view.
        products: [N, 9] products of these.
        focals: focal length of each camera at a factor of 1, in the same unit, and whether it is known.
        size: unit in pixels.
    """

    a: np.ndarray
    b: np.ndarray
    products: np.ndarray
    focals: tuple[tuple[float, bool], tuple[float, bool]]
    size: float

    @staticmethod
    def of(pixels_a: np.ndarray, pixels_b: np.ndarray, camera_a: Intrinsics, camera_b: Intrinsics) -> "_Epipolar":
        size = float(max(camera_a.width, camera_a.height))
        a, b = (
            np.column_stack([(pixels - [camera.cx, camera.cy]) / size, np.ones(len(pixels))])
            for pixels, camera in ((pixels_a, camera_a), (pixels_b, camera_b))
        )
        focals = (camera_a.focal / size, camera_a.known), (camera_b.focal / size, camera_b.known)
        return _Epipolar(a, b, (b[:, :, None] * a[:, None]).reshape(-1, 9), focals, size)

    def residuals(self, factors: np.ndarray, rotations: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """[F, N] Sampson errors in pixels (Hartley and Zisserman 2004, section 11.4.3) of F focal lengths and poses."""
        fundamental = _cross(shifts) @ rotations
        for axis, (focal, known) in zip((2, 1), self.focals, strict=True):
            scale = 1.0 / (np.full(len(factors), focal) if known else focal * factors)
            lens = np.stack([scale, scale, np.ones_like(scale)], axis=1)
            fundamental = fundamental * np.expand_dims(lens, 3 - axis)
        algebraic = fundamental.reshape(-1, 9) @ self.products.T
        slope = np.zeros_like(algebraic)
        for axis in (0, 1):
            slope += np.square(fundamental[:, axis] @ self.a.T) + np.square(fundamental[:, :, axis] @ self.b.T)
        return self.size * algebraic / np.sqrt(slope.clip(min=1e-30))


@dataclass(frozen=True)
class _Poses:
    """A pose of the second view for each focal length: [F, 3, 3], [F, 3] of unit length, and the losses [F, N]."""

    rotations: np.ndarray
    shifts: np.ndarray
    losses: np.ndarray

    def better_of(self, other: "_Poses") -> "_Poses":
        """For each focal length the pose that fits better."""
        mine = self.losses.sum(axis=1) <= other.losses.sum(axis=1)
        return _Poses(
            np.where(mine[:, None, None], self.rotations, other.rotations),
            np.where(mine[:, None], self.shifts, other.shifts),
            np.where(mine[:, None], self.losses, other.losses),
        )


def _moved(
    rotations: np.ndarray, shifts: np.ndarray, tangents: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Poses after steps [F, 5]: three of a rotation vector, two of a unit translation in its tangent plane."""
    angle = np.linalg.norm(steps[:, :3], axis=1).clip(min=1e-15)[:, None, None]
    cross = _cross(steps[:, :3])
    turn = np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    shifted = shifts + (steps[:, None, 3:] @ tangents)[:, 0]
    return turn @ rotations, shifted / np.linalg.norm(shifted, axis=1, keepdims=True)


def _tangents(shifts: np.ndarray) -> np.ndarray:
    """[F, 2, 3] orthonormal vectors perpendicular to unit vectors [F, 3]."""
    helper = np.eye(3)[np.abs(shifts).argmin(axis=1)]
    first = np.cross(shifts, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return np.stack([first, np.cross(shifts, first)], axis=1)


def _cross(vectors: np.ndarray) -> np.ndarray:
    """[F, 3, 3] matrices of the cross product with vectors [F, 3]."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)


def _cells(pixels: np.ndarray, camera: Intrinsics) -> np.ndarray:
    """[N] index of the cell of the picture, of `CELLS` x `CELLS`, that contains pixels [N, 2]."""
    column, row = (np.clip(pixels / [camera.width, camera.height] * CELLS, 0, CELLS - 1)).astype(int).T
    return row * CELLS + column


def _block_sums(pair: PairLosses) -> np.ndarray:
    """[F, B] sums of the losses over each block that has any match."""
    names, index = np.unique(pair.blocks, return_inverse=True)
    sums = np.zeros((len(names), len(pair.losses)))
    np.add.at(sums, index, pair.losses.T)
    return sums.T


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
    guess = most_probable([PairLosses(np.stack(losses), blocks)], best * STEPS, ADJUSTED_SYSTEMATIC)
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
