"""Means over scenes, and how much they would vary with other cases: a stratified percentile bootstrap.

The mean over several scenes is the mean of the scenes' means, so a scene with many cases has no more weight than
another. A bootstrap draw takes from each scene as many cases as it has, with replacement; the scenes are fixed. So
intervals describe other cases in these scenes, not other scenes, and are too narrow if cases are few or share
photographs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DRAWS = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over scenes.

    Attributes:
        mean: mean score; NaN if there is no case.
        interval: percentile bootstrap interval, (low, high); None if every scene has a single case, or a score is
            infinite.
        cases: number of cases.
        scenes: number of scenes with cases.
    """

    mean: float
    interval: tuple[float, float] | None
    cases: int
    scenes: int


def scene_weights(sizes: Sequence[int]) -> np.ndarray:
    """[n] weights with sum 1 that turn n scores, ordered by scene, into the mean of the scenes' means.

    Args:
        sizes: number of cases in each scene, at least 1; n is their sum.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"every scene needs a case, got {list(sizes)} cases")
    return np.repeat(1 / (len(sizes) * np.asarray(sizes, np.float64)), sizes)


@lru_cache(maxsize=8)
def _drawn_weights(sizes: tuple[int, ...], draws: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    counts = [generator.multinomial(size, np.full(size, 1 / size), size=draws) for size in sizes]
    weights = np.concatenate(counts, axis=1) * scene_weights(sizes)
    weights.setflags(write=False)
    return weights


def bootstrap_weights(sizes: Sequence[int], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """[draws, n] weights like `scene_weights`, one bootstrap draw per row. Read-only.

    The same sizes and seed give the same draws, whatever the scores: all rows of a table use the same draws.
    """
    scene_weights(sizes)
    return _drawn_weights(tuple(sizes), draws, seed)


def estimates(values: np.ndarray, sizes: Sequence[int], draws: int = DRAWS, seed: int = 0) -> list[Estimate]:
    """The mean over scenes of each row of scores, with its interval.

    Args:
        values: [R, n] scores ordered by scene, no NaN.
        sizes: number of cases in each scene, without empty scenes.
        draws: number of bootstrap draws.
        seed: seed of the draws.
    """
    if values.ndim != 2 or values.shape[1] != sum(sizes):
        raise ValueError(f"expected scores [R, {sum(sizes)}], got {list(values.shape)}")
    if not sizes:
        return [Estimate(math.nan, None, 0, 0) for _ in values]
    means = values @ scene_weights(sizes)
    bounds = np.full((2, len(values)), math.nan)
    finite = np.isfinite(values).all(axis=1)
    if max(sizes) > 1 and finite.any():
        tail = 50 * (1 - COVERAGE)
        drawn = bootstrap_weights(sizes, draws, seed) @ values[finite].T
        bounds[:, finite] = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return [
        Estimate(float(mean), None if math.isnan(low) else (float(low), float(high)), sum(sizes), len(sizes))
        for mean, low, high in zip(means, *bounds, strict=True)
    ]
