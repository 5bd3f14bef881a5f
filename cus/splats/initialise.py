"""Turns a point cloud into Gaussians that already form closed surfaces."""

import math

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.gaussians import Gaussians
from cus.splats.sh import sh_from_rgb

_NEIGHBOURS = 8
# Standard deviation over neighbour distance: with opacity 0.9, a square lattice of such discs lets < 3 % through.
_OVERLAP = 0.65
_OPACITY = 0.9
# Discs keep this fraction of their width along the normal where the neighbours lie in a plane; elsewhere they are
# rounder.
_THINNEST = 0.15
# Points whose spacing in pixels is this many times that of most are strays.
_STRAY = 4.0
# Voxel numbers stay below this, so that int64 holds them.
_LARGEST_KEY = 2.0**62


def sampling_distances(points: Tensor, cameras: Cameras) -> Tensor:
    """Size of a pixel at each point in the view that samples it finest: min of depth / focal length.

    Args:
        points: World points [N, 3].
        cameras: M views; a point counts where it falls inside the picture, hidden or not.

    Returns:
        Sizes [N] in scene units; infinite where no camera has the point in view.
    """
    finest = torch.full((len(points),), math.inf, device=points.device)
    for i in range(len(cameras)):
        pixels, depths = cameras[i].project(points)
        size = pixels.new_tensor([cameras.width, cameras.height])
        inside = ((pixels[0] >= 0) & (pixels[0] < size)).all(dim=1) & (depths[0] > 0)
        footprint = depths[0] / cameras.Ks[i, 0, 0]
        finest = torch.where(inside, torch.minimum(finest, footprint), finest)
    return finest


def downsample_points(
    points: Tensor, colors: Tensor, count: int, spacings: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Average a cloud over voxels so that about `count` points remain (never more).

    Args:
        points: World points [N, 3].
        colors: RGB in [0, 1] [N, 3].
        count: Target number of points, >= 1. A smaller cloud is returned unchanged.
        spacings: Relative voxel size at each point [N], > 0, e.g. `sampling_distances`: close-up views then keep their
            finer detail. Rounded to powers of two, so that neighbours share a grid. None: one size everywhere.

    Returns:
        points [M, 3] and colors [M, 3], M <= count and, except for lumpy clouds, M > 0.9 count.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if len(points) <= count:
        return points, colors
    octaves = torch.zeros(len(points), dtype=torch.long, device=points.device)
    if spacings is not None:
        octaves = spacings.clamp(min=float(spacings.min()) + 1e-30, max=_largest_finite(spacings)).log2().round().long()
    extent = float((points.amax(dim=0) - points.amin(dim=0)).max())
    # Bisection on the logarithm of the voxel size: more than enough steps for 1 % of the count.
    low, high = math.log(max(extent, 1e-12)) - 25, math.log(max(extent, 1e-12)) + 1
    low, high = low - math.log(2) * float(octaves.max()), high - math.log(2) * float(octaves.min())
    cells = _voxels(points, octaves, math.exp(high))
    for _ in range(24):
        middle = (low + high) / 2
        attempt = _voxels(points, octaves, math.exp(middle))
        many = int(attempt.max()) + 1
        if many > count:
            low = middle
        else:
            high, cells = middle, attempt
            if many > 0.97 * count:
                break
    if spacings is not None and int(cells.max()) >= count:  # the target is less than the number of voxel sizes
        return downsample_points(points, colors, count)
    members = torch.bincount(cells).to(points.dtype)[:, None]
    zeros = points.new_zeros(len(members), 3)
    average = [zeros.index_add(0, cells, values) / members for values in (points, colors)]
    return average[0], average[1]


def initial_gaussians(points: Tensor, colors: Tensor, sh_degree: int, pixels: Tensor | None = None) -> Gaussians:
    """Discs along the surface that a cloud samples, as wide as the spacing of its points.

    The width is the mean distance to the three nearest neighbours (3DGS, Section 5.1) times a constant; the orientation
    and thickness come from the principal axes of the eight nearest. Where a cloud mixes dense close-up points with
    sparse ones, each disc fits its own surroundings.

    Args:
        points: World points [N, 3], N >= 2, all distinct.
        colors: RGB in [0, 1] [N, 3].
        sh_degree: Degree of the Gaussians' harmonics; the higher bands start at zero.
        pixels: Size of a pixel at each point [N], e.g. `sampling_distances`. Points whose spacing in these units is
            much larger than that of most are strays, and their discs stay small. None: no such limit.
    """
    spacings, rotations, thickness = _surroundings(points)
    if pixels is not None:
        apart = spacings / pixels
        known = torch.isfinite(pixels) & (pixels > 0)
        if bool(known.any()):
            spacings = torch.where(known, torch.minimum(apart, _STRAY * apart[known].median()) * pixels, spacings)
    widths = _OVERLAP * spacings
    scales = torch.stack([widths, widths, widths * thickness], dim=1)
    sh = points.new_zeros(len(points), (sh_degree + 1) ** 2, 3)
    sh[:, 0] = sh_from_rgb(colors)
    opacities = points.new_full((len(points),), _OPACITY)
    return Gaussians(points.clone(), quat_from_rotmat(rotations), scales, opacities, sh)


def quat_from_rotmat(rotations: Tensor) -> Tensor:
    """Unit quaternions [N, 4] (wxyz) of rotation matrices [N, 3, 3]; the inverse of `rotmat_from_quat` up to sign."""
    r = rotations
    diagonal = torch.stack([r[:, 0, 0], r[:, 1, 1], r[:, 2, 2]], dim=1)
    trace = diagonal.sum(dim=1)
    # 4 q q^T in terms of the matrix; the row of its largest diagonal entry is the best conditioned.
    outer = r.new_empty(len(r), 4, 4)
    outer[:, 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        outer[:, i + 1, i + 1] = 1 - trace + 2 * diagonal[:, i]
        outer[:, 0, i + 1] = outer[:, i + 1, 0] = r[:, k, j] - r[:, j, k]
        outer[:, i + 1, j + 1] = outer[:, j + 1, i + 1] = r[:, i, j] + r[:, j, i]
    best = outer.diagonal(dim1=1, dim2=2).argmax(dim=1)
    return torch.nn.functional.normalize(outer[torch.arange(len(r), device=r.device), best], dim=1)


def _surroundings(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Spacing [N], local axes with the normal last [N, 3, 3], and thickness over width [N] in (0, 1]."""
    if len(points) < 2:
        raise ValueError("at least two points are needed to know how far apart they lie")
    cloud = points.detach().cpu().double().numpy()
    neighbours = min(_NEIGHBOURS, len(cloud) - 1)
    distances, indices = KDTree(cloud).query(cloud, k=neighbours + 1)
    spacings = torch.from_numpy(distances[:, 1:4].mean(axis=1))
    # A stray point must not become a balloon: no disc is wider than the surroundings of most points near it, as
    # measured by the median over the neighbours.
    usual = torch.from_numpy(np.median(spacings.numpy()[indices], axis=1))
    spacings = torch.minimum(spacings, 2 * usual).clamp_min(float(spacings[spacings > 0].min()) * 0.1)
    offsets = torch.from_numpy(cloud[indices]) - torch.from_numpy(cloud[indices]).mean(dim=1, keepdim=True)
    variances, axes = torch.linalg.eigh(offsets.transpose(1, 2) @ offsets)  # ascending: the normal comes first
    thickness = (variances[:, 0] / variances[:, 1].clamp_min(1e-30)).clamp_min(0).sqrt().clamp(_THINNEST, 1.0)
    rotations = axes.flip(-1)
    rotations[:, :, 2] *= torch.linalg.det(rotations).sign()[:, None]
    return spacings.to(points), rotations.to(points), thickness.to(points)


def _voxels(points: Tensor, octaves: Tensor, unit: float) -> Tensor:
    """Voxel number of each point [N], from 0 without gaps; the voxel's side is unit * 2^octave."""
    sides = unit * torch.exp2(octaves.double())
    # Relative to the corner of the cloud, so that one voxel can hold it all.
    cells = torch.floor((points - points.amin(dim=0)).double() / sides[:, None]).long()
    # One number per voxel, in the order of its coordinates: sorting numbers is several times faster than sorting rows.
    keys = octaves - octaves.min()
    for values in cells.unbind(1):
        if float(keys.max() + 1) * float(values.max() + 1) >= _LARGEST_KEY:
            keys, values = (torch.unique(column, return_inverse=True)[1] for column in (keys, values))
        keys = keys * (values.max() + 1) + values
    return torch.unique(keys, return_inverse=True)[1]


def _largest_finite(values: Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return float(finite.max()) if len(finite) else 1.0
