"""Which Gaussians touch which tiles of the image, front to back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cus.splats.projection import ALPHA_CUTOFF, Projection


@dataclass(frozen=True)
class TileLists:
    """For every tile of C images, the Gaussians that can touch it, nearest first.

    Attributes:
        ids: Flat Gaussian ids (camera * N + gaussian) [P], tile after tile.
        offsets: Start of each tile's part of `ids`, and its end [C * rows * columns + 1].
        tile_size: Side of a tile in pixels.
        columns: Number of tiles side by side.
        rows: Number of tiles one above the other.
        cameras: Number of images C.
    """

    ids: Tensor
    offsets: Tensor
    tile_size: int
    columns: int
    rows: int
    cameras: int


@torch.no_grad()
def build_tile_lists(projection: Projection, width: int, height: int, tile_size: int) -> TileLists:
    """Sort Gaussians into square tiles by depth; ties keep the order of the Gaussians."""
    cameras, count = projection.depths.shape
    columns, rows = -(-width // tile_size), -(-height // tile_size)
    device = projection.depths.device

    kept = (projection.radii > 0).all(dim=-1).flatten().nonzero().squeeze(1)
    kept = kept[projection.depths.flatten()[kept].argsort(stable=True)]
    means2d = projection.means2d.reshape(-1, 2)[kept]
    radii = projection.radii.reshape(-1, 2)[kept]
    limit = torch.tensor([columns, rows], device=device)
    low = torch.minimum(((means2d - radii) / tile_size).floor().long().clamp_min(0), limit)
    high = torch.minimum(((means2d + radii) / tile_size).ceil().long().clamp_min(0), limit)
    spans = high - low
    tiles_each = spans[:, 0] * spans[:, 1]

    # One row per (Gaussian, tile) pair, still in depth order; then a stable sort by tile keeps that order inside tiles.
    pairs = torch.repeat_interleave(tiles_each)
    nth = torch.arange(len(pairs), device=device) - (tiles_each.cumsum(0) - tiles_each)[pairs]
    span = spans[pairs, 0]
    down = torch.div(nth, span, rounding_mode="floor")
    column, row = low[pairs, 0] + nth - down * span, low[pairs, 1] + down
    ids = kept[pairs]
    touching = _touches(projection, ids, column * tile_size, row * tile_size, tile_size)
    ids, column, row = ids[touching], column[touching], row[touching]
    tiles = (torch.div(ids, max(count, 1), rounding_mode="floor") * rows + row) * columns + column
    tiles, order = tiles.to(torch.int32).sort(stable=True)
    counts = torch.bincount(tiles, minlength=cameras * rows * columns)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return TileLists(ids[order], offsets, tile_size, columns, rows, cameras)


def _touches(projection: Projection, ids: Tensor, left: Tensor, top: Tensor, tile_size: int) -> Tensor:
    """Whether the ellipse alpha >= 1/255 reaches the pixel centres of a tile; the box alone includes many corners.

    The exponent sigma is convex, so its minimum over the tile is at the mean, if that is inside, or on one of the
    (at most two) edges that face the mean, at the edge's own minimum clamped to the edge.
    """
    x, y = projection.means2d.reshape(-1, 2)[ids].unbind(-1)
    a, b, c = projection.conics.reshape(-1, 3)[ids].unbind(-1)
    # Corners of the square of pixel centres, relative to the mean.
    x0, y0 = left + 0.5 - x, top + 0.5 - y
    x1, y1 = x0 + (tile_size - 1), y0 + (tile_size - 1)
    near_x = torch.minimum(torch.maximum(x0, torch.zeros_like(x0)), x1)
    near_y = torch.minimum(torch.maximum(y0, torch.zeros_like(y0)), y1)

    def sigma(dx: Tensor, dy: Tensor) -> Tensor:
        return 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy

    on_vertical = sigma(near_x, torch.minimum(torch.maximum(-b / c * near_x, y0), y1))
    on_horizontal = sigma(torch.minimum(torch.maximum(-b / a * near_y, x0), x1), near_y)
    limit = (projection.opacities.reshape(-1)[ids] / ALPHA_CUTOFF).log()
    # A margin for rounding: a pair too many costs a little time, one too few leaves an edge.
    return torch.minimum(on_vertical, on_horizontal) <= limit * 1.001 + 1e-3
