"""Planes fitted to a depth map on the CPU: `cus.conditioning.fused.planes` as kernels."""

import math
from functools import partial

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.fused.planes import (
    CONTRAST,
    INTERVAL,
    JUMP,
    MOMENTS,
    NOISE,
    PASSES,
    RIDGE,
    STEP,
    WINDOWS,
    pass_width,
)
from cus.kernels.threads import in_pieces


def regressed_cpu(inverse: Tensor, information: Tensor, colors: Tensor) -> Tensor:
    """`cus.conditioning.fused.planes.regressed` for float64 maps and a float32 picture."""
    q, weights = inverse.contiguous().numpy(), information.contiguous().numpy()
    picture = colors.contiguous().numpy()
    h, w = (-(-side // STEP) for side in q.shape)
    own, moments, keeps = np.empty((h, w)), np.empty((h, w, MOMENTS)), np.zeros((4, h, w))
    in_pieces(partial(_moments, q, weights, own, moments), h)
    in_pieces(partial(_affinities, own, picture, keeps), h)
    low, high, planes = np.full((h, w), -np.inf), np.full((h, w), np.inf), np.zeros((h, w, 3))
    growing = own > 0
    planes[..., 0] = own
    for window in WINDOWS:
        means = _filtered(moments, keeps, window)
        in_pieces(partial(_grow, means, own, window, low, high, growing, planes), h)
    found = torch.empty_like(inverse)
    in_pieces(partial(_spread, q, own, planes, found.numpy()), h)
    return found


def _filtered(moments: np.ndarray, keeps: np.ndarray, window: float) -> np.ndarray:
    """[h, w, 9] means of the moments over windows of a standard deviation."""
    keep_across, keep_down, contrast_across, contrast_down = keeps
    means = moments.copy()
    for index in range(PASSES):
        rate = -math.sqrt(2) / pass_width(window, index)
        across = keep_across * np.exp(rate * (1 + window * contrast_across))
        down = keep_down * np.exp(rate * (1 + window * contrast_down))
        in_pieces(partial(_across, means, across), means.shape[0])
        in_pieces(partial(_down, means, down), means.shape[1])
    return means


@njit(cache=True, nogil=True, error_model="numpy")
def _moments(inverse, weights, own, moments, first, last):  # pragma: no cover - compiled
    """Fill the rows first to last of a grid's own values and moments."""
    height, width = inverse.shape
    h, w = own.shape
    for i in range(first, last):
        for j in range(w):
            q0 = inverse[STEP * i, STEP * j]
            own[i, j] = q0
            total = np.zeros(MOMENTS)
            for row in range(STEP * i, min(STEP * i + STEP, height)):
                for column in range(STEP * j, min(STEP * j + STEP, width)):
                    q = inverse[row, column]
                    if q <= 0 or abs(q - q0) > JUMP * q0:
                        continue
                    weight = weights[row, column]
                    x, y = (column + 0.5) / STEP - 0.5 * w, (row + 0.5) / STEP - 0.5 * h
                    total[0] += weight
                    total[1] += weight * x
                    total[2] += weight * y
                    total[3] += weight * x * x
                    total[4] += weight * x * y
                    total[5] += weight * y * y
                    total[6] += weight * q
                    total[7] += weight * x * q
                    total[8] += weight * y * q
            moments[i, j] = total


@njit(cache=True, nogil=True, error_model="numpy")
def _affinities(own, colors, keeps, first, last):  # pragma: no cover - compiled
    """Fill the rows first to last of [4, h, w]: keep across and down, contrast across and down."""
    height, width = colors.shape[1:]
    w = own.shape[1]
    for i in range(first, last):
        for j in range(w):
            for axis in range(2):
                before_i, before_j = (i, j - 1) if axis == 0 else (i - 1, j)
                if before_i < 0 or before_j < 0:
                    continue
                nearer = max(own[i, j], own[before_i, before_j])
                change = abs(own[i, j] - own[before_i, before_j]) / max(nearer, 1e-12)
                if min(own[i, j], own[before_i, before_j]) > 0 and change < 2 * JUMP:
                    keeps[axis, i, j] = math.exp(-((change / JUMP) ** 2))
                contrast = 0.0
                for k in range(3):
                    here, there = np.float32(0), np.float32(0)
                    for dy in range(STEP):
                        for dx in range(STEP):
                            here += colors[k, min(STEP * i + dy, height - 1), min(STEP * j + dx, width - 1)]
                            there += colors[
                                k, min(STEP * before_i + dy, height - 1), min(STEP * before_j + dx, width - 1)
                            ]
                    contrast += abs(here - there) / (STEP * STEP)
                keeps[2 + axis, i, j] = contrast / CONTRAST


@njit(cache=True, nogil=True, error_model="numpy")
def _across(means, shares, first, last):  # pragma: no cover - compiled
    """Filter the rows first to last of [h, w, 9] along the rows, in place."""
    w = means.shape[1]
    for i in range(first, last):
        for j in range(1, w):
            share = shares[i, j]
            for k in range(MOMENTS):
                means[i, j, k] += share * (means[i, j - 1, k] - means[i, j, k])
        for j in range(w - 2, -1, -1):
            share = shares[i, j + 1]
            for k in range(MOMENTS):
                means[i, j, k] += share * (means[i, j + 1, k] - means[i, j, k])


@njit(cache=True, nogil=True, error_model="numpy")
def _down(means, shares, first, last):  # pragma: no cover - compiled
    """Filter the columns first to last of [h, w, 9] along the columns, in place."""
    h = means.shape[0]
    for i in range(1, h):
        for j in range(first, last):
            share = shares[i, j]
            for k in range(MOMENTS):
                means[i, j, k] += share * (means[i - 1, j, k] - means[i, j, k])
    for i in range(h - 2, -1, -1):
        for j in range(first, last):
            share = shares[i + 1, j]
            for k in range(MOMENTS):
                means[i, j, k] += share * (means[i + 1, j, k] - means[i, j, k])


@njit(cache=True, nogil=True, error_model="numpy")
def _grow(means, own, window, low, high, growing, planes, first, last):  # pragma: no cover - compiled
    """Solve the planes of one window in the rows first to last, and take those within all bounds so far."""
    h, w = own.shape
    for i in range(first, last):
        for j in range(w):
            weight = means[i, j, 0]
            if not growing[i, j]:
                continue
            if weight <= 0:
                growing[i, j] = False
                continue
            mx, my, mq = means[i, j, 1] / weight, means[i, j, 2] / weight, means[i, j, 6] / weight
            cxx = means[i, j, 3] / weight - mx * mx + RIDGE
            cxy = means[i, j, 4] / weight - mx * my
            cyy = means[i, j, 5] / weight - my * my + RIDGE
            cxq, cyq = means[i, j, 7] / weight - mx * mq, means[i, j, 8] / weight - my * mq
            determinant = cxx * cyy - cxy * cxy
            right, down = (cyy * cxq - cxy * cyq) / determinant, (cxx * cyq - cxy * cxq) / determinant
            value = mq + right * (j + 0.5 - 0.5 * w - mx) + down * (i + 0.5 - 0.5 * h - my)
            error = INTERVAL * NOISE * own[i, j] / math.sqrt(max(weight * 2 * window * window, 1e-12))
            low[i, j], high[i, j] = max(low[i, j], value - error), min(high[i, j], value + error)
            if low[i, j] <= high[i, j] and value > 0:
                planes[i, j, 0], planes[i, j, 1], planes[i, j, 2] = value, right, down
            else:
                growing[i, j] = False


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(inverse, own, planes, found, first, last):  # pragma: no cover - compiled
    """Fill the rows of the pixels that belong to rows first to last of the grid."""
    height, width = inverse.shape
    for row in range(STEP * first, min(STEP * last, height)):
        i = row // STEP
        dy = (row + 0.5) / STEP - (i + 0.5)
        for column in range(width):
            j = column // STEP
            q, q0 = inverse[row, column], own[i, j]
            value = planes[i, j, 0] + planes[i, j, 1] * ((column + 0.5) / STEP - (j + 0.5)) + planes[i, j, 2] * dy
            found[row, column] = value if q > 0 and abs(q - q0) <= JUMP * q0 and value > 0 else q
