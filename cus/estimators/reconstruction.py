"""Cameras and points from matches: an initial pair, views added in rounds, bundle adjustment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from cus.errors import InputError
from cus.estimators import sfm
from cus.estimators.matches import MIN_MATCHES, Pair, thinned
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import error_threshold, triangulate

LOSS_SCALE = 0.3  # pixels; about the position error of features, so that false matches have little influence
MIN_PLACED = MIN_MATCHES // 2  # number of points with which a view must agree
# Everything is refined again when a quarter more views are placed: the total work of all rounds is then proportional
# to that of the last, and not to the square of the number of views.
GROWTH = 1.25
MAX_STARTS = 3
TRACKS_A_VIEW = 1000  # number used in bundle adjustment
MIN_PARALLAX = 0.75  # pixels, twice the position error of features
# Candidate focal lengths for a rotation, in units of the longest side: far beyond any guess.
TRIED_FACTORS = np.geomspace(0.3, 6.0, 13)


@dataclass
class Model:
    """Views placed so far.

    Attributes:
        viewmats: [4, 4] world-to-camera of each placed view.
        cameras: intrinsics of all views.
        points: [T, 3] positions of the tracks.
        good: [M] bool, the observations that agree.
        failed: reasons why the other views are not placed, with the view as "it".
    """

    viewmats: dict[int, np.ndarray]
    cameras: list[Intrinsics]
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    good: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    failed: dict[int, str] = field(default_factory=dict)


def reconstruct(
    features: list[sfm.Features],
    pairs: list[Pair],
    tracks: Observations,
    cameras: list[Intrinsics],
    on_placed: Callable[[int], None] = lambda placed: None,
) -> Model:
    """Place the views connected by pairs; several initial pairs are tried until one places most views.

    A model with the first of these views is preferred, because that view is the reference later; then the one with most
    views.

    Args:
        features: features of all views.
        pairs: verified matches between the views to place.
        tracks: tracks through the same views.
        cameras: intrinsics of all views; an unknown focal length starts from the given one.
        on_placed: called with the number of views placed.

    Raises:
        InputError: not even two views can be placed.
    """
    wanted = {view for pair in pairs for view in (pair.a, pair.b)}
    tracks = thinned(tracks, max(2, len(wanted)) * TRACKS_A_VIEW)
    best: Model | None = None
    seeds = _seeds(features, pairs, tracks, cameras)
    for seed in _spread_over(seeds, min(wanted), MAX_STARTS):
        model = _grown(seed, tracks, cameras, wanted, on_placed)
        if best is None or _rank(model, wanted) > _rank(best, wanted):
            best = model
        if min(wanted) in best.viewmats and 2 * len(best.viewmats) > len(wanted):
            break
    if best is None or len(best.viewmats) < 2:
        raise _no_beginning(features, pairs, cameras)
    return best


def refined(model: Model, tracks: Observations, *, refine_focals: bool = True) -> Model:
    """The model after two rounds of triangulation and bundle adjustment, the second without the outliers."""
    threshold = error_threshold(model.cameras[0])
    unknown = any(not camera.known for camera in model.cameras)
    viewmats, cameras = model.viewmats, model.cameras
    for allowed in (2.0 * threshold, threshold):
        points, good = triangulate(viewmats, cameras, tracks, allowed)
        if good.sum() < 2 * MIN_MATCHES:
            return Model({}, cameras)
        viewmats, cameras, points = sfm.adjust_bundle(
            viewmats,
            cameras,
            points,
            tracks[good],
            refine_focals=refine_focals and unknown and len(viewmats) > 2,
            loss_scale=LOSS_SCALE,
        )
    points, good = triangulate(viewmats, cameras, tracks, threshold)
    return Model(viewmats, cameras, points, good, dict(model.failed))


def _rank(model: Model, wanted: set[int]) -> tuple[bool, int]:
    return len(model.viewmats) >= 2 and min(wanted) in model.viewmats, len(model.viewmats)


def _grown(
    seed: dict[int, np.ndarray],
    tracks: Observations,
    cameras: list[Intrinsics],
    wanted: set[int],
    on_placed: Callable[[int], None],
) -> Model:
    model = refined(Model(dict(seed), cameras), tracks)
    at_last = len(model.viewmats)
    while len(model.viewmats) >= 2:
        on_placed(len(model.viewmats))
        added, failed = _next_views(model, tracks, wanted)
        grown = len(model.viewmats) + len(added)
        if not added and at_last == grown:
            return replace(model, failed=failed | model.failed)
        model = replace(model, viewmats=model.viewmats | added)
        if not added or grown >= GROWTH * at_last or grown == len(wanted):
            model = _without_misplaced(refined(model, tracks), tracks)
            at_last = len(model.viewmats)
        else:
            points, good = triangulate(model.viewmats, model.cameras, tracks, 2.0 * error_threshold(model.cameras[0]))
            model = replace(model, points=points, good=good)
    return model


def _without_misplaced(model: Model, tracks: Observations) -> Model:
    """Exclude views that agree with hardly any point."""
    counts = np.bincount(tracks.view[model.good], minlength=len(model.cameras)) if model.viewmats else np.zeros(0)
    wrong = [view for view in model.viewmats if counts[view] < MIN_PLACED]
    if not wrong:
        return model
    failed = {view: f"it agrees with only {int(counts[view])} of the points that the others share" for view in wrong}
    kept = {view: pose for view, pose in model.viewmats.items() if view not in wrong}
    return replace(model, viewmats=kept, failed=model.failed | failed)


def _next_views(model: Model, tracks: Observations, wanted: set[int]) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Poses of the views that see at least half as many points as the best one, and reasons why others have none."""
    threshold = error_threshold(model.cameras[0])
    solid = np.zeros(len(model.points), dtype=bool)
    solid[tracks.track[model.good]] = True
    left = [view for view in sorted(wanted) if view not in model.viewmats and view not in model.failed]
    usable = solid[tracks.track]
    counts = {view: int((usable & (tracks.view == view)).sum()) for view in left}
    placed, failed = {}, {}
    for view in sorted(left, key=lambda v: -counts[v]):
        failed[view] = f"it sees {counts[view]} of the points that the other views share"
        if counts[view] < 6 or (placed and 2 * counts[view] < max(counts.values())):
            continue
        mine = tracks[usable & (tracks.view == view)]
        result = sfm.absolute_pose(mine.pixels, model.points[mine.track], model.cameras[view], 2 * threshold)
        if result is not None and result[1].sum() >= MIN_PLACED:
            placed[view] = result[0]
            del failed[view]
    return placed, failed


def _seeds(
    features: list[sfm.Features], pairs: list[Pair], tracks: Observations, cameras: list[Intrinsics]
) -> Iterator[dict[int, np.ndarray]]:
    """Pairs with their poses and enough initial points, the most promising first."""
    for pair in by_promise(features, pairs, cameras):
        a, b = features[pair.a].pixels[pair.matches[:, 0]], features[pair.b].pixels[pair.matches[:, 1]]
        result = sfm.relative_pose(a, b, cameras[pair.a], cameras[pair.b], error_threshold(cameras[pair.a]))
        if result is None:
            continue
        seed = {pair.a: np.eye(4), pair.b: result[0]}
        _, good = triangulate(seed, cameras, tracks, 2.0 * error_threshold(cameras[pair.a]))
        if good.sum() >= 2 * MIN_MATCHES:
            yield seed


def by_promise(features: list[sfm.Features], pairs: list[Pair], cameras: list[Intrinsics]) -> list[Pair]:
    """Pairs sorted by how well they determine relative poses: many matches, with much parallax."""

    def promise(pair: Pair) -> float:
        a, b = features[pair.a].pixels[pair.matches[:, 0]], features[pair.b].pixels[pair.matches[:, 1]]
        residual = rotation_residual(a, b, cameras[pair.a], cameras[pair.b])
        # Parallax of more than a tenth of the picture adds no accuracy, only failed matches.
        return len(a) * min(residual, 0.1 * cameras[pair.a].width)

    return sorted(pairs, key=promise, reverse=True)


def _spread_over(seeds: Iterator[dict[int, np.ndarray]], first: int, count: int) -> Iterator[dict[int, np.ndarray]]:
    """At most `count` seeds: the best, then the best one with view `first`, then those without a view tried before."""
    tried: set[int] = set()
    passed: list[dict[int, np.ndarray]] = []
    given = 0
    for seed in seeds:
        if given == 0 or (given == 1 and first not in tried and first in seed) or (given > 1 and not tried & set(seed)):
            tried |= set(seed)
            given += 1
            yield seed
        else:
            passed.append(seed)
        if given == count:
            return
    for seed in passed[: count - given]:
        yield seed


def _no_beginning(features: list[sfm.Features], pairs: list[Pair], cameras: list[Intrinsics]) -> InputError:
    """The reason why not even a pair could be placed."""
    best = by_promise(features, pairs, cameras)[0]
    a, b = features[best.a].pixels[best.matches[:, 0]], features[best.b].pixels[best.matches[:, 1]]
    result = sfm.relative_pose(a, b, cameras[best.a], cameras[best.b], error_threshold(cameras[best.a]))
    if result is None or 2 * result[1].sum() < len(a):
        return InputError(
            "no two photographs fit one rigid scene: did everything move, or is the given focal length far off? "
            "Use photographs of a still scene, or give the cameras (--cameras transforms.json)"
        )
    residual = rotation_residual(a, b, cameras[best.a], cameras[best.b])
    return InputError(
        f"the photographs show too little parallax to measure depth: views {best.a + 1} and {best.b + 1} share "
        f"{len(a)} matches, but move by only {residual:.1f} pixels against a turn of the camera, less than a degree as "
        "seen from the scene. Step sideways by a tenth of the distance to the subject, or use the estimator 'da3', "
        "which sees depth in each"
    )


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
