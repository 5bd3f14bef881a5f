"""Poses and focal lengths of a few photographs: pairs, a chain of views, bundle adjustment, focal hypotheses."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import sfm
from cus.estimators.framing import content_box
from cus.estimators.matches import MIN_MATCHES, Pair, build_tracks, detect, match_all, thinned
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import Structure, error_threshold, triangulate, truncated_cost

LONGEST_SIDE = 1024  # SIFT works on at most this size
LOSS_SCALE = 0.3  # pixels; about what the places of features are off, so that false matches do not pull
MIN_PARALLAX = 0.75  # pixels, twice what the places of features are off
MAX_TRIAL_TRACKS = 2000  # enough to tell focal lengths apart
DEFAULT_FACTOR = 1.2
# In units of the longest side. 0.72 is the main camera of a phone, 1.4 a 50 mm lens in front of 36 mm film.
FOCAL_HYPOTHESES_TWO_VIEWS = (0.6, 0.72, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)
FOCAL_HYPOTHESES_MORE_VIEWS = (0.72, 1.0, 1.5)


def estimate_poses(
    images: Tensor,
    focals: Tensor | None = None,
    valid: Tensor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Structure:
    """Relative poses, focal lengths and sparse points of V >= 2 views; the first camera is the identity.

    Args:
        images: [V, 3, H, W] in [0, 1], undistorted.
        focals: [V] in pixels of `images`; NaN where unknown.
        valid: [V, H, W] bool, False on padding; the principal point is the middle of what is valid.
        on_progress: called with (steps done, steps in all).

    Raises:
        InputError: a view without features, views that share too little, no parallax.
    """
    scale = min(1.0, LONGEST_SIDE / max(images.shape[-2:]))
    cameras = [_scaled(camera, scale) for camera in initial_intrinsics(images, focals, valid)]
    features = detect(images, valid, scale)
    pairs = match_all(features, cameras)
    tracks = build_tracks(features, pairs)
    factors = _focal_factors(cameras)
    require_parallax(features, pairs, [_with_focals(cameras, factor) for factor in factors])
    factor = factors[0]
    if len(factors) > 1:
        factor = _best_factor(features, pairs, thinned(tracks, MAX_TRIAL_TRACKS), cameras, factors, on_progress)
    return _finished(chain(features, pairs, tracks, _with_focals(cameras, factor)), scale)


def structure_of(images: Tensor, cameras: Cameras, valid: Tensor | None = None) -> Structure:
    """Sparse points of views whose cameras are known; possibly none at all.

    Raises:
        InputError: features match between views, but hardly any match fits the given cameras.
    """
    scale = min(1.0, LONGEST_SIDE / max(images.shape[-2:]))
    intrinsics = [_square(K, cameras.width, cameras.height, view) for view, K in enumerate(cameras.Ks.cpu().double())]
    features = detect(images, valid, scale, least=0)
    # Pixels of a camera with square pixels: everything below knows one focal length a view.
    to_square = [
        i.matrix @ torch.linalg.inv(K).numpy() for i, K in zip(intrinsics, cameras.Ks.cpu().double(), strict=True)
    ]
    features = [
        sfm.Features(np.column_stack([f.pixels / scale, np.ones(len(f.pixels))]) @ m[:2].T, f.descriptors)
        for f, m in zip(features, to_square, strict=True)
    ]
    pairs = []
    for a, b in combinations(range(len(features)), 2):
        pairs.append(Pair(a, b, sfm.match_features(features[a], features[b])))
    tracks = build_tracks(features, pairs)
    viewmats = cameras.viewmats.cpu().double().numpy()
    posed = dict(enumerate(viewmats))
    threshold = error_threshold(intrinsics[0])
    points, good = triangulate(posed, intrinsics, tracks, threshold)
    if len(tracks) >= 200 and good.sum() < 0.1 * len(tracks):
        raise InputError(
            f"the given cameras do not fit the photographs: of {len(tracks)} matched features only {int(good.sum())} "
            "agree with them. Are the photographs in the order of the cameras, and the poses in the convention stated?"
        )
    return Structure(
        viewmats, intrinsics, points, tracks[good], truncated_cost(posed, intrinsics, points, tracks, threshold)
    )


def cameras_of(structure: Structure, images: Tensor) -> Cameras:
    """The float32 cameras of a structure, for images [V, 3, H, W]."""
    viewmats = torch.from_numpy(structure.viewmats).float().to(images.device)
    Ks = torch.from_numpy(np.stack([camera.matrix for camera in structure.cameras])).float().to(images.device)
    return Cameras(viewmats, Ks, width=images.shape[-1], height=images.shape[-2])


def initial_intrinsics(images: Tensor, focals: Tensor | None, valid: Tensor | None) -> list[Intrinsics]:
    """Intrinsics of every view; an unknown focal length starts at `DEFAULT_FACTOR` times the longest side."""
    views, _, height, width = images.shape
    groups: dict[tuple[float, ...], int] = {}
    cameras = []
    for view in range(views):
        x0, y0, x1, y1 = (0, 0, width, height) if valid is None else content_box(valid[view], view)
        focal = float("nan") if focals is None else float(focals[view])
        known = not np.isnan(focal)
        if known and not focal > 0:
            raise InputError(f"the focal length of view {view + 1} must be positive, got {focal:g} pixels")
        group = groups.setdefault((x0, y0, x1, y1), len(groups))
        focal = focal if known else DEFAULT_FACTOR * max(x1 - x0, y1 - y0)
        cameras.append(Intrinsics(focal, (x0 + x1) / 2, (y0 + y1) / 2, width, height, known, group))
    return cameras


def chain(
    features: list[sfm.Features], pairs: list[Pair], tracks: Observations, cameras: list[Intrinsics]
) -> Structure:
    """One reconstruction: the best pair first, then the view that sees most of it, refined after every view."""
    threshold = error_threshold(cameras[0])
    refine = any(not camera.known for camera in cameras)
    viewmats = _first_pair(features, pairs, cameras)
    views = len(features)
    while True:
        for last in (False, True):
            points, good = triangulate(viewmats, cameras, tracks, threshold * (1.0 if last else 2.0))
            if good.sum() < 2 * MIN_MATCHES:
                raise InputError(
                    f"only {int(good.sum()) // 2} points could be triangulated from views "
                    f"{', '.join(str(v + 1) for v in sorted(viewmats))}; use photographs that overlap more"
                )
            viewmats, cameras, points = sfm.adjust_bundle(
                viewmats,
                cameras,
                points,
                tracks[good],
                refine_focals=refine and len(viewmats) > 2,
                loss_scale=LOSS_SCALE,
            )
        if len(viewmats) == views:
            break
        viewmats = {**viewmats, **_next_view(viewmats, cameras, points, tracks, good, threshold)}
    points, good = triangulate(viewmats, cameras, tracks, threshold)
    cost = truncated_cost(viewmats, cameras, points, tracks, threshold)
    stacked = np.stack([viewmats[view] for view in range(views)])
    return Structure(stacked, cameras, points, tracks[good], cost)


def require_parallax(features: list[sfm.Features], pairs: list[Pair], hypotheses: list[list[Intrinsics]]) -> None:
    """Refuse photographs whose matches a turn of the camera alone explains, at any focal length in question."""
    largest = 0.0
    for pair in pairs:
        a, b = features[pair.a].pixels[pair.matches[:, 0]], features[pair.b].pixels[pair.matches[:, 1]]
        largest = max(largest, min(rotation_residual(a, b, cameras[pair.a], cameras[pair.b]) for cameras in hypotheses))
    if largest < MIN_PARALLAX:
        raise InputError(
            f"the photographs show no parallax: turning the camera alone explains the matches to {largest:.1f} pixels. "
            "They were taken from one place, or are copies; step sideways by a tenth of the distance to the subject"
        )


def rotation_residual(pixels_a: np.ndarray, pixels_b: np.ndarray, camera_a: Intrinsics, camera_b: Intrinsics) -> float:
    """Median distance in pixels that the best pure rotation leaves between matched pixels: the parallax of a pair."""
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


def _first_pair(features: list[sfm.Features], pairs: list[Pair], cameras: list[Intrinsics]) -> dict[int, np.ndarray]:
    best_score, best = 0.0, None
    for pair in pairs:
        a, b = features[pair.a].pixels[pair.matches[:, 0]], features[pair.b].pixels[pair.matches[:, 1]]
        residual = rotation_residual(a, b, cameras[pair.a], cameras[pair.b])
        result = sfm.relative_pose(a, b, cameras[pair.a], cameras[pair.b], error_threshold(cameras[pair.a]))
        if result is None:
            continue
        # Parallax beyond a tenth of the picture adds no accuracy, only matches that fail.
        score = result[1].sum() * min(residual, 0.1 * cameras[pair.a].width)
        if score > best_score:
            best_score, best = score, {pair.a: np.eye(4), pair.b: result[0]}
    if best is None:
        raise InputError(
            "no two photographs fit one rigid scene: did everything move, or is the given focal length far off? "
            "Use photographs of a still scene, or give the cameras (--cameras transforms.json)"
        )
    return best


def _next_view(
    viewmats: dict[int, np.ndarray],
    cameras: list[Intrinsics],
    points: np.ndarray,
    tracks: Observations,
    good: np.ndarray,
    threshold: float,
) -> dict[int, np.ndarray]:
    solid = np.zeros(len(points), dtype=bool)
    solid[tracks.track[good]] = True
    usable = solid[tracks.track] & ~np.isin(tracks.view, list(viewmats))
    counts = np.bincount(tracks.view[usable], minlength=len(cameras))
    view = int(counts.argmax())
    mine = tracks[usable & (tracks.view == view)]
    if len(mine) >= 6:
        result = sfm.absolute_pose(mine.pixels, points[mine.track], cameras[view], 2 * threshold)
        if result is not None and result[1].sum() >= MIN_MATCHES // 2:
            return {view: result[0]}
    left = sorted(set(range(len(cameras))) - set(viewmats))
    raise InputError(
        f"view {left[0] + 1} could not be placed: it sees {int(counts[left[0]])} of the points that the other views "
        "share. Leave it out, add a photograph in between, or give the cameras (--cameras transforms.json)"
    )


def _best_factor(
    features: list[sfm.Features],
    pairs: list[Pair],
    tracks: Observations,
    cameras: list[Intrinsics],
    factors: tuple[float, ...],
    on_progress: Callable[[int, int], None] | None,
) -> float:
    """The focal length (over the longest side) with the lowest cost: the best of `factors`, then between them.

    The cost of real pairs has one broad minimum in the logarithm of the focal length, at the truth, so parabolas
    through the best three values find it. With three or more views bundle adjustment does that by itself.
    """
    costs: dict[float, float] = {}
    failure: InputError | None = None
    refinements = 2 if len(features) == 2 else 0

    def attempt(factor: float) -> None:
        nonlocal failure
        try:
            costs[factor] = chain(features, pairs, tracks, _with_focals(cameras, factor)).cost
        except InputError as error:
            failure = error
        if on_progress is not None:
            on_progress(min(len(costs), len(factors)), len(factors))

    for factor in factors:
        attempt(factor)
    if not costs:
        assert failure is not None
        raise failure
    for _ in range(refinements):
        tried = sorted(costs)
        middle = tried.index(min(costs, key=lambda factor: costs[factor]))
        if not 0 < middle < len(tried) - 1:
            break
        neighbours = tried[middle - 1 : middle + 2]
        curve = np.polyfit(np.log(neighbours), [costs[factor] for factor in neighbours], 2)
        attempt(float(np.exp(-curve[1] / (2 * curve[0]))) if curve[0] > 0 else tried[middle])
    return min(costs, key=lambda factor: costs[factor])


def _focal_factors(cameras: list[Intrinsics]) -> tuple[float, ...]:
    if all(camera.known for camera in cameras):
        return (1.0,)
    return FOCAL_HYPOTHESES_TWO_VIEWS if len(cameras) == 2 else FOCAL_HYPOTHESES_MORE_VIEWS


def _with_focals(cameras: list[Intrinsics], factor: float) -> list[Intrinsics]:
    """The cameras with unknown focal lengths set to `factor` times the longest side of what is valid."""
    return [c if c.known else replace(c, focal=c.focal / DEFAULT_FACTOR * factor) for c in cameras]


def _finished(structure: Structure, scale: float) -> Structure:
    """World frame of the first camera, pixels of the images given, and what was guessed."""
    first = structure.viewmats[0]
    viewmats = structure.viewmats @ np.linalg.inv(first)
    points = structure.points @ first[:3, :3].T + first[:3, 3]
    cameras = [_scaled(camera, 1.0 / scale) for camera in structure.cameras]
    seen = structure.observations
    observations = Observations(seen.track, seen.view, seen.pixels / scale)
    notes = []
    unknown = [camera for camera in cameras if not camera.known]
    if unknown:
        how = "a guess from two views" if len(cameras) == 2 else "estimated from the photographs"
        notes.append(
            f"focal length {unknown[0].focal:.0f} px for {unknown[0].width} px of width is {how}; "
            "give it (--focal-35mm or --fov) for the true shape of the scene"
        )
    return Structure(viewmats, cameras, points, observations, structure.cost, tuple(notes))


def _square(K: Tensor, width: int, height: int, view: int) -> Intrinsics:
    return Intrinsics(float(K[0, 0]), float(K[0, 2]), float(K[1, 2]), width, height, True, view)


def _scaled(camera: Intrinsics, scale: float) -> Intrinsics:
    return replace(
        camera,
        focal=camera.focal * scale,
        cx=camera.cx * scale,
        cy=camera.cy * scale,
        width=round(camera.width * scale),
        height=round(camera.height * scale),
    )
