"""Rough geometry of a posed scene, sufficient to tell which photographs see the same things.

Features of neighbouring photographs are matched and triangulated with the given cameras; each cell of a coarse grid
over each photograph takes the depth of the nearest such point. There is no dense depth and no occlusion.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.datasets.scene_check import neighbouring_pairs, photo_features
from cus.errors import InputError
from cus.estimators import sfm

GRID = (12, 12)  # rows and columns of points per photograph
LEAST_PARALLAX = 1.5  # degrees; depths from less parallax are meaningless
LARGEST_ERROR = 2.0  # pixels of the shrunk photograph
LEAST_POINTS = 12


@dataclass(frozen=True)
class RoughGeometry:
    """The world points that each photograph sees, on a grid.

    Attributes:
        cameras: V single cameras of the photographs at the size used by `photo_features`.
        depths: [V, rows, columns] float64 z-depths at the cell centres of a regular grid; NaN in photographs with too
            few points.
    """

    cameras: tuple[Cameras, ...]
    depths: Tensor

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def known(self) -> Tensor:
        """[V] bool: photographs with depths."""
        return torch.isfinite(self.depths).all(dim=(1, 2))

    @property
    def centers(self) -> Tensor:
        """[V, 3] float64 camera centres."""
        return torch.cat([camera.centers for camera in self.cameras]).double()

    def points(self, view: int, window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Tensor:
        """[rows * columns, 3] float64 world points of a window (left, top, right, bottom) in fractions of a photograph.

        The window is sampled as densely as the whole; a sample takes the depth of its grid cell.
        """
        rows, columns = self.depths.shape[1:]
        left, top, right, bottom = window
        u = left + (right - left) * (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
        v = top + (bottom - top) * (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        row = (v * rows).long().clamp(0, rows - 1)
        column = (u * columns).long().clamp(0, columns - 1)
        depths = self.depths[view][row][:, column].reshape(-1, 1)
        camera = self.cameras[view]
        ys, xs = torch.meshgrid(v * camera.height, u * camera.width, indexing="ij")
        pixels = torch.stack([xs, ys, torch.ones_like(xs)], dim=-1).reshape(-1, 3)
        local = depths * (pixels @ torch.linalg.inv(camera.Ks[0].double()).T)
        c2w = camera.c2w[0].double()
        return local @ c2w[:3, :3].T + c2w[:3, 3]

    def sees(self, view: int, points: Tensor) -> Tensor:
        """[M] bool: which world points [M, 3] fall into a photograph; occlusion is ignored."""
        camera = self.cameras[view]
        pixels, depths = project(camera, points)
        size = pixels.new_tensor([camera.width, camera.height])
        return (depths > 0) & (pixels >= 0).all(dim=1) & (pixels <= size).all(dim=1)


def project(camera: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [M, 2] and z-depths [M] of world points [M, 3], in float64."""
    viewmat, K = camera.viewmats[0].double(), camera.Ks[0].double()
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    homogeneous = local @ K.T
    return homogeneous[:, :2] / local[:, 2:].where(local[:, 2:].abs() > 1e-12, 1e-12), local[:, 2]


def angles_at(points: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """[M] degrees between the rays from world points [M, 3] to two camera centres [3]."""
    to_a, to_b = (torch.nn.functional.normalize(center - points, dim=-1) for center in (a, b))
    # Uses the sine, too: the cosine alone is inaccurate for small angles.
    sine = torch.linalg.cross(to_a, to_b).norm(dim=-1)
    return torch.rad2deg(torch.atan2(sine, (to_a * to_b).sum(dim=-1)))


def rough_geometry(posed: PosedPhotos) -> RoughGeometry:
    """Match and triangulate the features of neighbouring photographs with the given cameras.

    `neighbouring_pairs` chooses the pairs. Deterministic.

    Raises:
        InputError: a photograph that cannot be read, or a scene in which no photographs overlap.
    """
    cameras, features = [], []
    for index in range(len(posed)):
        camera, found_features = photo_features(posed, index)
        cameras.append(camera)
        features.append(found_features)
    found: list[list[Tensor]] = [[] for _ in cameras]
    for a, b in neighbouring_pairs(torch.cat([camera.viewmats for camera in cameras])):
        matches = torch.from_numpy(sfm.match_features(features[a], features[b]))
        pixels_a = torch.from_numpy(features[a].pixels)[matches[:, 0]]
        pixels_b = torch.from_numpy(features[b].pixels)[matches[:, 1]]
        points = triangulate(cameras[a], cameras[b], pixels_a, pixels_b)
        found[a].append(points)
        found[b].append(points)
    depths = torch.stack([_grid_depths(camera, points) for camera, points in zip(cameras, found, strict=True)])
    geometry = RoughGeometry(tuple(cameras), depths)
    if not bool(geometry.known.any()):
        raise InputError(
            f"none of the {len(posed)} photographs in {posed.paths[0].parent} shares anything with another as the "
            "cameras would have it: are the cameras those of these photographs, and do the photographs overlap?"
        )
    return geometry


def triangulate(a: Cameras, b: Cameras, pixels_a: Tensor, pixels_b: Tensor) -> Tensor:
    """[N, 3] world points halfway between the rays of M matched pixels [M, 2] each, consistent ones only.

    A point is consistent if it lies in front of both cameras, reprojects to within `LARGEST_ERROR` pixels in both, and
    has a parallax of at least `LEAST_PARALLAX` degrees.
    """
    rays = []
    for camera, pixels in ((a, pixels_a), (b, pixels_b)):
        homogeneous = torch.nn.functional.pad(pixels.double(), (0, 1), value=1.0)
        local = homogeneous @ torch.linalg.inv(camera.Ks[0].double()).T
        rays.append(torch.nn.functional.normalize(local @ camera.viewmats[0, :3, :3].double(), dim=-1))
    center_a, center_b = a.centers[0].double(), b.centers[0].double()
    between = center_b - center_a
    cosine = (rays[0] * rays[1]).sum(dim=-1)
    along_a, along_b = rays[0] @ between, rays[1] @ between
    denominator = (1 - cosine**2).clamp(min=1e-12)
    first = center_a + ((along_a - cosine * along_b) / denominator)[:, None] * rays[0]
    second = center_b + ((cosine * along_a - along_b) / denominator)[:, None] * rays[1]
    points = (first + second) / 2
    good = angles_at(points, center_a, center_b) >= LEAST_PARALLAX
    for camera, pixels in ((a, pixels_a), (b, pixels_b)):
        projected, depths = project(camera, points)
        good &= (depths > 0) & ((projected - pixels).norm(dim=-1) <= LARGEST_ERROR)
    return points[good]


def _grid_depths(camera: Cameras, points: list[Tensor]) -> Tensor:
    """[rows, columns] depth of the point nearest to each cell's centre in the picture; NaN if there are too few."""
    rows, columns = GRID
    pixels, depths = project(camera, torch.cat(points) if points else torch.zeros(0, 3, dtype=torch.float64))
    if len(depths) < LEAST_POINTS:
        return torch.full(GRID, math.nan, dtype=torch.float64)
    xs = (torch.arange(columns, dtype=torch.float64) + 0.5) * camera.width / columns
    ys = (torch.arange(rows, dtype=torch.float64) + 0.5) * camera.height / rows
    cells = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(-1, 2)
    # The median of several points, so that one wrong match does not change a cell.
    nearest = torch.cdist(cells, pixels).topk(min(5, len(depths)), dim=1, largest=False).indices
    return depths[nearest].median(dim=1).values.reshape(rows, columns)
