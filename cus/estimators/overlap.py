"""Finds views with known cameras that show nothing in common with another view."""

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.estimators.poses import is_flat
from cus.estimators.structure import MIN_COMMON, Structure

GRID = 12  # number of points along each side of a picture
DISTANCES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 1e6)  # from the first camera of a pair, in units of the pair's baseline


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
