"""Back-projection on the CPU: `cus.conditioning.fused.sharpening.back_projected` as Numba kernels."""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.cpu.sampling import REASSOCIATED
from cus.conditioning.fused.blend import Layer
from cus.conditioning.fused.sharpening import (
    LEAST_MAGNIFICATION,
    LEAST_PIXELS,
    LEAST_WEIGHT,
    RELAXATION,
    ROUNDS,
    without_grid,
)
from cus.conditioning.fused.views import Placement, View
from cus.conditioning.warp import TIE

_LEAST_PIXELS, _LEAST_WEIGHT, _TIE = LEAST_PIXELS, np.float32(LEAST_WEIGHT), np.float32(TIE)
# Margin around the visible pixels, for the interpolation kernel.
_MARGIN = 3


def back_projected_cpu(
    views: Sequence[View],
    places: Sequence[Placement],
    layers: Sequence[Layer],
    weights: Tensor,
    image: Tensor,
    mask: Tensor,
    magnification: float,
) -> Tensor:
    """`back_projected` for float32 pictures; keeps only the part of each photograph that the target sees."""
    if magnification < LEAST_MAGNIFICATION:
        return image
    cells = [
        _Cells(view, place.gain, layer, share, mask)
        for view, place, layer, share in zip(views, places, layers, weights, strict=True)
    ]
    result = image.clone()
    for part, rounds in enumerate(ROUNDS):
        result = without_grid(result, magnification) if part else result
        for _ in range(rounds):
            step = np.zeros(tuple(image.shape), np.float32)
            for own in cells:
                own.add_residual(result.numpy(), step)
            result += RELAXATION * torch.from_numpy(step)
    return result


class _Cells:
    """The part of a reference that a target sees, and the positions of the target's pixels in it."""

    def __init__(self, view: View, gain: Tensor, layer: Layer, weights: Tensor, mask: Tensor) -> None:
        photo = view.levels[0]
        h, w = photo.shape[-2:]
        self.scales = np.float32(view.photo_scale[0]), np.float32(view.photo_scale[1])
        self.x, self.y, self.weights = layer.x.numpy(), layer.y.numpy(), weights.numpy()
        self.used = (mask & (weights > LEAST_WEIGHT)).numpy()
        left, top, right, bottom = _bounds(self.x, self.y, self.used, *self.scales, w, h)
        left, top = max(left - _MARGIN, 0), max(top - _MARGIN, 0)
        right, bottom = min(right + 1 + _MARGIN, w), min(bottom + 1 + _MARGIN, h)
        self.origin = left, top
        part = photo[:, top : max(bottom, top + 1), left : max(right, left + 1)].float()
        scale = 1 / 255 if photo.dtype == torch.uint8 else 1.0
        self.photo = (part * (gain * scale)[:, None, None]).contiguous().numpy()
        self.counts = np.zeros(self.photo.shape[1:], np.float32)
        self.sums = np.zeros_like(self.photo)
        self.size = w, h

    def add_residual(self, image: np.ndarray, step: np.ndarray) -> None:
        """Add the weighted residual of the picture [3, H, W] to `step`."""
        place = self.x, self.y, *self.scales, *self.origin, *self.size
        _residual(image, self.used, *place, self.photo, self.counts, self.sums)
        _spread(self.sums, self.weights, *place[:6], step)


@njit(cache=True, nogil=True)
def _bounds(xs, ys, used, scale_x, scale_y, w, h):  # pragma: no cover - compiled
    left, top, right, bottom = w - 1, h - 1, 0, 0
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            if used[row, column]:
                j = min(int(xs[row, column] * scale_x + _TIE), w - 1)
                i = min(int(ys[row, column] * scale_y + _TIE), h - 1)
                left, right, top, bottom = min(left, j), max(right, j), min(top, i), max(bottom, i)
    return left, top, right, bottom


@njit(cache=True, nogil=True, error_model="numpy")
def _residual(
    image, used, xs, ys, scale_x, scale_y, left, top, w, h, photo, counts, sums
):  # pragma: no cover - compiled
    """Fill `sums` [3, h', w'] with the photograph minus the means of the target's pixels."""
    counts[:] = 0
    sums[:] = 0
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            if used[row, column]:
                j = min(int(xs[row, column] * scale_x + _TIE), w - 1) - left
                i = min(int(ys[row, column] * scale_y + _TIE), h - 1) - top
                counts[i, j] += 1
                for k in range(3):
                    sums[k, i, j] += image[k, row, column]
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            for k in range(3):
                if counts[i, j] >= _LEAST_PIXELS:
                    sums[k, i, j] = photo[k, i, j] - sums[k, i, j] / counts[i, j]
                else:
                    sums[k, i, j] = 0


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATED)
def _spread(error, weights, xs, ys, scale_x, scale_y, left, top, step):  # pragma: no cover - compiled
    """Add the error [3, h, w] to the target's pixels by Catmull-Rom interpolation, times their weights."""
    h, w = error.shape[1:]
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            share = weights[row, column]
            if not share > 0:
                continue
            x = xs[row, column] * scale_x - np.float32(left) - np.float32(0.5)
            y = ys[row, column] * scale_y - np.float32(top) - np.float32(0.5)
            j, i = int(np.floor(x)), int(np.floor(y))
            across, down = _catmull_rom(x - np.float32(j)), _catmull_rom(y - np.float32(i))
            if j >= 1 and i >= 1 and j + 3 <= w and i + 3 <= h:
                lines, columns = (i - 1, i, i + 1, i + 2), (j - 1, j, j + 1, j + 2)
            else:
                lines, columns = _clamped(i, h), _clamped(j, w)
            for k in range(3):
                total = across[0] * _down(error, k, lines, columns[0], down)
                total += across[1] * _down(error, k, lines, columns[1], down)
                total += across[2] * _down(error, k, lines, columns[2], down)
                total += across[3] * _down(error, k, lines, columns[3], down)
                step[k, row, column] += share * total


@njit(cache=True, nogil=True, inline="always")
def _clamped(first, length):  # pragma: no cover - compiled
    """The pixels -1, 0, 1, 2 from `first`, those beyond the border moved to it."""
    last = length - 1
    return (
        min(max(first - 1, 0), last),
        min(max(first, 0), last),
        min(max(first + 1, 0), last),
        min(max(first + 2, 0), last),
    )


# Four products in scalars: the compiler keeps them in registers, which it does not with an array of weights.
@njit(cache=True, nogil=True, inline="always")
def _down(error, k, lines, column, weights):  # pragma: no cover - compiled
    return (
        weights[0] * error[k, lines[0], column]
        + weights[1] * error[k, lines[1], column]
        + weights[2] * error[k, lines[2], column]
        + weights[3] * error[k, lines[3], column]
    )


@njit(cache=True, nogil=True, inline="always")
def _catmull_rom(t):  # pragma: no cover - compiled
    """Catmull-Rom weights of the pixels -1, 0, 1, 2 for a point t beyond pixel 0."""
    half, one = np.float32(0.5), np.float32(1)
    s = one - t
    return (
        -half * t * s * s,
        one + t * t * (np.float32(1.5) * t - np.float32(2.5)),
        one + s * s * (np.float32(1.5) * s - np.float32(2.5)),
        -half * s * t * t,
    )
