"""Poses and focal lengths of a few photographs: pairs, a chain of views, bundle adjustment, focal hypotheses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import sfm
from cus.estimators.sfm import Intrinsics, Observations

LONGEST_SIDE = 1024  # SIFT works on at most this size
MIN_FEATURES = 30
MIN_MATCHES = 20
MIN_ANGLE = 1.0  # degrees between the rays of a point; below, its depth means nothing
# In units of the longest side. 0.72 is the main camera of a phone, 1.4 a 50 mm lens in front of 36 mm film.
FOCAL_HYPOTHESES_TWO_VIEWS = (0.6, 0.72, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)
FOCAL_HYPOTHESES_MORE_VIEWS = (0.72, 1.0, 1.5)


@dataclass(frozen=True)
class Structure:
    """Cameras and sparse points of a set of views.

    Attributes:
        viewmats: [V, 4, 4] float64 camera-from-world.
        cameras: V intrinsics, in pixels of the images given.
        points: [T, 3] float64.
        observations: inlier observations of the points, pixels of the images given.
        cost: mean truncated squared reprojection error over all matched observations, in units of the threshold.
        notes: what the user should know.
    """

    viewmats: np.ndarray
    cameras: list[Intrinsics]
    points: np.ndarray
    observations: Observations
    cost: float
    notes: tuple[str, ...] = ()

    def depths_seen_by(self, view: int) -> np.ndarray:
        """[N] z-depths of the points that `view` observes."""
        mine = self.points[self.observations.track[self.observations.view == view]]
        return mine @ self.viewmats[view, 2, :3] + self.viewmats[view, 2, 3]

    def sources_for(self, view: int, count: int) -> list[int]:
        """The `count` other views best suited to measure depth in `view`: many common points under a good angle."""
        others = [v for v in range(len(self.viewmats)) if v != view]
        seen = np.zeros((len(self.viewmats), len(self.points)), dtype=bool)
        seen[self.observations.view, self.observations.track] = True
        centers = -np.einsum("nji,nj->ni", self.viewmats[:, :3, :3], self.viewmats[:, :3, 3])

        def worth(other: int) -> float:
            points = self.points[seen[view] & seen[other]]
            a, b = (
                (v / np.linalg.norm(v, axis=1, keepdims=True))
                for v in (points - centers[view], points - centers[other])
            )
            angles = np.degrees(np.arccos((a * b).sum(axis=1).clip(-1.0, 1.0)))
            # 5 to 10 degrees measure best: less gives little depth, more changes the look of a surface.
            return float(np.minimum(angles / 5.0, 10.0 / angles.clip(1e-6)).clip(max=1.0).sum())

        return sorted(sorted(others, key=worth, reverse=True)[:count])


@dataclass(frozen=True)
class Pair:
    """Verified matches of views a < b: [M, 2] feature indices."""

    a: int
    b: int
    matches: np.ndarray


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
    hypotheses = _hypotheses(cameras)
    best: Structure | None = None
    failure: InputError | None = None
    for done, hypothesis in enumerate(hypotheses):
        try:
            structure = chain(features, pairs, tracks, hypothesis)
        except InputError as error:
            failure = error
        else:
            if best is None or structure.cost < best.cost:
                best = structure
        if on_progress is not None:
            on_progress(done + 1, len(hypotheses))
    if best is None:
        assert failure is not None
        raise failure
    return _finished(best, scale)


def structure_of(images: Tensor, cameras: Cameras, valid: Tensor | None = None) -> Structure:
    """Sparse points of views whose cameras are known; possibly none at all.

    Raises:
        InputError: features match between views, but hardly any match fits the given cameras.
    """
    scale = min(1.0, LONGEST_SIDE / max(images.shape[-2:]))
    intrinsics = [_square(K, cameras.width, cameras.height, view) for view, K in enumerate(cameras.Ks.double())]
    features = detect(images, valid, scale, least=0)
    # Pixels of a camera with square pixels: everything below knows one focal length a view.
    to_square = [
        i.matrix @ torch.linalg.inv(K).cpu().numpy() for i, K in zip(intrinsics, cameras.Ks.double(), strict=True)
    ]
    features = [
        sfm.Features(np.column_stack([f.pixels / scale, np.ones(len(f.pixels))]) @ m[:2].T, f.descriptors)
        for f, m in zip(features, to_square, strict=True)
    ]
    pairs = []
    for a, b in combinations(range(len(features)), 2):
        pairs.append(Pair(a, b, sfm.match_features(features[a], features[b])))
    tracks = build_tracks(features, pairs)
    viewmats = cameras.viewmats.double().cpu().numpy()
    posed = dict(enumerate(viewmats))
    threshold = _threshold(intrinsics[0])
    points, good = triangulate(posed, intrinsics, tracks, threshold)
    if len(tracks) >= 200 and good.sum() < 0.1 * len(tracks):
        raise InputError(
            f"the given cameras do not fit the photographs: of {len(tracks)} matched features only {int(good.sum())} "
            "agree with them. Are the photographs in the order of the cameras, and the poses in the convention stated?"
        )
    return Structure(viewmats, intrinsics, points, tracks[good], _cost(posed, intrinsics, points, tracks, threshold))


def cameras_of(structure: Structure, images: Tensor) -> Cameras:
    """The float32 cameras of a structure, for images [V, 3, H, W]."""
    viewmats = torch.from_numpy(structure.viewmats).float().to(images.device)
    Ks = torch.from_numpy(np.stack([camera.matrix for camera in structure.cameras])).float().to(images.device)
    return Cameras(viewmats, Ks, width=images.shape[-1], height=images.shape[-2])


def initial_intrinsics(images: Tensor, focals: Tensor | None, valid: Tensor | None) -> list[Intrinsics]:
    """Intrinsics of every view; an unknown focal length is 1.2 x the longest side until it is estimated."""
    views, _, height, width = images.shape
    groups: dict[tuple[float, ...], int] = {}
    cameras = []
    for view in range(views):
        x0, y0, x1, y1 = (0, 0, width, height) if valid is None else _bounding_box(valid[view], view)
        focal = float("nan") if focals is None else float(focals[view])
        known = not np.isnan(focal)
        if known and not focal > 0:
            raise InputError(f"the focal length of view {view + 1} must be positive, got {focal:g} pixels")
        group = groups.setdefault((x0, y0, x1, y1), len(groups))
        focal = focal if known else 1.2 * max(x1 - x0, y1 - y0)
        cameras.append(Intrinsics(focal, (x0 + x1) / 2, (y0 + y1) / 2, width, height, known, group))
    return cameras


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
                result = sfm.relative_pose(pixels_a, pixels_b, guess_a, guess_b, _threshold(cameras[a]))
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
    roots = np.array([root(node) for node in range(offsets[-1])])
    view = np.repeat(np.arange(len(features)), np.diff(offsets))
    pixels = np.concatenate([f.pixels for f in features])
    lengths = np.bincount(roots, minlength=len(roots))
    per_view = np.unique(roots * len(features) + view, return_counts=True)
    torn = np.unique(per_view[0][per_view[1] > 1] // len(features))
    keep = (lengths[roots] >= 2) & ~np.isin(roots, torn)
    _, track = np.unique(roots[keep], return_inverse=True)
    return Observations(track, view[keep], pixels[keep])


def chain(
    features: list[sfm.Features], pairs: list[Pair], tracks: Observations, cameras: list[Intrinsics]
) -> Structure:
    """One reconstruction: the best pair first, then the view that sees most of it, refined after every view."""
    threshold = _threshold(cameras[0])
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
                loss_scale=threshold / 2,
            )
        if len(viewmats) == views:
            break
        viewmats = {**viewmats, **_next_view(viewmats, cameras, points, tracks, good, threshold)}
    points, good = triangulate(viewmats, cameras, tracks, threshold)
    cost = _cost(viewmats, cameras, points, tracks, threshold)
    stacked = np.stack([viewmats[view] for view in range(views)])
    return Structure(stacked, cameras, points, tracks[good], cost)


def triangulate(
    viewmats: dict[int, np.ndarray], cameras: list[Intrinsics], tracks: Observations, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear triangulation of every track from the registered views.

    Returns:
        (points [T, 3], good [M] bool): good observations reproject within `threshold` pixels, in front of the camera,
        on a point that at least two good observations see under at least `MIN_ANGLE` degrees.
    """
    count = int(tracks.track.max()) + 1 if len(tracks) else 0
    registered = np.isin(tracks.view, list(viewmats))
    seen = tracks[registered]
    poses = np.stack([viewmats.get(view, np.eye(4)) for view in range(len(cameras))])
    rays = _rays(seen, cameras)
    rows = rays[:, :2, None] * poses[seen.view][:, 2:3] - poses[seen.view][:, :2]
    normal = np.zeros((count, 4, 4))
    np.add.at(normal, seen.track, np.einsum("nij,nik->njk", rows, rows))
    homogeneous = np.linalg.eigh(normal)[1][:, :, 0]
    weight = homogeneous[:, 3:]
    points = homogeneous[:, :3] / np.where(np.abs(weight) > 1e-12, weight, 1e-12)

    good = registered.copy()
    errors, depths = reprojection(viewmats, cameras, points, seen)
    good[registered] = (errors < threshold) & (depths > 0)
    centers = -np.einsum("nji,nj->ni", poses[:, :3, :3], poses[:, :3, 3])
    good &= np.bincount(tracks.track[good], minlength=count)[tracks.track] >= 2
    wide = _widest_angle(centers, points, tracks, good, count) > MIN_ANGLE
    return points, good & wide[tracks.track]


def reprojection(
    viewmats: dict[int, np.ndarray], cameras: list[Intrinsics], points: np.ndarray, seen: Observations
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in pixels between each observation and its projected point, and the point's depth: [M] and [M]."""
    poses = np.stack([viewmats.get(view, np.eye(4)) for view in range(len(cameras))])[seen.view]
    local = np.einsum("nij,nj->ni", poses[:, :3, :3], points[seen.track]) + poses[:, :3, 3]
    depths = local[:, 2]
    safe = np.where(np.abs(depths) > 1e-9, depths, 1e-9)
    focal = np.array([camera.focal for camera in cameras])[seen.view]
    middle = np.array([[camera.cx, camera.cy] for camera in cameras])[seen.view]
    projected = focal[:, None] * local[:, :2] / safe[:, None] + middle
    return np.linalg.norm(projected - seen.pixels, axis=1), depths


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
    parallax = 0.0
    for pair in pairs:
        a, b = features[pair.a].pixels[pair.matches[:, 0]], features[pair.b].pixels[pair.matches[:, 1]]
        residual = rotation_residual(a, b, cameras[pair.a], cameras[pair.b])
        parallax = max(parallax, residual)
        result = sfm.relative_pose(a, b, cameras[pair.a], cameras[pair.b], _threshold(cameras[pair.a]))
        if result is None or residual < _threshold(cameras[pair.a]):
            continue
        # Parallax beyond a tenth of the picture adds no accuracy, only matches that fail.
        score = result[1].sum() * min(residual, 0.1 * cameras[pair.a].width)
        if score > best_score:
            best_score, best = score, {pair.a: np.eye(4), pair.b: result[0]}
    if best is None:
        raise InputError(
            f"the photographs show no parallax (a rotation alone explains the matches to {parallax:.1f} pixels): they "
            "were taken from one place, or are copies. Step sideways by a tenth of the distance to the subject"
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


def _cost(
    viewmats: dict[int, np.ndarray],
    cameras: list[Intrinsics],
    points: np.ndarray,
    tracks: Observations,
    threshold: float,
) -> float:
    errors, depths = reprojection(viewmats, cameras, points, tracks)
    return float(np.where(depths > 0, np.minimum(errors / threshold, 1.0) ** 2, 1.0).mean())


def _widest_angle(
    centers: np.ndarray, points: np.ndarray, tracks: Observations, good: np.ndarray, count: int
) -> np.ndarray:
    """[T] degrees between the two rays of a point that are farthest apart."""
    directions = np.full((count, len(centers), 3), np.nan)
    rays = points[tracks.track[good]] - centers[tracks.view[good]]
    directions[tracks.track[good], tracks.view[good]] = rays / np.linalg.norm(rays, axis=1, keepdims=True).clip(1e-12)
    widest = np.zeros(count)
    for a, b in combinations(range(len(centers)), 2):
        cosine = (directions[:, a] * directions[:, b]).sum(axis=1)
        widest = np.fmax(widest, np.degrees(np.arccos(cosine.clip(-1.0, 1.0))))
    return widest


def _rays(seen: Observations, cameras: list[Intrinsics]) -> np.ndarray:
    focal = np.array([camera.focal for camera in cameras])[seen.view]
    middle = np.array([[camera.cx, camera.cy] for camera in cameras])[seen.view]
    return np.column_stack([(seen.pixels - middle) / focal[:, None], np.ones(len(seen))])


def _hypotheses(cameras: list[Intrinsics]) -> list[list[Intrinsics]]:
    if all(camera.known for camera in cameras):
        return [cameras]
    factors = FOCAL_HYPOTHESES_TWO_VIEWS if len(cameras) == 2 else FOCAL_HYPOTHESES_MORE_VIEWS
    return [[c if c.known else replace(c, focal=c.focal / 1.2 * factor) for c in cameras] for factor in factors]


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
        how = "guessed: two views hardly fix it" if len(cameras) == 2 else "estimated from the photographs"
        notes.append(
            f"focal length {unknown[0].focal:.0f} px for {unknown[0].width} px of width was {how}; "
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


def _threshold(camera: Intrinsics) -> float:
    """Reprojection error in pixels beyond which an observation is wrong."""
    return 1.0 + 0.001 * max(camera.width, camera.height)


def _connected(pairs: list[Pair], views: int) -> set[int]:
    reached = {0}
    for _ in range(views):
        for pair in pairs:
            if pair.a in reached or pair.b in reached:
                reached |= {pair.a, pair.b}
    return reached


def _bounding_box(valid: Tensor, view: int) -> tuple[int, int, int, int]:
    rows, columns = valid.any(dim=1).nonzero()[:, 0], valid.any(dim=0).nonzero()[:, 0]
    if len(rows) == 0:
        raise InputError(f"view {view + 1} has no valid pixel at all; use another photograph")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
