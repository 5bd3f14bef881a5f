"""Depth of pixels that no other view confirms: occluded, outside the others' pictures, or without texture."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from cus.estimators.plane_sweep import Sweep, SweepSettings, aggregate_costs, subpixel_argmin

FREE_SPACE_SLACK = 1.04  # how much nearer than a confirmed surface a point must be to contradict it
FREE_SPACE_PENALTY = 0.3  # in units of the matching cost
MEDIAN_WINDOW = 7
SMOOTH_CONTRAST = 0.05  # difference of brightness at which a neighbour hardly counts


def fill_unconfirmed(
    sweep: Sweep,
    planes: Tensor,
    costs: Tensor,
    agree: Tensor,
    source_maps: Tensor,
    source_agrees: Tensor,
    settings: SweepSettings,
) -> Tensor:
    """Plane positions [H, W] with unconfirmed pixels filled from their surroundings.

    Inside the view of the sources, an unconfirmed pixel is usually occluded there: its costs are meaningless, so
    smoothness along image edges and the free space seen by the sources decide. Outside, nothing constrains it, and the
    confirmed depths are continued smoothly.

    Args:
        sweep: reference view and its S sources.
        planes: [D] inverse depths.
        costs: [H, W, D] matching costs; changed in place.
        agree: [H, W] bool, confirmed pixels.
        source_maps: [S, H, W] inverse depths of the sources.
        source_agrees: [S, H, W] bool, confirmed pixels of the sources.
        settings: settings of the aggregation.
    """
    pixels = (~agree).flatten().nonzero()[:, 0]
    costs.flatten(0, 1)[pixels] = free_space_costs(sweep, planes, pixels, source_maps, source_agrees)
    positions = subpixel_argmin(aggregate_costs(costs, sweep, planes, settings))
    median = cv2.medianBlur(positions.round().cpu().numpy().astype(np.uint8), MEDIAN_WINDOW)
    positions = torch.where(agree, positions, torch.from_numpy(median).to(positions))
    if not bool(agree.any()):
        return positions
    beyond = ~agree & ~_seen_by_any(sweep, planes, positions)
    return torch.where(beyond, continue_smoothly(positions, agree), positions)


def continue_smoothly(values: Tensor, known: Tensor) -> Tensor:
    """[H, W] values with unknown pixels filled from a pyramid of means of known ones (push and pull).

    Args:
        values: [H, W] values to continue.
        known: [H, W] bool, at least one True.
    """
    if min(values.shape) <= 1 or bool(known.all()):
        mean = values[known].mean()
        return torch.where(known, values, mean)
    weight = known.to(values)[None, None]
    size = ((values.shape[0] + 1) // 2, (values.shape[1] + 1) // 2)
    share = F.adaptive_avg_pool2d(weight, size)
    coarse = F.adaptive_avg_pool2d(values[None, None] * weight, size) / share.clamp(min=1e-6)
    coarse = continue_smoothly(coarse[0, 0], share[0, 0] > 0)
    pulled = F.interpolate(coarse[None, None], size=values.shape, mode="bilinear", align_corners=False)[0, 0]
    return torch.where(known, values, pulled)


def smooth_surfaces(values: Tensor, gray: Tensor, weights: Tensor, reach: float, rounds: int = 2) -> Tensor:
    """[H, W] values averaged over 5x5 neighbours with similar value, similar brightness and high weight.

    Removes the noise of matching, which grows with depth over baseline, and keeps every step larger than `reach`.

    Args:
        values: [H, W] values to smooth.
        gray: [H, W] picture.
        weights: [H, W] weights, >= 0.
        reach: difference of values above which two pixels belong to different surfaces.
        rounds: number of repetitions.
    """
    height, width = values.shape
    pad_gray, pad_weights = (F.pad(v[None, None], (2,) * 4, mode="replicate")[0, 0] for v in (gray, weights))
    for _ in range(rounds):
        padded = F.pad(values[None, None], (2,) * 4, mode="replicate")[0, 0]
        total, norm = torch.zeros_like(values), torch.zeros_like(values)
        for dy in range(5):
            for dx in range(5):
                there = slice(dy, dy + height), slice(dx, dx + width)
                alike = torch.exp(-((pad_gray[there] - gray) / SMOOTH_CONTRAST).square()) * (pad_weights[there] + 1e-3)
                alike = alike * ((padded[there] - values).abs() < reach)
                total += alike * padded[there]
                norm += alike
        values = total / norm
    return values


def _seen_by_any(sweep: Sweep, planes: Tensor, positions: Tensor) -> Tensor:
    inverse = planes[0] + positions * (planes[1] - planes[0])
    height, width = positions.shape
    seen = torch.zeros_like(positions, dtype=torch.bool)
    for rays, shift in zip(sweep.rays, sweep.shifts, strict=True):
        x, y, z = rays + shift[:, None, None] * inverse
        seen |= (z > 0) & (x > 0) & (y > 0) & (x < width * z) & (y < height * z)
    return seen


def free_space_costs(
    sweep: Sweep, planes: Tensor, pixels: Tensor, source_maps: Tensor, source_agrees: Tensor
) -> Tensor:
    """Penalties on the hypotheses of pixels that no view confirms: [N, D].

    A point in front of a surface that a source sees there would have hidden that surface: it gets
    `FREE_SPACE_PENALTY`. A point behind it is hidden itself, which is possible.

    Args:
        sweep: reference view and its S sources.
        planes: [D] inverse depths.
        pixels: [N] flat indices of these pixels of the reference.
        source_maps: [S, H, W] inverse depths of the sources.
        source_agrees: [S, H, W] bool, confirmed pixels of the sources.
    """
    costs = np.zeros((len(pixels), len(planes)), dtype=np.float32)
    chosen = pixels.cpu().numpy()
    values = planes.cpu().numpy()
    for source, (inverse, agrees) in enumerate(zip(source_maps, source_agrees, strict=True)):
        surface = torch.where(agrees, inverse, torch.full_like(inverse, torch.inf)).cpu().numpy()
        rays = sweep.rays[source].flatten(1).cpu().numpy()
        _add_violations(costs, chosen, values, rays, sweep.shifts[source].cpu().numpy(), surface)
    return torch.from_numpy(costs).to(planes.device)


@njit(cache=True, nogil=True)
def _add_violations(costs, pixels, planes, rays, shift, surface):  # pragma: no cover - compiled
    height, width = surface.shape
    slack, penalty = np.float32(FREE_SPACE_SLACK), np.float32(FREE_SPACE_PENALTY)
    for n in range(len(pixels)):
        pixel = pixels[n]
        for index in range(len(planes)):
            plane = planes[index]
            z = rays[2, pixel] + shift[2] * plane
            if z <= 1e-6:
                continue
            x = (rays[0, pixel] + shift[0] * plane) / z
            y = (rays[1, pixel] + shift[1] * plane) / z
            if x <= 0 or y <= 0 or x >= width or y >= height:
                continue
            # z is the ratio of the depths in source and reference, so plane / z is the inverse depth in the source.
            if plane / z > slack * surface[int(y), int(x)]:
                costs[n, index] += penalty
