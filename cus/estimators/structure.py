"""Sparse points with the cameras that see them: triangulation, reprojection, choice of sources."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cus.estimators.sfm import Intrinsics, Observations

MIN_ANGLE = 1.0  # degrees between the rays of a point; below, its depth means nothing


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


def truncated_cost(
    viewmats: dict[int, np.ndarray],
    cameras: list[Intrinsics],
    points: np.ndarray,
    tracks: Observations,
    threshold: float,
) -> float:
    """Mean squared reprojection error of all observations, each at most 1 (so without any), in units of `threshold`."""
    if len(tracks) == 0:
        return 1.0
    errors, depths = reprojection(viewmats, cameras, points, tracks)
    return float(np.where(depths > 0, np.minimum(errors / threshold, 1.0) ** 2, 1.0).mean())


def error_threshold(camera: Intrinsics) -> float:
    """Reprojection error in pixels beyond which an observation is wrong."""
    return 1.0 + 0.001 * max(camera.width, camera.height)


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
