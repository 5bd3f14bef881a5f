"""Densification for closer views: new, finer Gaussians where a round's views sample the scene much more densely."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.completion.surroundings import fill_holes
from cus.scene import SceneEstimate
from cus.splats.complete import complete_cloud
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points, initial_gaussians, sampling_distances
from cus.splats.levels import STEP

# Known views limit the detail in their pictures and in a margin of this share of their sides.
BESIDE = 0.25
# A coarser Gaussian gives way up to this far behind the new surface, as a share of its depth.
BEHIND = 0.05
# Fewer new Gaussians than this are not worth a level.
FEWEST = 4


def with_detail(
    gaussians: Gaussians, made: SceneEstimate, known: Sequence[Cameras], count: int
) -> tuple[Gaussians, int]:
    """Add Gaussians at the pixels of generated views: a finer level of detail, and surfaces in the holes.

    Surfaces become denser where the new views sample them at least `STEP` times as finely as the known ones. The new
    Gaussians are discs as dense as the views' pixels. Older ones at or before the same surface, in the pictures of
    these views, leave their place to them. From the rate of the known views on, where nothing changes, to `STEP` times
    that rate one level fades out and the other one in. Holes get Gaussians of every level, and nothing leaves its place
    to them: what is before a hole may be the border of an object in a photograph.

    Args:
        gaussians: the scene.
        made: generated views, with cameras and depths (0 = hole).
        known: cameras of the pictures that the scene was made from, each at the size of its picture.
        count: maximum number of new Gaussians.

    Returns:
        The scene, and the number of new Gaussians, which come last.
    """
    known = [_with_surroundings(camera) for camera in known]
    filled = _without_holes(made)
    points, colors, in_hole = _points(filled, made.depths > 0, known)
    denser = gaussians
    for part, finer in ((~in_hole, True), (in_hole, False)):
        number = int(part.sum())
        number = min(number, count * number // max(len(points), 1))
        if number < FEWEST:
            continue
        discs = _discs(points[part], colors[part], filled.cameras, number, gaussians.sh_degree)
        if finer:
            low = STEP / _pixel_sizes(discs.means, known)
            discs = replace(discs, rates=torch.stack([low, torch.zeros_like(low)], dim=1))
            denser = replace(denser, rates=_given_way(denser, made, known))
        denser = denser.joined(discs)
    return denser, len(denser) - len(gaussians)


def _with_surroundings(camera: Cameras) -> Cameras:
    """What is just beside a known picture reaches into it."""
    across, down = round(BESIDE * camera.width), round(BESIDE * camera.height)
    return camera.cropped(-across, -down, camera.width + 2 * across, camera.height + 2 * down)


def _pixel_sizes(points: Tensor, cameras: Sequence[Cameras]) -> Tensor:
    """`sampling_distances` [N] for cameras of different sizes."""
    return torch.stack([sampling_distances(points, camera) for camera in cameras]).amin(dim=0)


def _discs(points: Tensor, colors: Tensor, cameras: Cameras, count: int, sh_degree: int) -> Gaussians:
    """Discs at points [N, 3], thinned to `count`, more densely where cameras are near."""
    points, colors = downsample_points(points, colors, count, sampling_distances(points, cameras))
    return initial_gaussians(points, colors, sh_degree, sampling_distances(points, cameras))


def _without_holes(made: SceneEstimate) -> SceneEstimate:
    """Depths in the holes, too: those of their surroundings, far ones first, as behind an object that hides them."""
    shown = made.depths > 0
    if not bool(shown.any()):
        return made
    nearest = made.depths[shown].min()
    inverse = torch.where(shown, nearest / made.depths.clamp(min=nearest), 0.0)[:, None].expand(-1, 3, -1, -1)
    filled = fill_holes(inverse, shown, made.depths)[:, 0]
    return replace(made, depths=torch.where(filled > 0, nearest / filled.clamp(min=1e-6), 0.0))


def _points(made: SceneEstimate, shown: Tensor, known: Sequence[Cameras]) -> tuple[Tensor, Tensor, Tensor]:
    """World points and colours [N, 3] for new Gaussians, and which are in a hole [N] bool.

    Every second row and column of what is `shown` [T, H, W], where it is finer; of the holes what no other view has
    added, the last view first.
    """
    every = torch.zeros_like(shown)
    every[:, ::2, ::2] = shown[:, ::2, ::2]
    points = made.cameras.backproject(made.depths)[every]
    colors = made.images.permute(0, 2, 3, 1)[every]
    surfaces, order = len(points), torch.arange(len(made), device=points.device)
    points, colors = complete_cloud(points, colors, made.images, made.cameras, made.depths, ~shown, order)
    in_hole = torch.arange(len(points), device=points.device) >= surfaces
    new = in_hole | (_pixel_sizes(points, known) >= STEP * sampling_distances(points, made.cameras))
    return points[new], colors[new], in_hole[new]


def _given_way(gaussians: Gaussians, made: SceneEstimate, known: Sequence[Cameras]) -> Tensor:
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
    coarse = _pixel_sizes(gaussians.means, known)
    taken &= torch.isfinite(coarse) & (coarse >= STEP * pixels) & (rates[:, 1] == 0)
    rates[:, 1] = torch.where(taken, torch.maximum(1 / coarse, rates[:, 0]), rates[:, 1])
    return rates
