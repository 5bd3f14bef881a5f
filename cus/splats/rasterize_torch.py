"""Alpha compositing of projected Gaussians in plain torch: the reference for every faster rasterizer.

Tiles are batched with others of similar list length, to reduce padding, and composited in segments of bounded memory.
Gradients are analytic and recompute the forward pass segment by segment, so that memory does not grow with pixels x
Gaussians.

With sigma the quadratic form of the conic at a pixel, in front-to-back order (Kerbl et al. 2023, gsplat):

    alpha = min(0.999, opacity * exp(-sigma)),  skipped below 1/255
    T <- T * (1 - alpha), stopping *before* a Gaussian that would bring T to 1e-4 or less
    render = sum of T * alpha * color,  transmittance = T at the end

The exponent is evaluated in square-root form, sigma = u^2 + v with u linear in the pixel and v quadratic in its row
only, which loses fewer digits than the expanded polynomial when a large Gaussian's centre is far from the tile.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cus.splats.projection import ALPHA_CUTOFF, ProjectionOptions, project
from cus.splats.tiles import TileLists, build_tile_lists

ALPHA_MAX = 0.999
TRANSMITTANCE_STOP = 1e-4
# Entries (pixels x Gaussians) processed at a time: 2 MB in float32, small enough for the caches.
_BATCH_ENTRIES = 2**19
_SEGMENT = 128
# Log opacity of padding, and the smallest exponent evaluated: far below ALPHA_CUTOFF, and far above the denormal
# numbers, for which exp() takes four times as long.
_NOTHING = -1e4
_FAINTEST = -20.0


def rasterize_torch(
    gaussians: tuple[Tensor, Tensor, Tensor, Tensor],
    viewmats: Tensor,
    Ks: Tensor,
    options: ProjectionOptions,
    features: Callable[[Tensor], Tensor],
    tile_size: int,
) -> tuple[Tensor, Tensor, dict[str, Tensor], TileLists]:
    """Rasterize in plain torch, on any device and in any precision; see `cus.splats.rasterization` for the semantics.

    Args:
        gaussians: means [N, 3], quats [N, 4], scales [N, 3], opacities [N].
        viewmats: World-to-camera [C, 4, 4].
        Ks: Intrinsics [C, 3, 3] in pixels.
        options: Image size and limits.
        features: Maps depths [C, N] to the channels to composite [C, N, D].
        tile_size: Side of the tiles, pixels.

    Returns:
        Images [C, H, W, D], transmittances [C, H, W, 1], the per-Gaussian entries of info, and the lists.
    """
    projection = project(*gaussians, viewmats, Ks, options)
    lists = build_tile_lists(projection, options.width, options.height, tile_size)
    images, transmittances = rasterize_tiles(
        projection.means2d.flatten(0, 1), projection.conics.flatten(0, 1), features(projection.depths).flatten(0, 1),
        projection.opacities.flatten(), lists, options.width, options.height,
    )  # fmt: skip
    entries = {name: getattr(projection, name) for name in ("means2d", "radii", "depths", "conics", "opacities")}
    return images, transmittances, entries, lists


def rasterize_tiles(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, lists: TileLists, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Composite projected Gaussians.

    Args:
        means2d: Centres in pixels [M, 2]; M = cameras x Gaussians, indexed by `lists.ids`.
        conics: Upper triangles of the inverse 2D covariances [M, 3].
        colors: Colours with any number of channels [M, D].
        opacities: Opacities [M].
        lists: Gaussians of each tile.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        Colours over black [C, height, width, D] and transmittances [C, height, width, 1].
    """
    tile_colors, tile_transmittances = _Composite.apply(means2d, conics, colors, opacities, lists)  # type: ignore[misc]
    size = lists.tile_size
    stacked = torch.cat([tile_colors, tile_transmittances[:, None]], dim=1)
    grid = stacked.unflatten(0, (lists.cameras, lists.rows, lists.columns)).unflatten(-1, (size, size))
    images = grid.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
    return images[..., :-1], images[..., -1:]


@dataclass(frozen=True)
class _Segment:
    """A rectangular piece of work: up to `_SEGMENT` list entries of B tiles. ids [K, B] is M past the end of a list."""

    tiles: Tensor
    ids: Tensor
    pairs: Tensor
    transmittances: Tensor  # on entry [B, pixels]; 0 where the pixel has stopped


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, lists: TileLists):
        pixels = lists.tile_size**2
        table = _Table(means2d, conics, opacities, lists)
        tiles = len(lists.offsets) - 1
        padded_colors = torch.cat([colors, colors.new_zeros(1, colors.shape[1])])
        rendered = colors.new_zeros(tiles, colors.shape[1], pixels)
        transmittances = colors.new_ones(tiles, pixels)
        padded_ids = torch.cat([lists.ids, lists.ids.new_full((1,), len(means2d))])
        batches: list[list[_Segment]] = []
        for batch in _batches(lists, pixels):
            segments: list[_Segment] = []
            carry = transmittances[batch]
            for tiles_left, ids, pairs in _segments(batch, lists, padded_ids, carry):
                entry = carry[tiles_left]
                here = batch[tiles_left]
                weights, _, _, left, final = table.composite(here, ids, entry)
                rendered[here] += torch.bmm(_rows(padded_colors, ids).permute(1, 2, 0), weights.transpose(0, 1))
                transmittances[here] = torch.where(entry > 0, final, transmittances[here])
                carry[tiles_left] = left
                segments.append(_Segment(here, ids, pairs, entry))
            batches.append(segments)
        ctx.save_for_backward(means2d, conics, colors, opacities)
        ctx.lists, ctx.batches = lists, batches
        return rendered, transmittances

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rendered: Tensor, grad_transmittances: Tensor):  # type: ignore[override]
        means2d, conics, colors, opacities = ctx.saved_tensors
        table = _Table(means2d, conics, opacities, ctx.lists)
        padded_colors = torch.cat([colors, colors.new_zeros(1, colors.shape[1])])
        pair_grads = colors.new_zeros(len(ctx.lists.ids) + 1, 6 + colors.shape[1])
        for segments in ctx.batches:
            behind = grad_transmittances.clone() if len(segments) > 1 else grad_transmittances
            for segment in reversed(segments):
                here = segment.tiles
                weights, u, alphas, _, _ = table.composite(here, segment.ids, segment.transmittances)
                pixel_grads = grad_rendered[here]  # [B, D, pixels]
                # Derivative of the loss in the weight of each Gaussian at each pixel, its worth [K, B, pixels].
                worth = (
                    torch.bmm(_rows(padded_colors, segment.ids).transpose(0, 1), pixel_grads)
                    .transpose(0, 1)
                    .contiguous()
                )
                pair_grads[segment.pairs, 6:] = torch.bmm(pixel_grads, weights.permute(1, 2, 0)).permute(2, 0, 1)
                rest = _subtract_rest(worth, alphas, behind[here])
                if len(segments) > 1:
                    behind[here] = rest
                exponent_grads = weights.mul_(worth)
                if table.capped:
                    exponent_grads.masked_fill_(alphas >= ALPHA_MAX, 0)
                pair_grads[segment.pairs, :6] = table.moments(exponent_grads, u)
        grads = table.parameter_grads(pair_grads[:-1], ctx.lists)
        return *grads, None


def _subtract_rest(worth: Tensor, alphas: Tensor, behind: Tensor) -> Tensor:
    """Subtract from worths [K, B, pixels] the worth of what lies behind, in place; returns the latter for the first.

    The derivative of the loss in alpha_k is T_k (worth_k - rest_k), where rest_k is the worth of the composite of all
    Gaussians behind k on full transmittance: rest_{k-1} = alpha_k worth_k + (1 - alpha_k) rest_k. No division, so
    nothing is lost near alpha = 1.
    """
    rest = behind
    for worth_k, alpha_k in zip(reversed(worth.unbind()), reversed(alphas.unbind()), strict=True):
        in_front = torch.lerp(rest, worth_k, alpha_k)
        worth_k.sub_(rest)
        rest = in_front
    return rest


class _Table:
    """Gaussians prepared for evaluation, one row each, with a last row for padding."""

    def __init__(self, means2d: Tensor, conics: Tensor, opacities: Tensor, lists: TileLists) -> None:
        a, b, c = conics.unbind(-1)
        self._lists = lists
        # sigma = (root (dx + slant dy))^2 + steep dy^2
        columns = [
            means2d[:, 0],
            means2d[:, 1],
            (a / 2).sqrt(),
            b / a,
            (c - b * b / a).clamp_min(0) / 2,
            opacities.log(),
        ]
        rows = torch.stack(columns, dim=1)
        padding = rows.new_tensor([[0, 0, 0, 0, 0, _NOTHING]])
        self._rows = torch.cat([rows, padding])
        self.capped = bool((opacities > ALPHA_MAX).any())
        steps = torch.arange(lists.tile_size, dtype=rows.dtype, device=rows.device) - (lists.tile_size - 1) / 2
        y, x = (axis.reshape(-1) for axis in torch.meshgrid(steps, steps, indexing="ij"))
        ones = torch.ones_like(x)
        self._linear_basis = torch.stack([x, y, ones])  # [3, pixels]
        self._row_basis = torch.stack([ones, y, y * y])

    def _offsets(self, tiles: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [K, B, 6] of the table, and the x and y from each mean to the tile's centre [K, B] each."""
        lists = self._lists
        rows = _rows(self._rows, ids)
        column = tiles % lists.columns
        row = torch.div(tiles, lists.columns, rounding_mode="floor") % lists.rows
        half = lists.tile_size / 2
        dx = (column * lists.tile_size + half) - rows[..., 0]
        dy = (row * lists.tile_size + half) - rows[..., 1]
        return rows, dx, dy

    def composite(self, tiles: Tensor, ids: Tensor, entry: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Composite list entries ids [K, B] over pixels that arrive with transmittance `entry` [B, pixels].

        Returns:
            weights T alpha [K, B, pixels], u [K, B, pixels], alphas (0 where skipped or after the stop), the
            transmittances to continue with [B, pixels] (0 where stopped), and those to report.
        """
        rows, dx, dy = self._offsets(tiles, ids)
        _, _, root, slant, steep, log_opacity = rows.unbind(-1)
        linear = torch.stack([root, root * slant, root * (dx + slant * dy)], dim=-1)
        quadratic = torch.stack([log_opacity - steep * dy * dy, -2 * steep * dy, -steep], dim=-1)
        u = _product(linear, self._linear_basis)
        exponents = _product(quadratic, self._row_basis).addcmul_(u, u, value=-1)
        alphas = exponents.clamp_min_(_FAINTEST).exp_()
        torch.threshold_(alphas, ALPHA_CUTOFF, 0)
        if self.capped:
            alphas.clamp_max_(ALPHA_MAX)

        # before[k] is the transmittance in front of k; the last row is the remainder.
        before = alphas.new_empty(len(alphas) + 1, *entry.shape)
        before[0] = entry
        keep = 1 - alphas
        transmittances = before.unbind()
        for k, keep_k in enumerate(keep.unbind()):
            torch.mul(transmittances[k], keep_k, out=transmittances[k + 1])
        left = final = before[-1]
        if bool((left <= TRANSMITTANCE_STOP).any()):
            after = before[1:]
            going = after > TRANSMITTANCE_STOP
            alphas = torch.where(going, alphas, torch.zeros_like(entry))
            final = torch.where(going, after, entry).amin(dim=0)
            left = left * going[-1]
        return alphas * before[:-1], u, alphas, left, final

    def moments(self, exponent_grads: Tensor, u: Tensor) -> Tensor:
        """Sums over the pixels [K, B, 6]: gradients of the coefficients of the linear and the quadratic form."""
        quadratic = _product(exponent_grads, self._row_basis.T)
        linear = _product(exponent_grads.mul_(u), self._linear_basis.T)
        return torch.cat([-2 * linear, quadratic], dim=-1)

    def parameter_grads(self, pair_grads: Tensor, lists: TileLists) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of means2d, conics, colors and opacities from those of all (Gaussian, tile) pairs."""
        tiles = torch.repeat_interleave(lists.offsets.diff())
        rows, dx, dy = self._offsets(tiles, lists.ids)
        _, _, root, slant, steep, _ = rows.unbind(-1)
        g_x, g_y, g_1, h_1, h_y, h_yy = pair_grads[:, :6].unbind(-1)
        # Chain rule through `linear` and `quadratic` in `composite`.
        g_root = g_x + slant * g_y + (dx + slant * dy) * g_1
        g_slant = root * (g_y + dy * g_1)
        g_steep = -(dy * dy * h_1 + 2 * dy * h_y + h_yy)
        g_dx = root * g_1
        g_dy = root * slant * g_1 - 2 * steep * (dy * h_1 + h_y)
        per_pair = torch.cat([torch.stack([-g_dx, -g_dy, g_root, g_slant, g_steep, h_1], dim=1), pair_grads[:, 6:]], 1)
        summed = per_pair.new_zeros(len(self._rows) - 1, per_pair.shape[1]).index_add_(0, lists.ids, per_pair)

        _, _, root, slant, _, log_opacity = self._rows[:-1].unbind(-1)
        s_root, s_slant, s_steep, s_log = summed[:, 2:6].unbind(-1)
        a = 2 * root * root
        # root = sqrt(a / 2), slant = b / a, steep = (c - b^2 / a) / 2
        g_a = s_root / (4 * root) - s_slant * slant / a + s_steep * slant * slant / 2
        g_b = s_slant / a - s_steep * slant
        g_conics = torch.stack([g_a, g_b, s_steep / 2], dim=1)
        return summed[:, :2], g_conics, summed[:, 6:], s_log * torch.exp(-log_opacity)


def _rows(table: Tensor, ids: Tensor) -> Tensor:
    """table[ids], but twice as fast."""
    return table.index_select(0, ids.flatten()).unflatten(0, ids.shape)


def _product(stack: Tensor, matrix: Tensor) -> Tensor:
    """[K, B, n] @ [n, m] as one flat product: torch takes six times as long to broadcast it over the stack."""
    return torch.mm(stack.flatten(0, 1), matrix).unflatten(0, stack.shape[:2])


def _batches(lists: TileLists, pixels: int) -> Iterator[Tensor]:
    """Non-empty tiles, longest lists first, in groups that fit into one segment of work."""
    lengths, order = lists.offsets.diff().sort(descending=True, stable=True)
    host_lengths = lengths.tolist()
    filled = int((lengths > 0).sum())
    start = 0
    while start < filled:
        many = max(1, _BATCH_ENTRIES // (pixels * min(host_lengths[start], _SEGMENT)))
        yield order[start : min(start + many, filled)]
        start += many


def _segments(
    batch: Tensor, lists: TileLists, padded_ids: Tensor, carry: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Parts of the lists of a batch, front to back: (which of the batch [B], ids [K, B], places in lists.ids [K, B]).

    `carry` is re-read before each part: tiles drop out once every pixel has stopped.
    """
    start, end = lists.offsets[batch], lists.offsets[batch + 1]
    longest = int((end - start).max())
    nowhere = len(lists.ids)  # where padded_ids points at the padding row of the tables
    for first in range(0, longest, _SEGMENT):
        going = ((end - start > first) & (carry > 0).any(dim=1)).nonzero().squeeze(1)
        if len(going) == 0:
            return
        last = min(first + _SEGMENT, int((end - start)[going].max()))
        places = start[going] + torch.arange(first, last, device=batch.device)[:, None]
        places = torch.where(places < end[going], places, nowhere)
        yield going, padded_ids[places], places
