"""Passes over cost volumes [H, W, D] that read them once, on the CPU; other devices use tensor operations.

A volume has hundreds of megabytes, so the cost of a step is the number of its passes through memory.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.kernels.threads import in_pieces

_HALF, _TWO, _TINY = np.float32(0.5), np.float32(2), np.float32(1e-6)


def subpixel_argmin(costs: Tensor) -> Tensor:
    """[H, W] fractional index of the minimum along the last axis of [H, W, D], by a parabola through three values."""
    if not _compiled(costs):
        return subpixel_argmin_torch(costs)
    positions = torch.empty(costs.shape[:2])
    volume, into = costs.contiguous().numpy(), positions.numpy()
    in_pieces(lambda first, last: _subpixel_argmin(volume, into, first, last), len(volume))
    return positions


def subpixel_argmin_torch(costs: Tensor) -> Tensor:
    """`subpixel_argmin` as tensor operations, on any device."""
    best = costs.argmin(dim=-1)
    middle = best.clamp(1, costs.shape[-1] - 2)
    left, centre, right = (costs.gather(-1, (middle + o)[..., None])[..., 0] for o in (-1, 0, 1))
    offset = (left - right) / (2 * (left - 2 * centre + right)).clamp(min=1e-6)
    return best + torch.where(best == middle, offset.clamp(-0.5, 0.5), torch.zeros_like(offset))


def rival_margin(costs: Tensor, spacing: float, near: float = 2.0) -> Tensor:
    """[H, W] cost of the best rival minus the winner's, for costs [H, W, D] on planes `spacing` pixels apart.

    Rivals are the hypotheses more than `near` pixels from the winner. 0 if there are none.
    """
    reach = max(round(near / spacing), 1)
    if not _compiled(costs):
        return rival_margin_torch(costs, reach)
    margin = torch.empty(costs.shape[:2])
    volume, into = costs.contiguous().numpy(), margin.numpy()
    in_pieces(lambda first, last: _rival_margin(volume, reach, into, first, last), len(volume))
    return margin


def rival_margin_torch(costs: Tensor, reach: int) -> Tensor:
    """`rival_margin` as tensor operations, on any device; `reach` is `near` in planes."""
    best, index = costs.min(dim=-1)
    rivals = costs.clone()
    for step in range(-reach, reach + 1):
        rivals.scatter_(-1, (index + step).clamp(0, costs.shape[-1] - 1)[..., None], torch.inf)
    margin = rivals.amin(dim=-1) - best
    return torch.where(margin.isfinite(), margin, torch.zeros_like(margin))


def in_bytes(costs: Tensor) -> Tensor:
    """Quantise costs in [0, 1] to uint8, 255 for 1."""
    if not _compiled(costs):
        return (costs * 255).round_().to(torch.uint8)
    stored = torch.empty(costs.shape, dtype=torch.uint8)
    volume, into = costs.contiguous().numpy(), stored.numpy()
    in_pieces(lambda first, last: _in_bytes(volume, into, first, last), len(volume))
    return stored


def _compiled(costs: Tensor) -> bool:
    return costs.device.type == "cpu" and costs.dtype == torch.float32


@njit(cache=True, nogil=True, error_model="numpy")
def _subpixel_argmin(costs, positions, first, last):  # pragma: no cover - compiled
    count = costs.shape[2]
    for row in range(first, last):
        for column in range(costs.shape[1]):
            line = costs[row, column]
            best = _argmin(line)
            position = np.float32(best)
            if 0 < best < count - 1:
                left, right = line[best - 1], line[best + 1]
                curvature = max(_TWO * (left - _TWO * line[best] + right), _TINY)
                position += min(max((left - right) / curvature, -_HALF), _HALF)
            positions[row, column] = position


@njit(cache=True, nogil=True)
def _rival_margin(costs, reach, margin, first, last):  # pragma: no cover - compiled
    count = costs.shape[2]
    for row in range(first, last):
        for column in range(costs.shape[1]):
            line = costs[row, column]
            best = _argmin(line)
            rival = np.float32(np.inf)
            for k in range(best - reach):
                rival = min(rival, line[k])
            for k in range(best + reach + 1, count):
                rival = min(rival, line[k])
            margin[row, column] = rival - line[best] if rival < np.inf else np.float32(0)


@njit(cache=True, nogil=True)
def _argmin(line):  # pragma: no cover - compiled
    """Index of the first of the smallest values."""
    best, lowest = 0, line[0]
    for k in range(1, len(line)):
        if line[k] < lowest:
            best, lowest = k, line[k]
    return best


@njit(cache=True, nogil=True)
def _in_bytes(costs, stored, first, last):  # pragma: no cover - compiled
    scale = np.float32(255)
    for row in range(first, last):
        line, into = costs[row].ravel(), stored[row].ravel()
        for k in range(len(line)):
            into[k] = np.uint8(np.rint(line[k] * scale))
