"""Consistency of the depth maps of several views, and the confidence derived from it."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras

MAX_ROUND_TRIP = 1.5  # in pixels at the working size; above, two maps disagree
MIN_ISLAND = 100  # pixels; smaller agreeing islands in disagreeing surroundings are chance, and seeds of false surfaces
FILLED_CONFIDENCE = 0.2  # maximum confidence of a pixel without agreement
FILL_REACH = 12.0  # decay length in pixels of a filled depth's confidence


def round_trip_errors(inverse_depths: Tensor, cameras: Cameras, reference: int, sources: list[int]) -> Tensor:
    """Distance in pixels between a pixel and its point's round trip through each source's depth map.

    Args:
        inverse_depths: [V, H, W] inverse depths, 0 = none.
        cameras: V cameras of the maps.
        reference: index of the view whose pixels are checked.
        sources: indices of the views to check against.

    Returns:
        [S, H, W] distances in pixels; inf where the source does not see the point.
    """
    ours = inverse_depths[reference]
    depths = torch.where(ours > 0, 1.0 / ours.clamp(min=1e-12), torch.zeros_like(ours))
    height, width = depths.shape
    size = depths.new_tensor([width, height])
    points = cameras[reference].backproject(depths[None]).reshape(-1, 3)
    home = cameras.pixel_centers()
    errors = []
    for source in sources:
        pixels, z = (value[0] for value in cameras[source].project(points))
        pixels = pixels.reshape(height, width, 2)
        grid = pixels / size * 2 - 1
        inside = (grid.abs() < 1).all(dim=-1) & (z.reshape(height, width) > 0)
        found = sample_without_mixing(inverse_depths[source], grid)
        rays = F.pad(pixels, (0, 1), value=1.0) @ torch.linalg.inv(cameras.Ks[source]).T
        local = rays / found.clamp(min=1e-12)[..., None]
        c2w = cameras.c2w[source]
        world = (local @ c2w[:3, :3].T + c2w[:3, 3]).reshape(-1, 3)
        back, depth_back = (value[0] for value in cameras[reference].project(world))
        distance = (back.reshape(height, width, 2) - home).norm(dim=-1)
        seen = inside & (found > 0) & (depth_back.reshape(height, width) > 0) & (depths > 0)
        errors.append(torch.where(seen, distance, torch.full_like(distance, torch.inf)))
    return torch.stack(errors)


def agreeing(errors: Tensor, disparities: Tensor) -> Tensor:
    """[H, W] bool: pixels on which the best source agrees, without islands that may be chance.

    Args:
        errors: [S, H, W] distances from `round_trip_errors`.
        disparities: [H, W] depths in pixels of displacement; neighbours in an island differ by at most one pixel.
    """
    agree = errors.amin(dim=0) < MAX_ROUND_TRIP
    # OpenCV's speckle filter uses 16-bit fixed point, usually with 4 fractional bits.
    fixed = torch.where(agree, disparities * 16 + 16, torch.zeros_like(disparities)).cpu().numpy().astype(np.int16)
    cv2.filterSpeckles(fixed, 0, MIN_ISLAND, 16)
    return torch.from_numpy(fixed > 0).to(agree.device)


def confidence(errors: Tensor, agree: Tensor, margin: Tensor, cost: Tensor) -> Tensor:
    """Confidence [H, W] in [0, 1] of one view's depths.

    Args:
        errors: [S, H, W] round trips of the final maps.
        agree: [H, W] bool, whether views agreed before holes were filled.
        margin: [H, W] how much worse the best rival depth matched, in units of the matching cost.
        cost: [H, W] matching cost at the final depth.

    A pixel on which views agree gets between `FILLED_CONFIDENCE` and 1: less for a larger round trip, for a rival depth
    that matches nearly as well (no texture, repetition), and for a poor match. Others get at most `FILLED_CONFIDENCE`,
    decreasing with the distance to the pixels they were filled from.
    """
    trip = torch.exp(-0.5 * (errors.amin(dim=0).clamp(max=1e3) / 0.75) ** 2)
    distinct = (margin / 0.3).clamp(0.0, 1.0)
    match = (1.0 - cost / 0.5).clamp(0.0, 1.0)
    supported = FILLED_CONFIDENCE + (1.0 - FILLED_CONFIDENCE) * (trip * distinct * match) ** (1 / 3)
    away = cv2.distanceTransform((~agree).cpu().numpy().astype(np.uint8), cv2.DIST_L2, 3)
    filled = FILLED_CONFIDENCE * torch.exp(-torch.from_numpy(away).to(errors.device) / FILL_REACH)
    return torch.where(agree, supported, filled)


def sample_without_mixing(values: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples [H, W] of a map; the nearest value where its neighbourhood varies by more than 5 %.

    Bilinear sampling across a depth edge would create a surface between the two.
    """

    def sample(of: Tensor, mode: str) -> Tensor:
        return F.grid_sample(of[None, None], grid[None], mode=mode, padding_mode="border", align_corners=False)[0, 0]

    spread = F.max_pool2d(values[None, None], 3, 1, 1) + F.max_pool2d(-values[None, None], 3, 1, 1)
    smooth = sample((spread[0, 0] < 0.05 * values).float(), "nearest") > 0.5
    return torch.where(smooth, sample(values, "bilinear"), sample(values, "nearest"))
