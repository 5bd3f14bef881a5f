"""Features, verified matches between pairs of views, and tracks through all of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.estimators import sfm
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import error_threshold

MIN_FEATURES = 30
MIN_MATCHES = 20
ALL_PAIRS_UP_TO = 8  # views; with more, each is matched with a limited number
ALIKE_NEIGHBOURS = 5
ORDER_NEIGHBOURS = 2
PREEMPTIVE_FEATURES = 400


@dataclass(frozen=True)
class Pair:
    """Verified matches of views a < b: [M, 2] feature indices."""

    a: int
    b: int
    matches: np.ndarray


def detect(
    images: Tensor, valid: Tensor | None, scale: float, on_view: Callable[[], None] | None = None
) -> list[sfm.Features]:
    """SIFT features of every view, in pixels of the images shrunk by `scale`, the coarsest first.

    A feature counts only if its blob lies entirely on valid pixels.
    """
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    features = []
    for view, image in enumerate(images):
        gray = (image * luma[:, None, None]).sum(dim=0)
        if scale < 1.0:
            size = [round(side * scale) for side in gray.shape]
            gray = torch.nn.functional.interpolate(gray[None, None], size=size, mode="area")[0, 0]
        found = sfm.extract_features(gray.clamp(0.0, 1.0).cpu().numpy())
        if valid is not None and not bool(valid[view].all()):
            found = found[_on_valid_pixels(found, valid[view].cpu().numpy(), scale)]
        features.append(found)
        if on_view is not None:
            on_view()
    return features


def candidate_pairs(features: list[sfm.Features]) -> list[tuple[int, int]]:
    """The pairs a < b of views to match: all of few views; of many, each view with the most similar ones.

    Similarity is measured by matches of only the coarsest features (preemptive matching, Wu, "Towards Linear-Time
    Incremental Structure from Motion", 3DV 2013). The previous and next views are added, because photographs are
    usually taken in sequence.
    """
    count = len(features)
    if count <= ALL_PAIRS_UP_TO:
        return list(combinations(range(count), 2))
    coarse = [f[np.arange(min(len(f.pixels), PREEMPTIVE_FEATURES))] for f in features]
    likeness = np.zeros((count, count))
    for a, b in combinations(range(count), 2):
        likeness[a, b] = likeness[b, a] = len(sfm.match_features(coarse[a], coarse[b]))
    chosen = {(a, b) for a, b in combinations(range(count), 2) if b - a <= ORDER_NEIGHBOURS}
    for view in range(count):
        for other in np.argsort(-likeness[view], kind="stable")[:ALIKE_NEIGHBOURS].tolist():
            if other != view and likeness[view, other] > 0:
                chosen.add((min(view, other), max(view, other)))
    return sorted(chosen)


def match_all(
    features: list[sfm.Features], cameras: list[Intrinsics], on_pair: Callable[[int, int], None] | None = None
) -> tuple[list[Pair], dict[tuple[int, int], int]]:
    """Matches of pairs of views that are consistent with an essential matrix.

    Args:
        features: features of every view; a view with fewer than `MIN_FEATURES` is not matched.
        cameras: intrinsics of every view; an unknown focal length may differ widely from the given one.
        on_pair: called with (pairs done, total pairs).

    Returns:
        The pairs with at least `MIN_MATCHES` matches, and the number of matches of every pair tried.
    """
    pairs = []
    counts = {}
    candidates = candidate_pairs(features)
    for done, (a, b) in enumerate(candidates, start=1):
        counts[a, b] = 0
        if min(len(features[view].pixels) for view in (a, b)) >= MIN_FEATURES:
            matches = sfm.match_features(features[a], features[b])
            if len(matches) >= MIN_MATCHES:
                matches = matches[_explained(features, cameras, Pair(a, b, matches))]
            counts[a, b] = len(matches)
            if len(matches) >= MIN_MATCHES:
                pairs.append(Pair(a, b, matches))
        if on_pair is not None:
            on_pair(done, len(candidates))
    return pairs, counts


def connected(pairs: list[Pair], start: int) -> set[int]:
    """The views connected by matches with view `start`, including itself."""
    reached = {start}
    grown = True
    while grown:
        size = len(reached)
        for pair in pairs:
            if pair.a in reached or pair.b in reached:
                reached |= {pair.a, pair.b}
        grown = len(reached) > size
    return reached


def build_tracks(features: list[sfm.Features], pairs: list[Pair]) -> Observations:
    """All matched features as tracks over two or more views; a track with two features in one view is dropped."""
    offsets = np.cumsum([0] + [len(f.pixels) for f in features])
    parent = np.arange(offsets[-1])

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for pair in pairs:
        for i, j in pair.matches:
            parent[root(int(offsets[pair.a] + i))] = root(int(offsets[pair.b] + j))
    roots = np.array([root(node) for node in range(offsets[-1])], dtype=np.int64)
    view = np.repeat(np.arange(len(features)), np.diff(offsets))
    pixels = np.concatenate([f.pixels for f in features])
    lengths = np.bincount(roots, minlength=len(roots))
    per_view = np.unique(roots * len(features) + view, return_counts=True)
    torn = np.unique(per_view[0][per_view[1] > 1] // len(features))
    keep = (lengths[roots] >= 2) & ~np.isin(roots, torn)
    _, track = np.unique(roots[keep], return_inverse=True)
    return Observations(track, view[keep], pixels[keep])


def thinned(tracks: Observations, count: int) -> Observations:
    """At most `count` tracks, the longest first, otherwise evenly spaced."""
    lengths = np.bincount(tracks.track)
    if len(lengths) <= count:
        return tracks
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    chosen = shuffled[np.argsort(-lengths[shuffled], kind="stable")][:count]
    kept = tracks[np.isin(tracks.track, chosen)]
    _, track = np.unique(kept.track, return_inverse=True)
    return Observations(track, kept.view, kept.pixels)


def _explained(features: list[sfm.Features], cameras: list[Intrinsics], pair: Pair) -> np.ndarray:
    """[M] bool: matches consistent with an essential matrix at one or more of the candidate focal lengths."""
    a, b, matches = pair.a, pair.b, pair.matches
    pixels_a, pixels_b = features[a].pixels[matches[:, 0]], features[b].pixels[matches[:, 1]]
    found = np.zeros(len(matches), dtype=bool)
    # Verification hardly depends on the focal length; three guesses cover wide angle to telephoto. Matches accepted by
    # any of them count: those of the best alone would later favour its focal length.
    for factor in (1.0,) if cameras[a].known and cameras[b].known else (1.0, 0.6, 2.0):
        guess_a, guess_b = (c if c.known else replace(c, focal=c.focal * factor) for c in (cameras[a], cameras[b]))
        result = sfm.relative_pose(pixels_a, pixels_b, guess_a, guess_b, error_threshold(cameras[a]))
        if result is not None:
            found |= result[1]
    return found


def _on_valid_pixels(found: sfm.Features, valid: np.ndarray, scale: float) -> np.ndarray:
    """[N] bool: features whose blob, twice their scale, touches no invalid pixel."""
    # With a ring of valid pixels: the border of the picture itself does not create features.
    distance = cv2.distanceTransform(np.pad(valid, 1, constant_values=True).astype(np.uint8), cv2.DIST_L2, 3)[
        1:-1, 1:-1
    ]
    x, y = (found.pixels / scale).astype(int).T
    height, width = valid.shape
    return distance[y.clip(0, height - 1), x.clip(0, width - 1)] > np.maximum(2.0 * found.scales / scale, 1.0)
