"""Chooses pictures from a whole folder or video, or a smaller part of it if neighbours would overlap too little."""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import cv2
import numpy as np

T = TypeVar("T")

# Minimum number of consistent epipolar matches between neighbours; unrelated pictures have about 12 by chance.
LEAST_SHARED = 30
# Fractions of the whole, around its middle, to try in turn.
_PARTS = (1.0, 0.5, 0.25, 0.125, 0.0625)
_LONGEST_SIDE = 640


def overlapping(choose: Callable[[float, float], list[T]], grey: Callable[[T], np.ndarray]) -> tuple[list[T], float]:
    """Choose from the largest part around the middle in which neighbours overlap enough; returns (choice, part).

    If no part is small enough, returns the one whose neighbours overlap most.

    Args:
        choose: returns the choice from between two fractions of the whole; empty if that part is too small.
        grey: returns a chosen picture as [h, w] uint8.
    """
    best: list[T] = []
    best_part, most = 1.0, -1
    for part in _PARTS:
        chosen = choose(0.5 - part / 2, 0.5 + part / 2)
        if len(chosen) < 2:
            break
        found = [_features(grey(item)) for item in chosen]
        weakest = min(_shared(first, second) for first, second in pairwise(found))
        if weakest > most:
            best, best_part, most = chosen, part, weakest
        if weakest >= LEAST_SHARED:
            break
    return best or choose(0.0, 1.0), best_part


Features = tuple[np.ndarray, np.ndarray | None]


def _features(grey: np.ndarray) -> Features:
    """Positions [N, 2] in pixels at 640 along the longest side, and descriptors [N, 128]."""
    scale = min(1.0, _LONGEST_SIDE / max(grey.shape))
    size = round(grey.shape[1] * scale), round(grey.shape[0] * scale)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    sift = cv2.SIFT_create(2000)  # pyright: ignore[reportAttributeAccessIssue]
    points, descriptors = sift.detectAndCompute(small, None)
    return np.array([point.pt for point in points], np.float32).reshape(-1, 2), descriptors


def _shared(first: Features, second: Features) -> int:
    """Number of matches between two pictures that agree with one epipolar geometry."""
    if first[1] is None or second[1] is None or len(second[1]) < 2:
        return 0
    pairs = cv2.BFMatcher().knnMatch(first[1], second[1], k=2)
    good = [a for a, b in pairs if a.distance < 0.75 * b.distance]
    if len(good) < 8:
        return 0
    ends = first[0][[m.queryIdx for m in good]], second[0][[m.trainIdx for m in good]]
    cv2.setRNGSeed(0)
    _, inliers = cv2.findFundamentalMat(*ends, cv2.FM_RANSAC, 2.0, 0.99, 500)
    return 0 if inliers is None else int(inliers.sum())
