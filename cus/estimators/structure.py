"""Sparse points with the cameras that see them: triangulation, reprojection, choice of sources."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cus.estimators.sfm import Intrinsics, Observations

MIN_ANGLE = 1.0  # degrees between the rays of a point; below, its depth is meaningless
MIN_COMMON = 8  # number of points that neighbouring views must share


@dataclass(frozen=True)
class Structure:
    """Cameras and sparse points of a set of views.

    Attributes:
        viewmats: [V, 4, 4] float64 world-to-camera.
        cameras: V intrinsics in pixels of the given images.
        points: [T, 3] float64 positions.
        observations: inlier observations of the points in pixels of the given images.
        used: indices of these views in the input, ascending; the others could not be placed.
        focal_range: 80 % interval in pixels of a focal length that was not known.
        notes: messages for the user.
    """

    viewmats: np.ndarray
    cameras: list[Intrinsics]
    points: np.ndarray
    observations: Observations
    used: tuple[int, ...]
    focal_range: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def depths_seen_by(self, view: int) -> np.ndarray:
        """[N] z-depths of the points that `view` observes."""
        mine = self.points[self.observations.track[self.observations.view == view]]
        return mine @ self.viewmats[view, 2, :3] + self.viewmats[view, 2, 3]

    def subset(self, views: Sequence[int]) -> "Structure":
        """The structure of some of the views, renumbered; points that they do not see stay, unobserved."""
        number = np.full(len(self.cameras), -1)
        number[list(views)] = np.arange(len(views))
        kept = self.observations[number[self.observations.view] >= 0]
        return replace(
            self,
            viewmats=self.viewmats[list(views)],
            cameras=[self.cameras[view] for view in views],
            observations=Observations(kept.track, number[kept.view], kept.pixels),
            used=tuple(self.used[view] for view in views),
        )

    def sources_for(self, view: int, count: int) -> list[int]:
        """The `count` other views best suited to measure depth in `view`: many common points at a good angle.

        Views without common points are used only if no view has any: those with the most similar viewing directions.
        """
        mine = np.zeros(len(self.points), dtype=bool)
        mine[self.observations.track[self.observations.view == view]] = True
        shared = self.observations[mine[self.observations.track]]
        centers = -np.einsum("nji,nj->ni", self.viewmats[:, :3, :3], self.viewmats[:, :3, 3])
        worth = {}
        for other in range(len(self.viewmats)):
            points = self.points[shared.track[shared.view == other]]
            if other == view or len(points) < MIN_COMMON:
                continue
            a, b = (
                (v / np.linalg.norm(v, axis=1, keepdims=True))
                for v in (points - centers[view], points - centers[other])
            )
            angles = np.degrees(np.arccos((a * b).sum(axis=1).clip(-1.0, 1.0)))
            # Angles of 5 to 10 degrees are best: smaller ones give imprecise depth, larger ones change a surface's
            # appearance.
            worth[other] = float(np.minimum(angles / 5.0, 10.0 / angles.clip(1e-6)).clip(max=1.0).sum())
        if not worth:
            alike = self.viewmats[:, 2, :3] @ self.viewmats[view, 2, :3]
            worth = {other: float(alike[other]) for other in range(len(self.viewmats)) if other != view}
        return sorted(sorted(worth, key=lambda other: worth[other], reverse=True)[:count])


def triangulate(
    viewmats: dict[int, np.ndarray], cameras: list[Intrinsics], tracks: Observations, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear triangulation of every track from the registered views.

    Returns:
        (points [T, 3], good [M] bool): good observations reproject within `threshold` pixels, in front of the camera,
        and belong to a point seen by at least two good observations at an angle of at least `MIN_ANGLE` degrees.
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


def error_threshold(camera: Intrinsics) -> float:
    """Reprojection error in pixels above which an observation is wrong."""
    return 1.0 + 0.001 * max(camera.width, camera.height)


def _widest_angle(
    centers: np.ndarray, points: np.ndarray, tracks: Observations, good: np.ndarray, count: int
) -> np.ndarray:
    """[T] largest angle in degrees between two rays of a point."""
    chosen = np.flatnonzero(good)
    chosen = chosen[np.argsort(tracks.track[chosen], kind="stable")]
    track = tracks.track[chosen]
    rays = points[track] - centers[tracks.view[chosen]]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True).clip(1e-12)
    least = np.ones(count)  # cosine
    # Observations of one track are consecutive: all its pairs are those at distances of 1, 2, ... from each other.
    for distance in range(1, int(np.bincount(track).max(initial=1))):
        same = track[distance:] == track[:-distance]
        cosines = (rays[distance:][same] * rays[:-distance][same]).sum(axis=1)
        np.minimum.at(least, track[distance:][same], cosines)
    return np.degrees(np.arccos(least.clip(-1.0, 1.0)))


def _rays(seen: Observations, cameras: list[Intrinsics]) -> np.ndarray:
    focal = np.array([camera.focal for camera in cameras])[seen.view]
    middle = np.array([[camera.cx, camera.cy] for camera in cameras])[seen.view]
    return np.column_stack([(seen.pixels - middle) / focal[:, None], np.ones(len(seen))])
