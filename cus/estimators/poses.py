"""Poses and focal lengths of a few photographs, and sparse points for known cameras."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import reconstruction, sfm
from cus.estimators.focal_profile import PRIOR_MEDIAN, WEAK_GUESS, FocalGuess, PairProfile, guess_focal, refined_guess
from cus.estimators.framing import content_box
from cus.estimators.matches import (
    MIN_FEATURES,
    MIN_MATCHES,
    Pair,
    build_tracks,
    candidate_pairs,
    connected,
    detect,
    match_all,
)
from cus.estimators.reconstruction import require_parallax
from cus.estimators.sfm import Intrinsics, Observations
from cus.estimators.structure import MIN_COMMON, Structure, error_threshold, triangulate

LONGEST_SIDE = 1024  # maximum picture size for SIFT
PROFILED_PAIRS = 3  # number of pairs from which a focal length is guessed
FLAT_CONTRAST = 0.02  # a picture with less contrast has a single colour
# Fractions of the work of finding poses, as far as they can be predicted.
DETECTION, MATCHING, PLACEMENT = 0.3, 0.3, 0.4

Report = Callable[[float], None]
GRID = 12  # number of points along each side of a picture
DISTANCES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 1e6)  # from the first camera of a pair, in units of the pair's baseline


def estimate_poses(
    images: Tensor,
    focals: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    sizes: Tensor | None = None,
    all_views: bool = False,
    on_progress: Report = lambda share: None,
) -> Structure:
    """Relative poses, focal lengths and sparse points of V >= 2 views; the first placed camera is the identity.

    Args:
        images: [V, 3, H, W] in [0, 1], undistorted.
        focals: [V] focal lengths in pixels of `images`; NaN where unknown.
        valid: [V, H, W] bool, False where pixels are to be ignored.
        sizes: [V, 2] width and height in pixels of each photograph from the top left; None: the bounding box of the
            valid pixels. The principal point is in the middle.
        all_views: refuse photographs if one cannot be placed, instead of leaving it out with a note while two remain.
        on_progress: called with the fraction done.

    Raises:
        InputError: fewer than two views can be placed, or with `all_views` one cannot; no parallax.
    """
    scale = min(1.0, LONGEST_SIDE / max(images.shape[-2:]))
    cameras = [_scaled(camera, scale) for camera in initial_intrinsics(images, focals, valid, sizes)]
    lost = _Lost(len(images), all_views)
    found = _Counter(len(images), lambda share: on_progress(DETECTION * share))
    features = detect(images, valid, scale, found)
    lost.add(_without_structure(images, valid, features))
    pairs, counts = match_all(features, cameras, lambda done, total: on_progress(DETECTION + MATCHING * done / total))
    pairs = _of_one_group(pairs, counts, lost)
    unit = [c if c.known else replace(c, focal=c.focal / PRIOR_MEDIAN) for c in cameras]
    require_parallax(features, pairs, unit)
    guess = _guessed(features, pairs, unit)
    cameras = unit if guess is None else _with_factor(unit, guess.factor)
    tracks = build_tracks(features, pairs)
    model = reconstruction.reconstruct(
        features,
        pairs,
        tracks,
        cameras,
        lambda placed: on_progress(DETECTION + MATCHING + PLACEMENT * 0.8 * placed / len(images)),
    )
    lost.add({view: reason for view, reason in model.failed.items() if view not in model.viewmats})
    if guess is not None and len(model.viewmats) > 2:
        model, guess = refined_guess(model, tracks, unit)
    on_progress(1.0)
    return _finished(model, tracks, scale, guess, lost)


def structure_of(images: Tensor, cameras: Cameras, valid: Tensor | None = None) -> Structure:
    """Sparse points of views with known cameras; possibly none at all.

    Raises:
        InputError: features match between views, but hardly any match fits the given cameras.
    """
    scale = min(1.0, LONGEST_SIDE / max(images.shape[-2:]))
    intrinsics = [_square(K, cameras.width, cameras.height, view) for view, K in enumerate(cameras.Ks.cpu().double())]
    features = detect(images, valid, scale)
    # Pixels of a camera with square pixels: everything below uses one focal length per view.
    to_square = [
        i.matrix @ torch.linalg.inv(K).numpy() for i, K in zip(intrinsics, cameras.Ks.cpu().double(), strict=True)
    ]
    features = [
        replace(f, pixels=np.column_stack([f.pixels / scale, np.ones(len(f.pixels))]) @ m[:2].T)
        for f, m in zip(features, to_square, strict=True)
    ]
    pairs = [Pair(a, b, sfm.match_features(features[a], features[b])) for a, b in candidate_pairs(features)]
    tracks = build_tracks(features, pairs)
    viewmats = cameras.viewmats.cpu().double().numpy()
    points, good = triangulate(dict(enumerate(viewmats)), intrinsics, tracks, error_threshold(intrinsics[0]))
    if len(tracks) >= 200 and good.sum() < 0.1 * len(tracks):
        raise InputError(
            f"the given cameras do not fit the photographs: of {len(tracks)} matched features only {int(good.sum())} "
            "agree with them. Are the photographs in the order of the cameras, and the poses in the convention stated?"
        )
    return Structure(viewmats, intrinsics, points, tracks[good], tuple(range(len(images))))


def cameras_of(structure: Structure, images: Tensor) -> Cameras:
    """The float32 cameras of a structure, for images [V, 3, H, W]."""
    viewmats = torch.from_numpy(structure.viewmats).float().to(images.device)
    Ks = torch.from_numpy(np.stack([camera.matrix for camera in structure.cameras])).float().to(images.device)
    return Cameras(viewmats, Ks, width=images.shape[-1], height=images.shape[-2])


def initial_intrinsics(
    images: Tensor, focals: Tensor | None, valid: Tensor | None, sizes: Tensor | None = None
) -> list[Intrinsics]:
    """Intrinsics of every view; an unknown focal length starts at `PRIOR_MEDIAN` times the longest side."""
    views, _, height, width = images.shape
    groups: dict[tuple[float, ...], int] = {}
    cameras = []
    for view in range(views):
        x0, y0, x1, y1 = 0, 0, width, height
        if sizes is not None:
            x1, y1 = (float(side) for side in sizes[view])
        elif valid is not None and bool(valid[view].any()):
            x0, y0, x1, y1 = content_box(valid[view], view)
        focal = float("nan") if focals is None else float(focals[view])
        known = not np.isnan(focal)
        if known and not focal > 0:
            raise InputError(f"the focal length of view {view + 1} must be positive, got {focal:g} pixels")
        group = groups.setdefault((x0, y0, x1, y1), len(groups))
        focal = focal if known else PRIOR_MEDIAN * max(x1 - x0, y1 - y0)
        cameras.append(Intrinsics(focal, (x0 + x1) / 2, (y0 + y1) / 2, width, height, known, group))
    return cameras


def is_flat(image: Tensor, valid: Tensor | None) -> bool:
    """Whether the valid pixels [H, W] of an image [3, H, W] have a single colour, or there are none."""
    content = image if valid is None else image[:, valid]
    return (
        content.numel() == 0 or float((content.flatten(1).amax(1) - content.flatten(1).amin(1)).max()) < FLAT_CONTRAST
    )


class _Lost:
    """The views left out, with reasons; raises if fewer than two remain, or if none may be left out."""

    def __init__(self, views: int, all_views: bool) -> None:
        self.views, self.all_views = views, all_views
        self.reasons: dict[int, str] = {}

    def add(self, reasons: dict[int, str]) -> None:
        """Leave out more views. Raises InputError."""
        self.reasons |= reasons
        remaining = self.views - len(self.reasons)
        if reasons and (self.all_views or remaining < 2):
            view, reason = min(reasons.items())
            left = "" if self.all_views else f" ({remaining} of {self.views} views could be placed)"
            raise InputError(
                f"view {view + 1} cannot be placed{left}: {reason}. Use photographs that are sharp, overlap by half or "
                "more and are taken at most some 40 degrees apart, "
                + ("leave it out, " if self.views > 2 else "")
                + "give the cameras (--cameras transforms.json), or use the estimator 'da3', which needs no matches"
            )

    def notes(self) -> tuple[str, ...]:
        """A note for each view."""
        told = [f"view {view + 1} is left out: {reason}" for view, reason in sorted(self.reasons.items())]
        if 0 in self.reasons:
            told.append("the first view is left out, so the first that is placed takes its part as the reference")
        return tuple(told)


@dataclass
class _Counter:
    """Called without arguments for each step; reports the fraction done."""

    total: int
    report: Report
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        self.report(self.done / self.total)


def _without_structure(images: Tensor, valid: Tensor | None, features: list[sfm.Features]) -> dict[int, str]:
    reasons = {}
    for view, found in enumerate(features):
        if is_flat(images[view], None if valid is None else valid[view]):
            reasons[view] = "it is blank (one flat colour)"
        elif len(found.pixels) < MIN_FEATURES:
            reasons[view] = (
                f"it has no structure to find it by ({len(found.pixels)} features, at least {MIN_FEATURES} are "
                "needed; it may be black, out of focus or without texture)"
            )
    return reasons


def _of_one_group(pairs: list[Pair], counts: dict[tuple[int, int], int], lost: _Lost) -> list[Pair]:
    """The pairs of views connected with the first view, or else of the largest connected group."""
    groups = []
    for view in range(lost.views):
        if view not in lost.reasons and not any(view in group for group in groups):
            groups.append(connected(pairs, view))
    group = max(groups, key=lambda g: (len(g) >= 2 and min(groups[0]) in g, len(g)))
    reasons = {}
    for view in set(range(lost.views)) - set(lost.reasons) - (group if len(group) >= 2 else {0}):
        most = sorted(((n, a + b - view + 1) for (a, b), n in counts.items() if view in (a, b)), reverse=True)
        found = ", ".join(f"{n} with view {other}" for n, other in most[:3])
        reasons[view] = f"it shares too little with the others: {found} matches, at least {MIN_MATCHES} are needed"
    lost.add(reasons)
    return [pair for pair in pairs if pair.a in group]


def _guessed(features: list[sfm.Features], pairs: list[Pair], unit: list[Intrinsics]) -> FocalGuess | None:
    """The focal length guessed from a few pairs; None if all are known."""
    unknown = [pair for pair in pairs if not (unit[pair.a].known and unit[pair.b].known)]
    if not unknown:
        return None
    chosen = reconstruction.by_promise(features, unknown, _with_factor(unit, PRIOR_MEDIAN))[:PROFILED_PAIRS]
    profiles = [
        PairProfile(
            features[pair.a].pixels[pair.matches[:, 0]],
            features[pair.b].pixels[pair.matches[:, 1]],
            unit[pair.a],
            unit[pair.b],
        )
        for pair in chosen
    ]
    return guess_focal(profiles)


def _with_factor(unit: list[Intrinsics], factor: float) -> list[Intrinsics]:
    """The cameras with unknown focal lengths `factor` times as long."""
    return [c if c.known else replace(c, focal=c.focal * factor) for c in unit]


def _finished(
    model: reconstruction.Model, tracks: Observations, scale: float, guess: FocalGuess | None, lost: _Lost
) -> Structure:
    """Convert to the first camera's frame, pixels of the given images and only the placed views; add the guess."""
    used = tuple(sorted(model.viewmats))
    points, good = triangulate(model.viewmats, model.cameras, tracks, error_threshold(model.cameras[0]))
    seen = tracks[good]
    first = model.viewmats[used[0]]
    viewmats = np.stack([model.viewmats.get(view, np.eye(4)) for view in range(len(model.cameras))])
    cameras = [_scaled(camera, 1.0 / scale) for camera in model.cameras]
    whole = Structure(
        viewmats @ np.linalg.inv(first),
        cameras,
        points @ first[:3, :3].T + first[:3, 3],
        Observations(seen.track, seen.view, seen.pixels / scale),
        tuple(range(len(cameras))),
    )
    structure = whole.subset(used)
    notes = lost.notes()
    unknown = [camera for camera in structure.cameras if not camera.known]
    if guess is None or not unknown:
        return replace(structure, notes=notes)
    focal = unknown[0].focal
    low, high = focal * guess.low / guess.factor, focal * guess.high / guess.factor
    told = "guessed" if len(used) == 2 else "estimated"
    note = f"focal length {told}: {focal:.0f} px ({low:.0f} to {high:.0f}) for {unknown[0].width} px of width; "
    if high > WEAK_GUESS * low:
        note += "the photographs hardly tell it, and the shape of the scene hangs on it: give --fov or --focal-35mm"
    else:
        note += "if you know it better, give --fov or --focal-35mm"
    return replace(structure, focal_range=(low, high), notes=(note, *notes))


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


def without_overlap(images: Tensor, cameras: Cameras, valid: Tensor | None, structure: Structure) -> dict[int, str]:
    """Reasons why some views can get no depth from the others: blank ones, and those whose frustum meets no other.

    Args:
        images: [V, 3, H, W] pictures in [0, 1].
        cameras: V known cameras.
        valid: [V, H, W] bool or None.
        structure: sparse points of the same views; a view with enough of them overlaps, whatever it looks like.
    """
    reasons = {
        view: "it is blank (one flat colour)"
        for view, image in enumerate(images)
        if is_flat(image, None if valid is None else valid[view])
    }
    alive = [view for view in range(len(images)) if view not in reasons]
    if len(alive) < 2:
        return reasons
    for view in alive:
        if len(structure.depths_seen_by(view)) >= MIN_COMMON:
            continue
        if not any(frustums_meet(cameras[view], cameras[other]) for other in alive if other != view):
            reasons[view] = "its camera sees nothing in common with the others"
    return reasons


def frustums_meet(one: Cameras, other: Cameras) -> bool:
    """Whether some point in front of the first of two cameras is in both pictures, at any likely distance."""
    baseline = float((one.centers[0] - other.centers[0]).norm())
    x, y = (torch.linspace(0.0, float(side), GRID, device=one.Ks.device) for side in (one.width, one.height))
    pixels = torch.cartesian_prod(x, y)
    rays = torch.nn.functional.pad(pixels, (0, 1), value=1.0) @ torch.linalg.inv(one.Ks[0]).T
    c2w = one.c2w[0]
    for distance in DISTANCES:
        points = distance * max(baseline, 1e-6) * rays @ c2w[:3, :3].T + c2w[:3, 3]
        seen, depth = (value[0] for value in other.project(points))
        size = seen.new_tensor([other.width, other.height])
        if bool(((seen > 0) & (seen < size)).all(dim=-1).logical_and(depth > 0).any()):
            return True
    return False
