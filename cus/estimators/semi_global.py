"""Semi-global aggregation of a matching cost volume (Hirschmueller, PAMI 2008)."""

import numpy as np
import torch
from numba import njit
from torch import Tensor

# Steps (dy, dx) of the eight scan directions.
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))


def aggregate(costs: Tensor, small_jump: float, large_jumps: Tensor, directions: int = 8) -> Tensor:
    """Sum of the path costs over the scan directions, divided by their number.

    Args:
        costs: [H, W, D] float32 matching cost of each hypothesis.
        small_jump: penalty for a step of one hypothesis between neighbours (P1).
        large_jumps: [H, W] penalty for any larger step into a pixel (P2), at least `small_jump`.
        directions: 4 (rows and columns) or 8 (diagonals too).

    Returns:
        [H, W, D] float32.
    """
    if costs.ndim != 3 or large_jumps.shape != costs.shape[:2]:
        raise ValueError(f"costs must be [H, W, D] and large_jumps [H, W], got {costs.shape}, {large_jumps.shape}")
    if directions not in (4, 8):
        raise ValueError(f"directions must be 4 or 8, got {directions}")
    volume = np.ascontiguousarray(costs.cpu().numpy(), dtype=np.float32)
    penalty = np.ascontiguousarray(large_jumps.cpu().numpy(), dtype=np.float32)
    total = np.zeros_like(volume)
    for dy, dx in DIRECTIONS[:directions]:
        _scan(volume, np.float32(small_jump), penalty, dy, dx, total)
    return torch.from_numpy(total).to(costs.device).div_(directions)


@njit(cache=True, fastmath=True, nogil=True)
def _scan(costs, small_jump, large_jumps, dy, dx, total):  # pragma: no cover - compiled
    height, width, count = costs.shape
    previous = np.zeros((width + 2, count + 2), dtype=np.float32)
    current = np.zeros((width + 2, count + 2), dtype=np.float32)
    previous_min = np.zeros(width + 2, dtype=np.float32)
    current_min = np.zeros(width + 2, dtype=np.float32)
    big = np.float32(1e9)
    for buffer in (previous, current):
        buffer[:, 0] = big
        buffer[:, count + 1] = big
    for row in range(height):
        y = row if dy >= 0 else height - 1 - row
        if dy == 0:
            current[:, 1 : count + 1] = 0.0
            current_min[:] = 0.0
        for column in range(width):
            x = column if dx >= 0 else width - 1 - column
            if dy == 0:
                source, source_min = current[x + 1 - dx], current_min[x + 1 - dx]
            else:
                source, source_min = previous[x + 1 - dx], previous_min[x + 1 - dx]
            jump = source_min + large_jumps[y, x]
            target = current[x + 1]
            lowest = big
            for k in range(count):
                best = min(source[k + 1], min(source[k], source[k + 2]) + small_jump)
                value = costs[y, x, k] + min(best, jump) - source_min
                target[k + 1] = value
                total[y, x, k] += value
                lowest = min(lowest, value)
            current_min[x + 1] = lowest
        if dy != 0:
            previous, current = current, previous
            previous_min, current_min = current_min, previous_min
