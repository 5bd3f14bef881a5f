"""Features of posed photographs, and the choice of photographs to match."""

import math

import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.estimators import sfm

LONGEST_SIDE = 640
MOST_FEATURES = 2500
NEIGHBOURS = 6
WIDEST_TURN = 45.0  # maximum angle in degrees between the viewing directions of matched photographs


def photo_features(posed: PosedPhotos, index: int) -> tuple[Cameras, sfm.Features]:
    """One photograph's camera, shrunk to `LONGEST_SIDE`, and its features in pixels at that size.

    Raises:
        InputError: the photograph cannot be read.
    """
    width, height = posed.sizes[index]
    shrunk = max(1, round(width * min(1.0, LONGEST_SIDE / max(width, height))))
    images, camera = posed.select([index]).load(shrunk)
    gray = (images[0] * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    return camera, sfm.extract_features(gray.clamp(0, 1).numpy(), MOST_FEATURES)


def neighbouring_pairs(viewmats: Tensor) -> list[tuple[int, int]]:
    """Pairs a < b of cameras [V, 4, 4] that are close and look in similar directions, in order.

    Each camera is paired with the `NEIGHBOURS` nearest ones whose directions are within `WIDEST_TURN` of its own.
    """
    viewmats = viewmats.double()
    rotations = viewmats[:, :3, :3]
    centers = -(rotations.transpose(1, 2) @ viewmats[:, :3, 3:])[..., 0]
    forward = viewmats[:, 2, :3]
    distances = torch.cdist(centers, centers)
    distances[forward @ forward.T < math.cos(math.radians(WIDEST_TURN))] = math.inf
    distances.fill_diagonal_(math.inf)
    pairs = set()
    for a, row in enumerate(distances):
        for b in torch.argsort(row, stable=True)[:NEIGHBOURS].tolist():
            if math.isfinite(float(row[b])):
                pairs.add((min(a, b), max(a, b)))
    return sorted(pairs)
