"""Back-projection on the CPU: `cus.conditioning.fused.sharpening.back_projected` as Numba kernels."""

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.cpu.pixels import CHANNELS, copy_colors, interleave
from cus.conditioning.fused.blend import Layer
from cus.conditioning.fused.sharpening import (
    LEAST_MAGNIFICATION,
    LEAST_PIXELS,
    LEAST_WEIGHT,
    RELAXATION,
    ROUNDS,
    bilateral,
)
from cus.conditioning.fused.views import Placement, View
from cus.conditioning.warp import TIE
from cus.kernels.simd import LANES, extract, load, load_pixel, multiply_add, store_pixel, sum_of_pixels

_LEAST_PIXELS, _TIE, _RELAXATION = LEAST_PIXELS, np.float32(TIE), np.float32(RELAXATION)
# Margin around the pixels that a target sees: more than the four that are interpolated between.
_MARGIN = 4
# Catmull-Rom weights of the pixels -1, 0, 1, 2 for a point t beyond pixel 0: coefficients of 1, t, t^2 and t^3, four
# times each, for the channels.
_CATMULL_ROM = np.repeat(
    np.array([[0, 1, 0, 0], [-0.5, 0, 0.5, 0], [1, -2.5, 2, -0.5], [-0.5, 1.5, -1.5, 0.5]], np.float32), CHANNELS
)


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
    cells = []
    for view, place, layer, share in zip(views, places, layers, weights, strict=True):
        used = mask & (share > LEAST_WEIGHT)
        if bool(used.any()):  # one that counts little everywhere has no pixels
            cells.append(_Cells(view, place.gain, layer, share, used.numpy()))
    planes = image.numpy().transpose(1, 2, 0)
    pixels = np.zeros((*planes.shape[:2], CHANNELS), np.float32)
    copy_colors(planes, pixels)
    for part, rounds in enumerate(ROUNDS):
        if part:
            picture = np.empty(planes.shape, np.float32)
            copy_colors(pixels, picture)
            copy_colors(bilateral(picture, magnification), pixels)
        for _ in range(rounds):
            for own in cells:
                own.compare(pixels)
            for own in cells:
                own.correct(pixels)
    result = torch.empty_like(image)
    copy_colors(pixels, result.numpy().transpose(1, 2, 0))
    return result


class _Cells:
    """The part of a reference that a target sees, and the positions of the target's pixels in it.

    Pictures have four channels here, the last of which is 0: a vector holds the four pixels that Catmull-Rom
    interpolates between in a row.
    """

    def __init__(self, view: View, gain: Tensor, layer: Layer, weights: Tensor, used: np.ndarray) -> None:
        photo = view.levels[0]
        h, w = photo.shape[-2:]
        scales = np.float32(view.photo_scale[0]), np.float32(view.photo_scale[1])
        x, y, self.weights = layer.x.numpy(), layer.y.numpy(), weights.numpy()
        left, top, right, bottom = _bounds(x, y, used, *scales, w, h)
        left, top = left - _MARGIN, top - _MARGIN
        height, width = bottom + 1 + _MARGIN - top, right + 1 + _MARGIN - left
        self.place = x, y, *scales, left, top
        # Rows and columns within the photograph; errors beyond it are those at its border.
        self.inside = max(-top, 0), min(h - top, height), max(-left, 0), min(w - left, width)
        part = np.zeros((height, width, CHANNELS), photo.numpy().dtype)
        interleave(photo.contiguous().view(-1).numpy(), 0, h, w, left, top, part.reshape(-1), 0, height, width)
        colors = gain.numpy() * np.float32(1 / 255 if photo.dtype == torch.uint8 else 1)
        self.cells = np.empty(used.shape, np.int32)
        self.photo, self.shares = np.zeros(part.shape, np.float32), np.zeros(part.shape, np.float32)
        _count(used, *self.place, w, h, self.cells, self.shares)
        _predictable(part, colors, self.photo, self.shares)
        self.errors = np.zeros(part.size + LANES, np.float32)

    def compare(self, pixels: np.ndarray) -> None:
        """Set the errors to the photograph minus the means of the target's pixels [H, W, 4]."""
        _residual(pixels.reshape(-1), self.cells, self.photo.reshape(-1), self.shares.reshape(-1), self.errors)
        _extend(self.errors[: self.photo.size].reshape(self.photo.shape), *self.inside)

    def correct(self, pixels: np.ndarray) -> None:
        """Add the errors to the target's pixels [H, W, 4], interpolated and weighted."""
        size = self.photo.shape[:2]
        _spread(self.errors, *size, self.weights, *self.place, _CATMULL_ROM, pixels.reshape(-1))


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


@njit(cache=True, nogil=True)
def _count(used, xs, ys, scale_x, scale_y, left, top, w, h, cells, counts):  # pragma: no cover - compiled
    """Fill `cells` and `counts` with the places of the target's pixels, and how many there are in each.

    Args:
        used: [H, W] bool.
        xs: [H, W] columns in the reference, in pixels of its working size.
        ys: [H, W] rows, as xs.
        scale_x: photograph pixels per pixel of the working size.
        scale_y: photograph pixels per pixel of the working size.
        left: the photograph's column that the part starts at.
        top: the photograph's row that the part starts at.
        w: width of the photograph in pixels.
        h: height of the photograph in pixels.
        cells: [H, W] int32 receives the indices in the flattened part, -1 where a pixel is not used.
        counts: [h', w', 4] zeros, receives the numbers of pixels, the same in all channels.
    """
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            cells[row, column] = -1
            if used[row, column]:
                j = min(int(xs[row, column] * scale_x + _TIE), w - 1) - left
                i = min(int(ys[row, column] * scale_y + _TIE), h - 1) - top
                cells[row, column] = CHANNELS * (i * counts.shape[1] + j)
                for k in range(CHANNELS):
                    counts[i, j, k] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _predictable(part, gain, photo, counts):  # pragma: no cover - compiled
    """Turn `counts` into the share of a pixel in its cell's mean, and fill in the photograph's colours.

    Both are 0 where the pixels are too few.
    """
    for i in range(counts.shape[0]):
        for j in range(counts.shape[1]):
            enough = counts[i, j, 0] >= _LEAST_PIXELS
            share = 1 / counts[i, j, 0] if enough else np.float32(0)
            for k in range(CHANNELS):
                counts[i, j, k] = share
            for k in range(3):
                photo[i, j, k] = part[i, j, k] * gain[k] if enough else np.float32(0)


@njit(cache=True, nogil=True, error_model="numpy")
def _residual(pixels, cells, photo, shares, errors):  # pragma: no cover - compiled
    """Fill `errors` with the photograph minus the means of the target's pixels."""
    errors[:] = 0
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            cell = cells[row, column]
            if cell >= 0:
                place = CHANNELS * (row * cells.shape[1] + column)
                store_pixel(errors, cell, load_pixel(errors, cell) + load_pixel(pixels, place))
    for place in range(len(photo)):
        errors[place] = photo[place] - errors[place] * shares[place]


@njit(cache=True, nogil=True)
def _extend(errors, top, bottom, left, right):  # pragma: no cover - compiled
    """Repeat the borders of the rows top to bottom and the columns left to right of [h', w', 4] outwards."""
    for row in range(top, bottom):
        errors[row, :left] = errors[row, left]
        errors[row, right:] = errors[row, right - 1]
    for row in range(top):
        errors[row] = errors[top]
    for row in range(bottom, len(errors)):
        errors[row] = errors[bottom - 1]


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(
    errors, h, w, weights, xs, ys, scale_x, scale_y, left, top, coefficients, pixels
):  # pragma: no cover - compiled
    """Add the errors [h, w, 4] to the target's pixels by Catmull-Rom interpolation, times weights and relaxation."""
    zero, first = np.float32(left) + np.float32(0.5), np.float32(top) + np.float32(0.5)
    line = np.uintp(CHANNELS * w)
    for row in range(xs.shape[0]):
        for column in range(xs.shape[1]):
            share = weights[row, column]
            if not share > 0:
                continue
            x, y = xs[row, column] * scale_x - zero, ys[row, column] * scale_y - first
            floor_x, floor_y = np.floor(x), np.floor(y)
            down = _catmull_rom(y - floor_y, coefficients)
            # Pixels beyond the margin belong to no cell; their errors are those of the margin, 0.
            j, i = min(max(int(floor_x), 1), w - 3), min(max(int(floor_y), 1), h - 3)
            start = np.uintp(CHANNELS * ((i - 1) * w + j - 1))
            found = extract(down, 0) * load(errors, start)
            found = multiply_add(extract(down, 4), load(errors, start + line), found)
            found = multiply_add(extract(down, 8), load(errors, start + np.uintp(2) * line), found)
            found = multiply_add(extract(down, 12), load(errors, start + np.uintp(3) * line), found)
            found = sum_of_pixels(_catmull_rom(x - floor_x, coefficients) * found)
            place = CHANNELS * (row * xs.shape[1] + column)
            store_pixel(pixels, place, multiply_add(share * _RELAXATION, found, load_pixel(pixels, place)))


@njit(cache=True, nogil=True)
def _catmull_rom(t, coefficients):  # pragma: no cover - compiled
    """Weights of the pixels -1, 0, 1, 2 for a point t beyond pixel 0, of four channels each: Lanes."""
    found = multiply_add(load(coefficients, 48), t, load(coefficients, 32))
    found = multiply_add(found, t, load(coefficients, 16))
    return multiply_add(found, t, load(coefficients, 0))
