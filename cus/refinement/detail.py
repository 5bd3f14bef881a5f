"""Densification for closer views: new, finer Gaussians where a round's views sample the scene much more densely."""

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.scene import SceneEstimate
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points, initial_gaussians, sampling_distances
from cus.splats.levels import STEP

# Surfaces become denser where the new views sample them at least this many times as finely as the known ones.
FINER = 2.0
# A coarser Gaussian gives way up to this far behind the new surface, as a share of its depth.
BEHIND = 0.05


def with_detail(gaussians: Gaussians, made: SceneEstimate, known: Cameras, count: int) -> tuple[Gaussians, int]:
    """Add Gaussians at the pixels of generated views that come much closer, as a finer level of detail.

    The new ones are discs as dense as the views' pixels, thinned to `count`. Older ones at or before the same surface,
    in the pictures of these views, leave their place to them in close views, and stay as they are in views from afar.

    Args:
        gaussians: the scene.
        made: generated views, with cameras and depths (0 = none).
        known: cameras that the scene was made from, at the size of the same images.
        count: maximum number of new Gaussians.

    Returns:
        The scene, and the number of new Gaussians, which come last.
    """
    points, colors = _surface_points(made, known)
    if len(points) < 4:
        return gaussians, 0
    points, colors = downsample_points(points, colors, count, sampling_distances(points, made.cameras))
    pixels = sampling_distances(points, made.cameras)
    new = initial_gaussians(points, colors, gaussians.sh_degree, pixels)
    own = torch.stack([1 / pixels, torch.zeros_like(pixels)], dim=1)
    older = Gaussians(**gaussians.tensors() | {"rates": _given_way(gaussians, made, known)})
    return older.joined(Gaussians(**new.tensors() | {"rates": own})), len(new)


def _surface_points(made: SceneEstimate, known: Cameras) -> tuple[Tensor, Tensor]:
    """World points and colours [N, 3] of every second row and column of the views, where they are `FINER`."""
    points = made.cameras.backproject(made.depths)[:, ::2, ::2]
    colors = made.images.permute(0, 2, 3, 1)[:, ::2, ::2]
    shown = made.depths[:, ::2, ::2] > 0
    points, colors = points[shown], colors[shown]
    finer = sampling_distances(points, known) >= FINER * sampling_distances(points, made.cameras)
    return points[finer], colors[finer]


def _given_way(gaussians: Gaussians, made: SceneEstimate, known: Cameras) -> Tensor:
    """The levels [N, 2] of the older Gaussians: an upper limit for those whose place is taken."""
    rates = gaussians.means.new_zeros(len(gaussians), 2) if gaussians.rates is None else gaussians.rates.clone()
    pixels = sampling_distances(gaussians.means, made.cameras)
    taken = torch.zeros(len(gaussians), dtype=torch.bool, device=gaussians.device)
    size = gaussians.means.new_tensor([made.cameras.width, made.cameras.height])
    for index in range(len(made)):
        found, depths = made.cameras[index].project(gaussians.means)
        inside = (depths[0] > 0) & ((found[0] >= 0) & (found[0] < size)).all(dim=1)
        columns, rows = torch.where(inside[:, None], found[0], torch.zeros_like(found[0])).long().unbind(1)
        surface = made.depths[index][rows, columns]
        taken |= inside & (surface > 0) & (depths[0] <= (1 + BEHIND) * surface)
    taken &= (sampling_distances(gaussians.means, known) >= FINER * pixels) & (rates[:, 1] == 0)
    # Where the new level is fully shown, the older one is not shown at all.
    limit = torch.maximum(1 / (STEP * pixels), rates[:, 0])
    rates[:, 1] = torch.where(taken, limit, rates[:, 1])
    return rates
