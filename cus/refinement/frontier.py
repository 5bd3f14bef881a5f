"""Cameras of the rounds of Close-up-GS: frontier views at a third of the distance, and views on the way there."""

import math

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import normalize

from cus.cameras import Cameras
from cus.cameras.conversions import viewmats_from_c2w
from cus.cameras.trajectories import turning
from cus.splats.levels import STEP

# Each round comes this many times nearer; a last one that would come less than a level of detail nearer joins the one
# before.
APPROACH = 3.0
SMALLEST_STEP = STEP
# Candidates on the way miss the target by up to this share of half a picture.
OFF_CENTRE = 0.5


def round_factors(factor: float) -> list[float]:
    """How many times nearer than the photographs each round's frontier is: 3, 9, 27, ... up to `factor`."""
    factors, reached = [], 1.0
    while reached < factor:
        reached = min(reached * APPROACH, factor)
        if factor / reached < SMALLEST_STEP:
            reached = factor
        factors.append(reached)
    return factors


def facing(camera: Cameras, center: Tensor, target: Tensor, aim: tuple[float, float] = (0.0, 0.0)) -> Cameras:
    """A camera like `camera` at `center` [3], turned by the smallest rotation so that it sees `target` [3].

    Args:
        camera: one camera: orientation, intrinsics and size.
        center: its new position, in scene units.
        target: point that it sees.
        aim: where the target appears, in half pictures to the right of the middle and below it.
    """
    half = camera.Ks.new_tensor([camera.width, camera.height]) / 2
    ray = torch.cat([half * torch.tensor(aim) / camera.Ks[0, (0, 1), (0, 1)].cpu(), torch.ones(1)]).double().numpy()
    rotation = camera.c2w[0, :3, :3].double().cpu().numpy()
    direction = (target - center).double().numpy()
    turn = Rotation.from_rotvec(turning(rotation @ ray, direction))
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = torch.from_numpy(turn.as_matrix() @ rotation)
    c2w[:3, 3] = center.double()
    K = camera.Ks.clone()
    K[0, :2, 2] = half
    return Cameras(viewmats_from_c2w(c2w[None]).to(K), K, camera.width, camera.height)


def frontier_views(anchors: Cameras, target: Tensor, distance: float) -> Cameras:
    """For each anchor the view from its line to the target [3] at `distance` from it; nearer anchors stay in place."""
    views = []
    for index in range(len(anchors)):
        offset = anchors.centers[index] - target
        center = target + offset * min(1.0, distance / float(offset.norm()))
        views.append(facing(anchors[index], center, target))
    return Cameras.cat(views)


def views_between(
    anchors: Cameras, target: Tensor, near: float, far: float, count: int, generator: torch.Generator
) -> Cameras:
    """`count` random views at distances between `near` and `far` from the target [3], between the anchors' directions.

    The target is in their pictures, but not always in the middle.
    """
    directions = normalize(anchors.centers - target, dim=1)
    draws = torch.rand(count, len(anchors) + 3, generator=generator)
    views = []
    for draw in draws:
        # A uniform draw from the simplex.
        shares = -(1 - draw[3:]).log() + 1e-9
        direction = normalize(((shares / shares.sum())[:, None] * directions).sum(dim=0), dim=0)
        distance = math.exp(math.log(near) + float(draw[0]) * (math.log(far) - math.log(near)))
        aim = OFF_CENTRE * (2 * float(draw[1]) - 1), OFF_CENTRE * (2 * float(draw[2]) - 1)
        like = anchors[int(shares.argmax())]
        views.append(facing(like, target + distance * direction, target, aim))
    return Cameras.cat(views)
