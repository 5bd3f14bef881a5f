"""Which Gaussians reach which 4 x 4 blocks of which 16 x 16 tiles, front to back."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from cus.kernels.simd import bits, column_offsets, multiply_add, row_offsets, select
from cus.kernels.threads import in_pieces
from cus.splats.projection import ALPHA_CUTOFF

TILE = 16
_RADIX_BITS = 11
# Columns of the table of splats: the values that a kernel reads for each Gaussian, in half a cache line. To base 2,
# log alpha = LOG_OPACITY + E2 (dx + SLANT dy)^2 + Y2 dy^2, with E2 and Y2 below zero.
MEAN_X, MEAN_Y, SLANT, E2, Y2, LOG_OPACITY = range(6)
_COLUMNS = 8
_LOG2_E = np.float32(math.log2(math.e))
_LOG2_CUTOFF = math.log2(ALPHA_CUTOFF)


class Grid(NamedTuple):
    """Tiles of C images of width x height pixels; tile t is (camera, row, column) in that order.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        cameras: Number of images C.
        columns: Number of tiles side by side.
        rows: Number of tiles one above the other.
    """

    width: int
    height: int
    cameras: int
    columns: int
    rows: int

    @staticmethod
    def over(width: int, height: int, cameras: int) -> "Grid":
        """The tiles that cover C images of the given size."""
        return Grid(width, height, cameras, -(-width // TILE), -(-height // TILE))

    @property
    def tiles(self) -> int:
        """Number of tiles in all images."""
        return self.cameras * self.rows * self.columns


class Splats(NamedTuple):
    """The Gaussians that are not culled, nearest first, K of the M = cameras x N: the order of all later kernels.

    Attributes:
        order: Index of each Gaussian (camera * N + i) [K] int32.
        table: Values that kernels read, one row per Gaussian [K, 8] float32.
    """

    order: np.ndarray
    table: np.ndarray


class Lists(NamedTuple):
    """The splats that reach each tile, nearest first; P (splat, tile) pairs.

    Attributes:
        offsets: Start of each tile's part, and the end [tiles + 1] int64.
        ids: Splat of each pair [P] int32.
        slots: Position of each pair in an order that keeps a splat's pairs together [P] int64.
        blocks: Blocks that the splat reaches, one bit each, row by row [P] uint16.
        starts: First slot of each splat, and the end [K + 1] int64; more than P slots, because some stay empty.
    """

    offsets: np.ndarray
    ids: np.ndarray
    slots: np.ndarray
    blocks: np.ndarray
    starts: np.ndarray


def sort_splats(
    means2d: np.ndarray, forms: np.ndarray, opacities: np.ndarray, radii: np.ndarray, depths: np.ndarray
) -> Splats:
    """The Gaussians that are not culled in depth order; ties keep the order of the Gaussians.

    Args:
        means2d: Centres in pixels [M, 2].
        forms: Square-root forms [M, 3], see `cus.splats.cpu.projection`.
        opacities: Opacities [M].
        radii: Half sizes of the boxes in pixels [M, 2] int32, 0 where culled.
        depths: z-depths [M], > 0 where not culled.
    """
    order = _by_depth(radii, depths)
    table = np.empty((len(order), _COLUMNS), dtype=np.float32)
    in_pieces(lambda a, b: _fill_table(means2d, forms, opacities, order, table, a, b), len(table))
    return Splats(order, table)


def build_lists(splats: Splats, radii: np.ndarray, grid: Grid) -> Lists:
    """Sort splats into tiles.

    Args:
        splats: K of M Gaussians, sorted.
        radii: Half sizes of the M boxes in pixels [M, 2] int32.
        grid: Tiles of the images.
    """
    count = len(splats.order)
    many = max(len(radii) // grid.cameras, 1)
    rectangles = np.empty((count, 5), dtype=np.int32)
    starts = np.zeros(count + 1, dtype=np.int64)
    in_pieces(lambda a, b: _rectangles(splats, radii, many, grid, rectangles, starts, a, b), count)
    np.cumsum(starts, out=starts)
    masks = np.empty(starts[-1], dtype=np.uint16)
    in_pieces(lambda a, b: _reached_blocks(splats.table, rectangles, starts, masks, a, b), count)

    # Threads share out rows of tiles: each tile is written by one thread, and no thread waits for another.
    offsets = np.zeros(grid.tiles + 1, dtype=np.int64)
    columns = grid.columns
    in_pieces(lambda a, b: _count(rectangles, starts, masks, columns, offsets, a, b), grid.rows, 1)
    np.cumsum(offsets, out=offsets)
    ids = np.empty(offsets[-1], dtype=np.int32)
    slots, blocks = np.empty(len(ids), dtype=np.int64), np.empty(len(ids), dtype=np.uint16)
    places = offsets[:-1].copy()
    in_pieces(lambda a, b: _fill(rectangles, starts, masks, columns, places, ids, slots, blocks, a, b), grid.rows, 1)
    return Lists(offsets, ids, slots, blocks, starts)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_table(means2d, forms, opacities, order, table, first, last):  # pragma: no cover - compiled
    for k in range(first, last):
        i = order[k]
        table[k, MEAN_X], table[k, MEAN_Y], table[k, SLANT] = means2d[i, 0], means2d[i, 1], forms[i, 1]
        table[k, E2], table[k, Y2] = -_LOG2_E * forms[i, 0] * forms[i, 0], -_LOG2_E * forms[i, 2]
        table[k, LOG_OPACITY] = np.log2(opacities[i])


@njit(cache=True, nogil=True)
def _by_depth(radii, depths):  # pragma: no cover - compiled
    """Indices of the Gaussians that are not culled, nearest first, by a stable radix sort.

    The bits of positive floats sort like the floats.
    """
    kept = 0
    for i in range(len(depths)):
        if radii[i, 0] > 0 and radii[i, 1] > 0:
            kept += 1
    order, other = np.empty(kept, dtype=np.int32), np.empty(kept, dtype=np.int32)
    keys = depths.view(np.uint32)
    kept = 0
    for i in range(len(depths)):
        if radii[i, 0] > 0 and radii[i, 1] > 0:
            order[kept] = i
            kept += 1
    buckets = np.empty(1 << _RADIX_BITS, dtype=np.int64)
    for shift in range(0, 32, _RADIX_BITS):
        buckets[:] = 0
        for k in range(kept):
            buckets[(keys[order[k]] >> np.uint32(shift)) & np.uint32((1 << _RADIX_BITS) - 1)] += 1
        start = 0
        for bucket in range(len(buckets)):
            here = buckets[bucket]
            buckets[bucket] = start
            start += here
        for k in range(kept):
            bucket = (keys[order[k]] >> np.uint32(shift)) & np.uint32((1 << _RADIX_BITS) - 1)
            other[buckets[bucket]] = order[k]
            buckets[bucket] += 1
        order, other = other, order
    return order


@njit(cache=True, nogil=True, error_model="numpy")
def _rectangles(splats, radii, many, grid, rectangles, starts, first, last):  # pragma: no cover - compiled
    """Tiles touched by each box, as [left, right) x [top, bottom), the first tile of the image, and their number."""
    table, rows, columns = splats.table, grid.rows, grid.columns
    for k in range(first, last):
        i = splats.order[k]
        x, y = np.float64(table[k, MEAN_X]), np.float64(table[k, MEAN_Y])
        rectangles[k, 0] = min(max(int(np.floor((x - radii[i, 0]) / TILE)), 0), columns)
        rectangles[k, 1] = min(max(int(np.ceil((x + radii[i, 0]) / TILE)), 0), columns)
        rectangles[k, 2] = min(max(int(np.floor((y - radii[i, 1]) / TILE)), 0), rows)
        rectangles[k, 3] = min(max(int(np.ceil((y + radii[i, 1]) / TILE)), 0), rows)
        rectangles[k, 4] = (i // many) * rows * columns
        starts[k + 1] = (rectangles[k, 1] - rectangles[k, 0]) * (rectangles[k, 3] - rectangles[k, 2])


@njit(cache=True, nogil=True, error_model="numpy")
def _reached_blocks(table, rectangles, starts, masks, first, last):  # pragma: no cover - compiled
    """Whether the ellipse alpha >= 1/255 reaches pixel centres of a block, for all 16 blocks of a tile, one per lane.

    The exponent is concave, so its maximum over a block is at the mean, if that is inside, or on one of the (at most
    two) edges that face the mean, at the edge's own maximum clamped to the edge.
    """
    zero, three, four = np.float32(0), np.float32(3), np.float32(4)
    for k in range(first, last):
        slot = starts[k]
        slant, e2, y2 = table[k, SLANT], table[k, E2], table[k, Y2]
        # Along an edge of constant dx the exponent is largest where its derivative in dy vanishes.
        steepness = e2 * slant * slant + y2
        toward = -e2 * slant / steepness if steepness < zero else zero
        # A margin for rounding: a block too many costs a little time, one too few leaves an edge.
        reach = (np.float32(_LOG2_CUTOFF) - table[k, LOG_OPACITY]) * np.float32(1.001) - np.float32(1e-3)
        for row in range(rectangles[k, 2], rectangles[k, 3]):
            for column in range(rectangles[k, 0], rectangles[k, 1]):
                left = np.float32(column * TILE) + np.float32(0.5) - table[k, MEAN_X]
                top = np.float32(row * TILE) + np.float32(0.5) - table[k, MEAN_Y]
                x0, y0 = column_offsets() * four + left, row_offsets() * four + top
                x1, y1 = x0 + three, y0 + three
                near_x = select(x0 > zero, x0, select(x1 < zero, x1, zero))
                near_y = select(y0 > zero, y0, select(y1 < zero, y1, zero))
                along = near_x * toward
                along = select(along < y0, y0, select(along > y1, y1, along))
                e = multiply_add(along, slant, near_x)
                on_vertical = multiply_add(e * e, e2, along * along * y2)
                across = near_y * (-slant)
                across = select(across < x0, x0, select(across > x1, x1, across))
                e = multiply_add(near_y, slant, across)
                on_horizontal = multiply_add(e * e, e2, near_y * near_y * y2)
                greatest = select(on_vertical > on_horizontal, on_vertical, on_horizontal)
                masks[slot] = np.uint16(bits(greatest >= reach))
                slot += 1


@njit(cache=True, nogil=True)
def _count(rectangles, starts, masks, columns, offsets, first, last):  # pragma: no cover - compiled
    """Count the pairs of each tile in the tile rows first to last, one position further on in `offsets`."""
    for k in range(len(rectangles)):
        top, bottom = max(rectangles[k, 2], first), min(rectangles[k, 3], last)
        left, right, tiles = rectangles[k, 0], rectangles[k, 1], rectangles[k, 4]
        for row in range(top, bottom):
            slot = starts[k] + (row - rectangles[k, 2]) * (right - left)
            for column in range(left, right):
                if masks[slot]:
                    offsets[tiles + row * columns + column + 1] += 1
                slot += 1


@njit(cache=True, nogil=True)
def _fill(rectangles, starts, masks, columns, places, ids, slots, blocks, first, last):  # pragma: no cover - compiled
    for k in range(len(rectangles)):
        top, bottom = max(rectangles[k, 2], first), min(rectangles[k, 3], last)
        left, right, tiles = rectangles[k, 0], rectangles[k, 1], rectangles[k, 4]
        for row in range(top, bottom):
            slot = starts[k] + (row - rectangles[k, 2]) * (right - left)
            for column in range(left, right):
                if masks[slot]:
                    tile = tiles + row * columns + column
                    place = places[tile]
                    places[tile] = place + 1
                    ids[place], slots[place], blocks[place] = k, slot, masks[slot]
                slot += 1
