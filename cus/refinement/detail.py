"""Densification for closer views: new, finer Gaussians where a round's views sample the scene much more densely."""

from dataclasses import replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.diffusion.layers import fill_holes
from cus.scene import SceneEstimate
from cus.splats.complete import complete_cloud
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points, initial_gaussians, sampling_distances
from cus.splats.levels import STEP

# Known views limit the detail in their pictures and in a margin of this share of their sides.
BESIDE = 0.25
# A coarser Gaussian gives way up to this far behind the new surface, as a share of its depth.
BEHIND = 0.05


def with_detail(gaussians: Gaussians, made: SceneEstimate, known: Cameras, count: int) -> tuple[Gaussians, int]:
    """Add Gaussians at the pixels of generated views that come much closer, as a finer level of detail.

    Surfaces become denser where the new views sample them at least `STEP` times as finely as the known ones. The new
    Gaussians are discs as dense as the views' pixels, thinned to `count`. Older ones at or before the same surface, in
    the pictures of these views, leave their place to them. From the rate of the known views on, where nothing changes,
    to `STEP` times that rate one level fades out and the other one in.

    Args:
        gaussians: the scene.
        made: generated views, with cameras and depths (0 = none).
        known: cameras that the scene was made from, at the size of the same images.
        count: maximum number of new Gaussians.

    Returns:
        The scene, and the number of new Gaussians, which come last.
    """
    # What is just beside a known picture reaches into it.
    across, down = round(BESIDE * known.width), round(BESIDE * known.height)
    known = known.cropped(-across, -down, known.width + 2 * across, known.height + 2 * down)
    shown, made = made.depths > 0, _without_holes(made)
    points, colors = _surface_points(made, shown, known)
    if len(points) < 4:
        return gaussians, 0
    points, colors = downsample_points(points, colors, count, sampling_distances(points, made.cameras))
    pixels = sampling_distances(points, made.cameras)
    new = initial_gaussians(points, colors, gaussians.sh_degree, pixels)
    own = torch.stack([STEP / sampling_distances(points, known), torch.zeros_like(pixels)], dim=1)
    older = Gaussians(**gaussians.tensors() | {"rates": _given_way(gaussians, made, known)})
    return older.joined(Gaussians(**new.tensors() | {"rates": own})), len(new)


def _without_holes(made: SceneEstimate) -> SceneEstimate:
    """Depths in the holes, too: those of their surroundings, far ones first, as behind an object that hides them."""
    shown = made.depths > 0
    if not bool(shown.any()):
        return made
    nearest = made.depths[shown].min()
    inverse = torch.where(shown, nearest / made.depths.clamp(min=nearest), 0.0)[:, None].expand(-1, 3, -1, -1)
    filled = fill_holes(inverse, shown, made.depths)[:, 0]
    return replace(made, depths=torch.where(filled > 0, nearest / filled.clamp(min=1e-6), 0.0))


def _surface_points(made: SceneEstimate, shown: Tensor, known: Cameras) -> tuple[Tensor, Tensor]:
    """World points and colours [N, 3] of the views, where these are finer.

    Every second row and column of what is `shown` [T, H, W]; of the holes what no other view has added, the last view
    first.
    """
    every = torch.zeros_like(shown)
    every[:, ::2, ::2] = shown[:, ::2, ::2]
    points = made.cameras.backproject(made.depths)[every]
    colors = made.images.permute(0, 2, 3, 1)[every]
    order = torch.arange(len(made), device=points.device)
    points, colors = complete_cloud(points, colors, made.images, made.cameras, made.depths, ~shown, order)
    finer = sampling_distances(points, known) >= STEP * sampling_distances(points, made.cameras)
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
    coarse = sampling_distances(gaussians.means, known)
    taken &= torch.isfinite(coarse) & (coarse >= STEP * pixels) & (rates[:, 1] == 0)
    rates[:, 1] = torch.where(taken, torch.maximum(1 / coarse, rates[:, 0]), rates[:, 1])
    return rates
