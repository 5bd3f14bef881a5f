"""Sparse foreground and its dilation on the CPU (Eq. 5); semantics match `cus.conditioning.occlusion`."""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.cpu.warp import EMPTY, winner
from cus.conditioning.occlusion import DENSE_SPACING, LARGEST_RADIUS, LARGEST_SPACING
from cus.conditioning.reliability import EDGE_THRESHOLD
from cus.kernels.threads import in_pieces

_DENSE, _EDGE, _TWO, _ZERO = np.float32(DENSE_SPACING), np.float32(EDGE_THRESHOLD), np.float32(2), np.float32(0)


class Samples(NamedTuple):
    """Properties of a reference's N surface samples.

    Attributes:
        hides: [N] bool, whether the point is certain enough to suppress what lies behind it.
        spacing: [N] float32 distance between samples of its surface, in reference pixels.
        depths: [N] float32 z-depths in the reference.
    """

    hides: np.ndarray
    spacing: np.ndarray
    depths: np.ndarray


def sample_spacing_cpu(depths: Tensor) -> Tensor:
    """`cus.conditioning.occlusion.sample_spacing` as a kernel: [H, W] -> [H, W]."""
    spacing = torch.zeros(depths.shape)
    samples, into = depths.detach().contiguous().numpy(), spacing.numpy()
    in_pieces(lambda first, last: _sample_spacing(samples, into, first, last), len(samples))
    return spacing


@njit(cache=True, nogil=True)
def _sample_spacing(depths, spacing, first, last):  # pragma: no cover - compiled
    """Fill the rows first to last of `spacing`."""
    for row in range(first, last):
        for column in range(depths.shape[1]):
            if not depths[row, column] > _ZERO:
                continue
            company = 0
            for distance in range(1, LARGEST_SPACING + 1):
                company += _company(depths, row, column, distance)
                if company >= 2:
                    spacing[row, column] = distance
                    break


@njit(cache=True, nogil=True)
def _company(depths, row, column, distance):  # pragma: no cover - compiled
    """Number of samples of a pixel's surface on the square ring around it with half side `distance`."""
    height, width = depths.shape
    own = depths[row, column]
    company = 0
    for i in range(max(row - distance, 0), min(row + distance + 1, height)):
        step = 1 if abs(i - row) == distance else 2 * distance
        for j in range(column - distance, column + distance + 1, step):
            if 0 <= j < width:
                other = depths[i, j]
                company += other > _ZERO and abs(other - own) <= _EDGE * min(other, own)
    return company


@njit(cache=True, nogil=True, error_model="numpy")
def dilate(keys, points, samples, magnification, dilated):  # pragma: no cover - compiled
    """Lower `dilated` [H, W] to the nearest depth among the sparse points of a z-buffer whose kernels reach a pixel.

    A kernel grows with the spacing of the points, so only a few reach each pixel however sparse the points are.

    Args:
        keys: [H, W] z-buffer of the reference's reliable points.
        points: positions of the reference's points in the target.
        samples: properties of the reference's points.
        magnification: target pixels per reference pixel of a surface at the same depth, float32.
        dilated: [H, W], infinity where no kernel has reached yet.
    """
    height, width = keys.shape
    for row in range(height):
        for column in range(width):
            key = keys[row, column]
            if key == EMPTY:
                continue
            point = winner(key)
            if not samples.hides[point]:
                continue
            z = points.depths[point]
            spacing = samples.spacing[point] * (magnification * samples.depths[point]) / z
            if not spacing > _DENSE:
                continue
            radius = int(min(np.ceil(spacing / _TWO), LARGEST_RADIUS))
            left, right = max(column - radius, 0), min(column + radius + 1, width)
            for line in range(max(row - radius, 0), min(row + radius + 1, height)):
                for place in range(left, right):
                    dilated[line, place] = min(dilated[line, place], z)
