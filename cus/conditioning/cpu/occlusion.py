"""Dilation of sparse foreground on the CPU (Eq. 5); semantics are those of `cus.conditioning.occlusion`."""

from typing import NamedTuple

import numpy as np
from numba import njit

from cus.conditioning.cpu.warp import EMPTY, winner
from cus.conditioning.occlusion import DENSE_SPACING, LARGEST_RADIUS

_DENSE, _TWO = np.float32(DENSE_SPACING), np.float32(2)


class Samples(NamedTuple):
    """What a reference knows of its N surface samples.

    Attributes:
        hides: Whether the point is sure enough to suppress what lies behind it [N] bool.
        spacing: Distance between samples of its surface in reference pixels [N] float32.
        depths: Z-depths in the reference [N] float32.
    """

    hides: np.ndarray
    spacing: np.ndarray
    depths: np.ndarray


@njit(cache=True, nogil=True, error_model="numpy")
def dilate(keys, points, samples, magnification, dilated):  # pragma: no cover - compiled
    """Lower `dilated` [H, W] to the nearest depth among the sparse points of a z-buffer whose kernel reaches a pixel.

    A kernel grows with the spacing of the points, so that however sparse they are each pixel is reached by few.

    Args:
        keys: [H, W] z-buffer of the reference's reliable points.
        points: where the reference's points lie in the target.
        samples: the reference's.
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
