"""Which Gaussians reach which 4 x 4 blocks of which 16 x 16 tiles, front to back."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from cus.splats.cpu.simd import bits, column_offsets, lanes, multiply_add, row_offsets, select
from cus.splats.cpu.threads import in_pieces
from cus.splats.projection import ALPHA_CUTOFF

TILE = 16
_RADIX_BITS = 11
# Columns of the table of splats: what a kernel reads of a Gaussian, in one cache line.
MEAN_X, MEAN_Y, ROOT, SLANT, STEEP, OPACITY, REACH = range(7)
_COLUMNS = 8
_LOG2_E = np.float32(1.4426950408889634)


@dataclass(frozen=True)
class Grid:
    """Tiles of C images of width x height pixels; tile t is (camera, row, column) in that order."""

    width: int
    height: int
    cameras: int

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // TILE)

    @property
    def rows(self) -> int:
        """Tiles one above the other."""
        return -(-self.height // TILE)

    @property
    def tiles(self) -> int:
        """In all images."""
        return self.cameras * self.rows * self.columns


@dataclass(frozen=True)
class Lists:
    """Of every tile the Gaussians that reach it, nearest first; P (Gaussian, tile) pairs.

    Attributes:
        offsets: Start of each tile's part, and the end [tiles + 1] int64.
        ids: Gaussian (camera * N + i) of each pair [P] int32.
        slots: Place of each pair in an order in which a Gaussian's pairs lie side by side [P] int64.
        blocks: Which blocks the Gaussian reaches, a bit each, row by row [P] uint16.
        starts: First slot of each Gaussian, and the end [C N + 1] int64; more than P slots, as some stay empty.
    """

    offsets: np.ndarray
    ids: np.ndarray
    slots: np.ndarray
    blocks: np.ndarray
    starts: np.ndarray


def splat_table(means2d: np.ndarray, forms: np.ndarray, opacities: np.ndarray) -> np.ndarray:
    """Rows [M, 8] float32 of what kernels read of each Gaussian; exponents are to the base 2.

    Args:
        means2d: [M, 2].
        forms: [M, 3], see `cus.splats.cpu.projection`.
        opacities: [M].
    """
    table = np.empty((len(means2d), _COLUMNS), dtype=np.float32)
    in_pieces(lambda a, b: _fill_table(means2d, forms, opacities, table, a, b), len(table))
    return table


def build_lists(table: np.ndarray, radii: np.ndarray, depths: np.ndarray, grid: Grid) -> Lists:
    """Sort Gaussians into tiles by depth; ties keep the order of the Gaussians.

    Args:
        table: [M, 8] of `splat_table`, M = cameras x N.
        radii: Half sizes of their boxes, pixels [M, 2] int32; 0 where culled.
        depths: [M], > 0 where not culled.
        grid: Of the images.
    """
    count = len(table)
    order = _by_depth(radii, depths)
    rectangles = np.empty((count, 4), dtype=np.int32)
    starts = np.zeros(count + 1, dtype=np.int64)
    size = grid.columns, grid.rows
    in_pieces(lambda a, b: _rectangles(table, radii, *size, rectangles, starts, a, b), count)
    np.cumsum(starts, out=starts)
    masks = np.empty(starts[-1], dtype=np.uint16)
    in_pieces(lambda a, b: _reached_blocks(table, rectangles, starts, masks, a, b), count)

    # A band is a row of tiles; each is written by one thread, so that none waits for another.
    many = max(count // grid.cameras, 1)
    offsets = np.zeros(grid.tiles + 1, dtype=np.int64)
    shape = grid.rows, grid.columns, many
    in_pieces(lambda a, b: _count(order, rectangles, starts, masks, *shape, offsets, a, b), grid.rows, 2)
    np.cumsum(offsets, out=offsets)
    ids = np.empty(offsets[-1], dtype=np.int32)
    slots, blocks = np.empty(len(ids), dtype=np.int64), np.empty(len(ids), dtype=np.uint16)
    places = offsets[:-1].copy()
    outputs = places, ids, slots, blocks
    in_pieces(lambda a, b: _fill(order, rectangles, starts, masks, *shape, *outputs, a, b), grid.rows, 2)
    return Lists(offsets, ids, slots, blocks, starts)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_table(means2d, forms, opacities, table, first, last):  # pragma: no cover - compiled
    root_of_log2_e = np.float32(np.sqrt(_LOG2_E))
    for i in range(first, last):
        table[i, MEAN_X], table[i, MEAN_Y] = means2d[i, 0], means2d[i, 1]
        table[i, ROOT], table[i, SLANT] = forms[i, 0] * root_of_log2_e, forms[i, 1]
        table[i, STEEP], table[i, OPACITY] = forms[i, 2] * _LOG2_E, opacities[i]
        # The exponent at which alpha falls under the cutoff; a margin for rounding, as a block too many costs a little
        # time and one too few an edge.
        reach = np.log2(max(opacities[i], np.float32(1e-30)) / np.float32(ALPHA_CUTOFF))
        table[i, REACH] = reach * np.float32(1.001) + np.float32(1e-3)


@njit(cache=True, nogil=True)
def _by_depth(radii, depths):  # pragma: no cover - compiled
    """Indices of the Gaussians that are not culled, nearest first: a stable radix sort.

    Bits of positive floats are in the order of the floats.
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
def _rectangles(table, radii, columns, rows, rectangles, starts, first, last):  # pragma: no cover - compiled
    """Tiles that each box touches, as [left, right) x [top, bottom), and how many those are."""
    for i in range(first, last):
        rectangles[i] = 0
        if radii[i, 0] > 0 and radii[i, 1] > 0:
            x, y = np.float64(table[i, MEAN_X]), np.float64(table[i, MEAN_Y])
            rectangles[i, 0] = min(max(int(np.floor((x - radii[i, 0]) / TILE)), 0), columns)
            rectangles[i, 1] = min(max(int(np.ceil((x + radii[i, 0]) / TILE)), 0), columns)
            rectangles[i, 2] = min(max(int(np.floor((y - radii[i, 1]) / TILE)), 0), rows)
            rectangles[i, 3] = min(max(int(np.ceil((y + radii[i, 1]) / TILE)), 0), rows)
        starts[i + 1] = (rectangles[i, 1] - rectangles[i, 0]) * (rectangles[i, 3] - rectangles[i, 2])


@njit(cache=True, nogil=True, error_model="numpy")
def _reached_blocks(table, rectangles, starts, masks, first, last):  # pragma: no cover - compiled
    """The 16 blocks of a tile at once, a lane each: whether the ellipse alpha >= 1/255 reaches pixel centres of it.

    The exponent is convex, so its least value over a block is at the mean, if that is inside, or on one of the (at most
    two) edges that face the mean, at the edge's own least value limited to the edge.
    """
    zero, three, four = np.float32(0), np.float32(3), np.float32(4)
    for i in range(first, last):
        slot = starts[i]
        root, slant, steep = table[i, ROOT], table[i, SLANT], table[i, STEEP]
        xx = root * root
        # Along an edge of constant dx the least exponent lies at dy = -xy / yy dx.
        toward = -xx * slant / (xx * slant * slant + steep) if xx > zero else zero
        for row in range(rectangles[i, 2], rectangles[i, 3]):
            for column in range(rectangles[i, 0], rectangles[i, 1]):
                left = np.float32(column * TILE) + np.float32(0.5) - table[i, MEAN_X]
                top = np.float32(row * TILE) + np.float32(0.5) - table[i, MEAN_Y]
                x0, y0 = column_offsets() * four + left, row_offsets() * four + top
                x1, y1 = x0 + three, y0 + three
                near_x = select(x0 > zero, x0, select(x1 < zero, x1, zero))
                near_y = select(y0 > zero, y0, select(y1 < zero, y1, zero))
                along = near_x * toward
                along = select(along < y0, y0, select(along > y1, y1, along))
                u = (multiply_add(along, slant, near_x)) * root
                on_vertical = multiply_add(u, u, along * along * steep)
                across = near_y * (-slant)
                across = select(across < x0, x0, select(across > x1, x1, across))
                u = (multiply_add(near_y, slant, across)) * root
                on_horizontal = multiply_add(u, u, near_y * near_y * steep)
                least = select(on_vertical < on_horizontal, on_vertical, on_horizontal)
                masks[slot] = np.uint16(bits(least <= lanes(table[i, REACH])))
                slot += 1


@njit(cache=True, nogil=True)
def _count(order, rectangles, starts, masks, rows, columns, many, offsets, first, last):  # pragma: no cover - compiled
    """Pairs of each tile in the rows first to last of tiles, one place further on in `offsets`."""
    for i in order:
        top, bottom = max(rectangles[i, 2], first), min(rectangles[i, 3], last)
        if top >= bottom:
            continue
        left, right = rectangles[i, 0], rectangles[i, 1]
        tiles = (i // many) * rows * columns
        for row in range(top, bottom):
            slot = starts[i] + (row - rectangles[i, 2]) * (right - left)
            for column in range(left, right):
                if masks[slot + column - left]:
                    offsets[tiles + row * columns + column + 1] += 1


@njit(cache=True, nogil=True)
def _fill(
    order, rectangles, starts, masks, rows, columns, many, places, ids, slots, blocks, first, last
):  # pragma: no cover - compiled
    for i in order:
        top, bottom = max(rectangles[i, 2], first), min(rectangles[i, 3], last)
        if top >= bottom:
            continue
        left, right = rectangles[i, 0], rectangles[i, 1]
        tiles = (i // many) * rows * columns
        for row in range(top, bottom):
            slot = starts[i] + (row - rectangles[i, 2]) * (right - left)
            for column in range(left, right):
                if masks[slot]:
                    tile = tiles + row * columns + column
                    place = places[tile]
                    places[tile] = place + 1
                    ids[place], slots[place], blocks[place] = i, slot, masks[slot]
                slot += 1
