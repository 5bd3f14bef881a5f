"""Semi-global aggregation of a matching cost volume (Hirschmueller, PAMI 2008).

The volume is large and memory slow, so it is read only twice: once from the top left to the bottom right for four
scan directions, and once backwards for the other four. The two passes run in parallel and their sums are added last,
which gives the same bits with any number of threads.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.kernels.simd import LANES, lanes, load, smaller, smallest, store
from cus.kernels.threads import in_pieces

# Steps (dy, dx) of the scan directions: those of the forward pass, then those of the backward pass.
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, -1), (-1, 0), (-1, -1), (-1, 1))
_BIG, _ZERO = np.float32(1e9), np.float32(0)


def aggregate(costs: Tensor, small_jump: float, large_jumps: Tensor) -> Tensor:
    """Mean of the path costs over the eight scan directions.

    Args:
        costs: [H, W, D] float32 matching cost of each hypothesis.
        small_jump: penalty for a step of one hypothesis between neighbours (P1).
        large_jumps: [H, W] penalty for any larger step into a pixel (P2), at least `small_jump`.

    Returns:
        [H, W, D] float32.
    """
    if costs.ndim != 3 or large_jumps.shape != costs.shape[:2]:
        raise ValueError(f"costs must be [H, W, D] and large_jumps [H, W], got {costs.shape}, {large_jumps.shape}")
    volume = np.ascontiguousarray(costs.cpu().numpy(), dtype=np.float32)
    penalties = np.ascontiguousarray(large_jumps.cpu().numpy(), dtype=np.float32)
    sums = np.empty_like(volume), np.empty_like(volume)

    def scan(first: int, last: int) -> None:
        for way in range(first, last):
            _scan(volume, np.float32(small_jump), penalties, way == 1, sums[way])

    in_pieces(scan, 2)
    in_pieces(lambda first, last: _mean(*sums, first, last), len(volume))
    return torch.from_numpy(sums[0]).to(costs.device)


@njit(cache=True, nogil=True)
def _scan(costs, small_jump, large_jumps, backwards, total):  # pragma: no cover - compiled
    """Sum the path costs from the left, from above and from the two corners above; reversed if backwards.

    A path's costs stay in one slot: one slot for rows, one per column, one per diagonal (modulo the width, because
    diagonals that leave the picture make room for those that enter) and one per antidiagonal. Slots are whole vectors;
    between them are vectors of huge costs, neighbours of the first and the last hypothesis.
    """
    height, width, count = costs.shape
    length = -(-count // LANES) * LANES
    stride = length + LANES
    paths, lowest = np.full(LANES + (1 + 3 * width) * stride, _BIG), np.empty(1 + 3 * width, dtype=np.float32)
    for slot in range(1 + 3 * width):
        _begin(paths, lowest, slot, stride, length)
    own, sums = np.full(length, _BIG), np.empty(length, dtype=np.float32)
    for row in range(height):
        y = height - 1 - row if backwards else row
        _begin(paths, lowest, 0, stride, length)
        _begin(paths, lowest, 1 + width + (width - row % width) % width, stride, length)
        _begin(paths, lowest, 1 + 2 * width + (width - 1 + row) % width, stride, length)
        for column in range(width):
            x = width - 1 - column if backwards else column
            for k in range(count):
                own[k] = costs[y, x, k]
            diagonal = 1 + width + (column - row % width + width) % width
            antidiagonal = 1 + 2 * width + (column + row) % width
            slots = 0, 1 + column, diagonal, antidiagonal
            _step(paths, lowest, slots, stride, own, small_jump, large_jumps[y, x], sums)
            for k in range(count):
                total[y, x, k] = sums[k]


@njit(cache=True, nogil=True, forceinline=True)
def _begin(paths, lowest, slot, stride, length):  # pragma: no cover - compiled
    """Start a path in a slot."""
    first = LANES + slot * stride
    paths[first : first + length] = _ZERO
    lowest[slot] = _ZERO


@njit(cache=True, nogil=True, forceinline=True)
def _step(paths, lowest, slots, stride, own, small_jump, large_jump, sums):  # pragma: no cover - compiled
    """Advance the paths of four slots to a pixel with costs `own`; `sums` are those of the four."""
    a, b, c, d = (
        LANES + slots[0] * stride,
        LANES + slots[1] * stride,
        LANES + slots[2] * stride,
        LANES + slots[3] * stride,
    )
    least = lowest[slots[0]], lowest[slots[1]], lowest[slots[2]], lowest[slots[3]]
    jumps = least[0] + large_jump, least[1] + large_jump, least[2] + large_jump, least[3] + large_jump
    # Read the hypotheses before those of a vector before overwriting the previous vector.
    a_left, b_left, c_left, d_left = load(paths, a - 1), load(paths, b - 1), load(paths, c - 1), load(paths, d - 1)
    a_low, b_low, c_low, d_low = lanes(_BIG), lanes(_BIG), lanes(_BIG), lanes(_BIG)
    for k in range(0, len(own), LANES):
        cost = load(own, k)
        a_costs = _advanced(paths, a + k, a_left, cost, small_jump, jumps[0], least[0])
        b_costs = _advanced(paths, b + k, b_left, cost, small_jump, jumps[1], least[1])
        c_costs = _advanced(paths, c + k, c_left, cost, small_jump, jumps[2], least[2])
        d_costs = _advanced(paths, d + k, d_left, cost, small_jump, jumps[3], least[3])
        ahead = k + LANES - 1
        a_left, b_left = load(paths, a + ahead), load(paths, b + ahead)
        c_left, d_left = load(paths, c + ahead), load(paths, d + ahead)
        store(paths, a + k, a_costs)
        store(paths, b + k, b_costs)
        store(paths, c + k, c_costs)
        store(paths, d + k, d_costs)
        a_low, b_low = smaller(a_low, a_costs), smaller(b_low, b_costs)
        c_low, d_low = smaller(c_low, c_costs), smaller(d_low, d_costs)
        store(sums, k, (a_costs + b_costs) + (c_costs + d_costs))
    lowest[slots[0]], lowest[slots[1]] = smallest(a_low), smallest(b_low)
    lowest[slots[2]], lowest[slots[3]] = smallest(c_low), smallest(d_low)


@njit(cache=True, nogil=True, forceinline=True)
def _advanced(paths, place, left, cost, small_jump, jump, lowest):  # pragma: no cover - compiled
    """Path costs of the sixteen hypotheses at a place one pixel further."""
    stay, right = load(paths, place), load(paths, place + 1)
    return cost + (smaller(smaller(stay, smaller(left, right) + small_jump), jump) - lowest)


@njit(cache=True, nogil=True)
def _mean(first_sums, second_sums, first, last):  # pragma: no cover - compiled
    """Replace the rows first to last of the first sums by the mean over both."""
    factor = np.float32(0.125)
    for row in range(first, last):
        line, other = first_sums[row].ravel(), second_sums[row].ravel()
        for k in range(len(line)):
            line[k] = (line[k] + other[k]) * factor
