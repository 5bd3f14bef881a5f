"""Features, verified matches of pairs of views, and tracks through all of them."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from cus.errors import InputError
from cus.estimators import sfm
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import error_threshold

MIN_FEATURES = 30
MIN_MATCHES = 20


@dataclass(frozen=True)
class Pair:
    """Verified matches of views a < b: [M, 2] feature indices."""

    a: int
    b: int
    matches: np.ndarray


def detect(images: Tensor, valid: Tensor | None, scale: float, least: int = MIN_FEATURES) -> list[sfm.Features]:
    """SIFT features of every view, in pixels of the images shrunk by `scale`; refuses a view that has none."""
    luma = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    grays = (images * luma[:, None, None]).sum(dim=1, keepdim=True)
    if scale < 1.0:
        size = [round(side * scale) for side in images.shape[-2:]]
        grays = torch.nn.functional.interpolate(grays, size=size, mode="area")
    features = []
    for view, gray in enumerate(grays[:, 0].clamp(0.0, 1.0).cpu().numpy()):
        found = sfm.extract_features(gray)
        if valid is not None:
            x, y = (found.pixels / scale).astype(int).T
            inside = valid[view].cpu().numpy()[y.clip(0, valid.shape[1] - 1), x.clip(0, valid.shape[2] - 1)]
            found = sfm.Features(found.pixels[inside], found.descriptors[torch.from_numpy(inside)])
        if len(found.pixels) < least:
            raise InputError(
                f"view {view + 1} has no structure to find it by ({len(found.pixels)} features, at least "
                f"{least} are needed): is it black, blank or out of focus? Use another photograph"
            )
        features.append(found)
    return features


def match_all(features: list[sfm.Features], cameras: list[Intrinsics]) -> list[Pair]:
    """Matches of every pair of views that an essential matrix explains; refuses views that share too little."""
    pairs = []
    counts = {}
    for a, b in combinations(range(len(features)), 2):
        matches = sfm.match_features(features[a], features[b])
        best = np.zeros(len(matches), dtype=bool)
        if len(matches) >= MIN_MATCHES:
            # Verification hardly depends on the focal length; three guesses cover wide angle to telephoto.
            for factor in (1.0,) if cameras[a].known and cameras[b].known else (1.0, 0.6, 2.0):
                guess_a, guess_b = (
                    c if c.known else replace(c, focal=c.focal * factor) for c in (cameras[a], cameras[b])
                )
                pixels_a, pixels_b = features[a].pixels[matches[:, 0]], features[b].pixels[matches[:, 1]]
                result = sfm.relative_pose(pixels_a, pixels_b, guess_a, guess_b, error_threshold(cameras[a]))
                if result is not None and result[1].sum() > best.sum():
                    best = result[1]
        counts[a, b] = int(best.sum())
        if counts[a, b] >= MIN_MATCHES:
            pairs.append(Pair(a, b, matches[best]))
    reached = _connected(pairs, len(features))
    if len(reached) < len(features):
        lost = min(set(range(len(features))) - reached)
        found = ", ".join(f"{n} with view {a + b - lost + 1}" for (a, b), n in counts.items() if lost in (a, b))
        raise InputError(
            f"view {lost + 1} shares too little with the other views: {found} matches, at least {MIN_MATCHES} are "
            "needed. Use photographs that overlap by half or more, taken at most some 40 degrees apart, or give "
            "the cameras (--cameras transforms.json)"
        )
    return pairs


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
    """At most `count` tracks, the longest first, otherwise spread evenly."""
    lengths = np.bincount(tracks.track)
    if len(lengths) <= count:
        return tracks
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    chosen = shuffled[np.argsort(-lengths[shuffled], kind="stable")][:count]
    kept = tracks[np.isin(tracks.track, chosen)]
    _, track = np.unique(kept.track, return_inverse=True)
    return Observations(track, kept.view, kept.pixels)


def _connected(pairs: list[Pair], views: int) -> set[int]:
    reached = {0}
    for _ in range(views):
        for pair in pairs:
            if pair.a in reached or pair.b in reached:
                reached |= {pair.a, pair.b}
    return reached
