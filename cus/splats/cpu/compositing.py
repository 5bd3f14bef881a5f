"""Alpha compositing of projected Gaussians on the CPU: one kernel forward, one backward, sixteen pixels at a time.

Semantics match `cus.splats.rasterize_torch`. A tile's pixels are stored in scratch arrays block by block (4 x 4 pixels,
the sixteen lanes); only the blocks that a Gaussian reaches are evaluated, and in the backward pass only those where it
contributed.

The backward pass also goes front to back. The picture itself gives the total worth of all Gaussians to the loss at a
pixel; minus those in front, it is the worth S of what lies behind, and the derivative in a Gaussian's alpha is
T worth - S / (1 - alpha). Each (Gaussian, tile) pair writes its sums into its own slot, and the slots of a Gaussian
are added up in a fixed order: no atomics, and the same bits with any number of threads.
"""

from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from cus.kernels.simd import (
    bits,
    column_offsets,
    exp2_negative,
    lanes,
    load,
    lowest_bit,
    multiply_add,
    negative_magnitude,
    prefetch,
    row_offsets,
    select,
    store,
    total,
)
from cus.kernels.threads import in_pieces
from cus.splats.cpu.tiles import E2, LOG_OPACITY, MEAN_X, MEAN_Y, SLANT, TILE, Y2, Grid, Lists, Splats
from cus.splats.projection import ALPHA_CUTOFF
from cus.splats.rasterize_torch import ALPHA_MAX, TRANSMITTANCE_STOP

_PIXELS = TILE * TILE
_CUTOFF, _CAP, _STOP = np.float32(ALPHA_CUTOFF), np.float32(ALPHA_MAX), np.float32(TRANSMITTANCE_STOP)
_ZERO, _ONE, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_ALL = np.int32(0xFFFF)  # lanes of a mask
# Sums per pair besides those of its colour: dL/d(-sigma) and its moments in (e, dy), e = dx + slant dy.
_MOMENTS = 6
# A tile's pairs are scattered over the tables, so each is prefetched this many pairs ahead.
_AHEAD = 6


def composite_cpu(
    means2d: Tensor, forms: Tensor, colors: Tensor, opacities: Tensor, splats: Splats, lists: Lists, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Composite projected Gaussians.

    Args:
        means2d: Centres in pixels [M, 2], M = cameras x Gaussians.
        forms: Square-root forms [M, 3] from `project_cpu`.
        colors: Colours with any number of channels [M, D].
        opacities: Opacities [M].
        splats: These Gaussians, sorted.
        lists: Splats of each tile.
        grid: Tiles of the images.

    Returns:
        Colours over black [C, height, width, D] and transmittances [C, height, width, 1].
    """
    return _Composite.apply(means2d, forms, colors, opacities, splats, lists, grid)  # type: ignore[return-value]


class Pixels(NamedTuple):
    """A kernel's output at every pixel, or the gradients in it: [C, H, W, D] and [C, H, W, 1]."""

    images: np.ndarray
    transmittances: np.ndarray


class Grads(NamedTuple):
    """Gradients in the parameters of M Gaussians: [M, 2], [M, 3], [M, D] and [M]."""

    means2d: np.ndarray
    forms: np.ndarray
    colors: np.ndarray
    opacities: np.ndarray


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means2d, forms, colors, opacities, splats: Splats, lists: Lists, grid: Grid):
        features = colors.detach().numpy()[splats.order]
        images = np.empty((grid.cameras, grid.height, grid.width, features.shape[1]), dtype=np.float32)
        transmittances = np.empty((*images.shape[:3], 1), dtype=np.float32)
        counted = np.zeros(lists.starts[-1], dtype=np.uint16)
        pixels = Pixels(images, transmittances)
        in_pieces(lambda a, b: _forward(splats.table, features, lists, grid, pixels, counted, a, b), grid.tiles)
        ctx.arrays, ctx.splats, ctx.lists, ctx.grid = (features, pixels, counted), splats, lists, grid
        ctx.save_for_backward(forms, opacities)
        return torch.from_numpy(images), torch.from_numpy(transmittances)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_images: Tensor, grad_transmittances: Tensor):  # type: ignore[override]
        (features, pixels, counted), splats, lists, grid = ctx.arrays, ctx.splats, ctx.lists, ctx.grid
        forms, opacities = (tensor.detach().numpy() for tensor in ctx.saved_tensors)
        upstream = Pixels(*(np.ascontiguousarray(grad.numpy()) for grad in (grad_images, grad_transmittances)))
        count, channels = len(forms), features.shape[1]
        sums = np.empty((len(counted), _MOMENTS + channels), dtype=np.float32)

        def work(first: int, last: int) -> None:
            _backward(splats.table, features, lists, grid, pixels, upstream, counted, sums, first, last)

        in_pieces(work, grid.tiles)
        grads = Grads(*(np.zeros((count, *shape), dtype=np.float32) for shape in ((2,), (3,), (channels,), ())))

        def gather(first: int, last: int) -> None:
            _gather(sums, counted, lists.starts, splats.order, forms, opacities, grads, first, last)

        in_pieces(gather, len(splats.order))
        return (*map(torch.from_numpy, grads), None, None, None)


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(table, features, lists, grid, pixels, counted, first, last):  # pragma: no cover - compiled
    """Composite the tiles first to last, and record the blocks in which each pair contributed."""
    images, transmittances, channels = pixels.images, pixels.transmittances, features.shape[1]
    flat_table, flat_features = table.reshape(-1), features.reshape(-1)
    width, height, rows, columns = grid.width, grid.height, grid.rows, grid.columns
    offsets, ids, slots, blocks = lists.offsets, lists.ids, lists.slots, lists.blocks
    colors = np.empty(channels * _PIXELS, dtype=np.float32)
    # Transmittance of each pixel; negative once the pixel has stopped.
    light = np.empty(_PIXELS, dtype=np.float32)
    for tile in range(first, last):
        left, top = (tile % columns) * TILE, (tile // columns % rows) * TILE
        colors[:] = _ZERO
        going = _enter(light, left, top, width, height)
        end = offsets[tile + 1]
        for place in range(offsets[tile], end):
            if going == 0:
                break
            ahead = ids[min(place + _AHEAD, end - 1)]
            prefetch(flat_table, ahead * table.shape[1])
            prefetch(flat_features, ahead * channels)
            here = np.int32(blocks[place]) & going
            if here == 0:
                continue
            i = ids[place]
            slant, e2, y2, log_opacity = table[i, SLANT], table[i, E2], table[i, Y2], table[i, LOG_OPACITY]
            x, y = np.float32(left) + _HALF - table[i, MEAN_X], np.float32(top) + _HALF - table[i, MEAN_Y]
            counts = np.int32(0)
            while here != 0:
                block = lowest_bit(here)
                here &= here - np.int32(1)
                dx = column_offsets() + (x + np.float32(4 * (block & 3)))
                dy = row_offsets() + (y + np.float32(block & ~3))
                e = multiply_add(dy, slant, dx)
                alpha = exp2_negative(multiply_add(e * e, e2, multiply_add(dy * dy, y2, log_opacity)))
                valid = alpha >= _CUTOFF
                if bits(valid) == 0:
                    continue
                counts |= np.int32(1) << block
                before = load(light, block * 16)
                weight = select(valid, select(alpha < _CAP, alpha, _CAP) * before, _ZERO)
                after = before - weight
                # A pixel that has already stopped is negative and stops again.
                stops = after <= _STOP
                weight = select(stops, _ZERO, weight)
                store(light, block * 16, select(stops, negative_magnitude(before), after))
                for channel in range(channels):
                    at = channel * _PIXELS + block * 16
                    store(colors, at, multiply_add(weight, features[i, channel], load(colors, at)))
                if bits(stops) == _ALL:
                    going &= ~(np.int32(1) << block)
            counted[slots[place]] = counts
        camera = tile // (rows * columns)
        for pixel in range(_PIXELS):
            px, py = left + (pixel // 16 & 3) * 4 + (pixel & 3), top + pixel // 64 * 4 + (pixel // 4 & 3)
            if px < width and py < height:
                for channel in range(channels):
                    images[camera, py, px, channel] = colors[channel * _PIXELS + pixel]
                transmittances[camera, py, px, 0] = abs(light[pixel])


@njit(cache=True, nogil=True)
def _enter(light, left, top, width, height):  # pragma: no cover - compiled
    """Full transmittance for the pixels of a tile that lie in the picture; returns the blocks that have any."""
    going = np.int32(0)
    for pixel in range(_PIXELS):
        px, py = left + (pixel // 16 & 3) * 4 + (pixel & 3), top + pixel // 64 * 4 + (pixel // 4 & 3)
        light[pixel] = _ONE if px < width and py < height else -_ONE
        if px < width and py < height:
            going |= np.int32(1) << np.int32(pixel // 16)
    return going


@njit(cache=True, nogil=True, error_model="numpy")
def _backward(
    table, features, lists, grid, pixels, upstream, counted, sums, first, last
):  # pragma: no cover - compiled
    """For each pair of the tiles first to last, the sums of `_gather` over the pixels where it contributed."""
    images, transmittances, channels = pixels.images, pixels.transmittances, features.shape[1]
    flat_table, flat_features, flat_sums = table.reshape(-1), features.reshape(-1), sums.reshape(-1)
    g_images, g_transmittances = upstream.images, upstream.transmittances
    width, height, rows, columns = grid.width, grid.height, grid.rows, grid.columns
    offsets, ids, slots = lists.offsets, lists.ids, lists.slots
    g_colors = np.empty(channels * _PIXELS, dtype=np.float32)
    color_sums = np.empty(channels * 16, dtype=np.float32)
    light, worth_left = np.empty(_PIXELS, dtype=np.float32), np.empty(_PIXELS, dtype=np.float32)
    for tile in range(first, last):
        left, top = (tile % columns) * TILE, (tile // columns % rows) * TILE
        camera = tile // (rows * columns)
        _enter(light, left, top, width, height)
        for pixel in range(_PIXELS):
            px, py = left + (pixel // 16 & 3) * 4 + (pixel & 3), top + pixel // 64 * 4 + (pixel // 4 & 3)
            worth = _ZERO
            inside = px < width and py < height
            if inside:
                worth = transmittances[camera, py, px, 0] * g_transmittances[camera, py, px, 0]
            for channel in range(channels):
                g = g_images[camera, py, px, channel] if inside else _ZERO
                g_colors[channel * _PIXELS + pixel] = g
                if inside:
                    worth += images[camera, py, px, channel] * g
            worth_left[pixel] = worth
        end = offsets[tile + 1]
        for place in range(offsets[tile], end):
            ahead = min(place + _AHEAD, end - 1)
            prefetch(flat_table, ids[ahead] * table.shape[1])
            prefetch(flat_features, ids[ahead] * channels)
            prefetch(counted, slots[ahead])
            prefetch(flat_sums, slots[ahead] * sums.shape[1])
            slot = slots[place]
            here = np.int32(counted[slot])
            if here == 0:
                continue
            i = ids[place]
            slant, e2, y2, log_opacity = table[i, SLANT], table[i, E2], table[i, Y2], table[i, LOG_OPACITY]
            x, y = np.float32(left) + _HALF - table[i, MEAN_X], np.float32(top) + _HALF - table[i, MEAN_Y]
            color_sums[:] = _ZERO
            s, s_e, s_y = lanes(_ZERO), lanes(_ZERO), lanes(_ZERO)
            s_ee, s_ey, s_yy = lanes(_ZERO), lanes(_ZERO), lanes(_ZERO)
            while here != 0:
                block = lowest_bit(here)
                here &= here - np.int32(1)
                dx = column_offsets() + (x + np.float32(4 * (block & 3)))
                dy = row_offsets() + (y + np.float32(block & ~3))
                # Identical to the forward pass to the bit, so the same pixels count.
                e = multiply_add(dy, slant, dx)
                alpha = exp2_negative(multiply_add(e * e, e2, multiply_add(dy * dy, y2, log_opacity)))
                before = load(light, block * 16)
                free = alpha < _CAP
                alpha = select(alpha >= _CUTOFF, select(free, alpha, _CAP), _ZERO)
                weight = alpha * before
                after = before - weight
                stops = after <= _STOP
                weight, alpha = select(stops, _ZERO, weight), select(stops, _ZERO, alpha)
                store(light, block * 16, select(stops, negative_magnitude(before), after))
                worth = lanes(_ZERO)
                for channel in range(channels):
                    g = load(g_colors, channel * _PIXELS + block * 16)
                    worth = multiply_add(g, features[i, channel], worth)
                    store(color_sums, channel * 16, multiply_add(weight, g, load(color_sums, channel * 16)))
                own = weight * worth
                behind = load(worth_left, block * 16) - own
                store(worth_left, block * 16, behind)
                slope = select(free, own - behind * (alpha / (_ONE - alpha)), _ZERO)
                slope_e, slope_y = slope * e, slope * dy
                s, s_e, s_y = s + slope, s_e + slope_e, s_y + slope_y
                s_ee, s_ey = multiply_add(slope_e, e, s_ee), multiply_add(slope_e, dy, s_ey)
                s_yy = multiply_add(slope_y, dy, s_yy)
            sums[slot, 0], sums[slot, 1], sums[slot, 2] = total(s), total(s_e), total(s_y)
            sums[slot, 3], sums[slot, 4], sums[slot, 5] = total(s_ee), total(s_ey), total(s_yy)
            for channel in range(channels):
                sums[slot, _MOMENTS + channel] = total(load(color_sums, channel * 16))


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(sums, counted, starts, order, forms, opacities, grads, first, last):  # pragma: no cover - compiled
    """Add up the slots of each splat and apply the chain rule from the moments to its parameters."""
    channels = grads.colors.shape[1]
    added = np.empty(_MOMENTS + channels)
    for splat in range(first, last):
        any_slot = False
        added[:] = 0.0
        for slot in range(starts[splat], starts[splat + 1]):
            if counted[slot] != 0:
                any_slot = True
                for k in range(_MOMENTS + channels):
                    added[k] += sums[slot, k]
        if not any_slot:
            continue
        i = order[splat]
        root, slant, steep = np.float64(forms[i, 0]), np.float64(forms[i, 1]), np.float64(forms[i, 2])
        grads.opacities[i] = added[0] / opacities[i]
        # sigma = root^2 e^2 + steep dy^2; moving the mean moves dx and dy the other way.
        grads.means2d[i, 0] = 2 * root * root * added[1]
        grads.means2d[i, 1] = 2 * root * root * slant * added[1] + 2 * steep * added[2]
        grads.forms[i, 0] = -2 * root * added[3]
        grads.forms[i, 1] = -2 * root * root * added[4]
        grads.forms[i, 2] = -added[5]
        for channel in range(channels):
            grads.colors[i, channel] = added[_MOMENTS + channel]
