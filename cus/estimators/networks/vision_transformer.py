"""The backbone of Depth Anything 3: a DINOv2 vision transformer whose later blocks also attend across views.

Lin et al. 2025, section 3.1; DINOv2: Oquab et al. 2023. Attributes are named like the tensors of the public
checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 14  # patch side in pixels
TABLE = 37  # side of the table of learned positions in patches
DEPTH = 12  # number of blocks
HEAD_WIDTH = 64
JOINT = 4  # first block with rotary positions and a camera token; from here on odd blocks attend across views
TAPS = (5, 7, 9, 11)  # blocks whose features the heads read
CHOICE_FROM = 3  # number of views from which on the reference is chosen; with fewer it is the first
ROTARY_BASE = 100.0


class Attention(nn.Module):
    """Self-attention of tokens [B, N, C] with optionally normalised and position-rotated queries and keys."""

    def __init__(self, width: int, heads: int, normed: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if normed else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if normed else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, turns: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]; turns: [2, N, C / heads] from `rotary_turns`, or None."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if turns is not None:
            q, k = turned(q, turns), turned(k, turns)
        return self.proj(F.scaled_dot_product_attention(q.to(v), k.to(v), v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Scale [..., C] by channel."""
        return tokens * self.gamma


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] -> [..., out]."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a norm before, a scale after, and a residual connection."""

    def __init__(self, width: int, heads: int, eps: float, normed: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, normed)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width, width)
        self.ls2 = LayerScale(width)

    def forward(self, tokens: Tensor, turns: Tensor | None = None) -> Tensor:
        """[B, N, C] -> [B, N, C]; turns: as for `Attention`."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), turns))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class PatchEmbedding(nn.Module):
    """A token for each patch, row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [V, 3, H, W] -> tokens [V, rows * columns, C]."""
        return self.proj(pictures).flatten(2).transpose(1, 2)


class MultiViewTransformer(nn.Module):
    """DINOv2 for V views at once.

    Up to block `JOINT` every view is processed separately. There a camera token replaces the class token, and from
    there on odd blocks attend to the tokens of all views, even ones to those of one view.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.camera_token = nn.Parameter(torch.zeros(1, 2, width))  # for the reference, and for all other views
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TABLE**2, width))
        self.patch_embed = PatchEmbedding(width)
        self.blocks = nn.ModuleList(
            Block(width, width // HEAD_WIDTH, eps=1e-6, normed=index >= JOINT) for index in range(DEPTH)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, pictures: Tensor, cameras: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The features for the heads.

        Args:
            pictures: [V, 3, H, W] normalised pictures, H and W multiples of `PATCH`.
            cameras: [V, C] tokens of known cameras, or None.

        Returns:
            (features, cameras): for each of `TAPS` [V, N, 2 C], one row per patch: the output of the last block within
            views and that of the last block across views, normalised; and the same for the camera tokens at the last
            tap, [V, 2 C], not normalised.
        """
        views, _, height, width = pictures.shape
        grid = height // PATCH, width // PATCH
        within = rotary_turns(patch_positions(grid).to(pictures.device))
        # Across views all patches have the same position.
        across = rotary_turns(patch_positions(grid).clamp(max=1).to(pictures.device)).repeat(1, views, 1)
        patches = self.patch_embed(pictures)
        tokens = torch.cat([self.cls_token.expand(views, -1, -1).to(patches), patches], 1) + self.positions(grid)
        order = torch.arange(views, device=pictures.device)
        features, own, last = [], tokens, tokens
        for index, block in enumerate(self.blocks):
            if index == JOINT - 1 and cameras is None and views >= CHOICE_FROM:
                order = reference_first(tokens[:, 0])
                tokens = tokens[order]
            if index == JOINT:
                first = self._learned_cameras(views) if cameras is None else cameras
                tokens = torch.cat([first[:, None].to(tokens), tokens[:, 1:]], dim=1)
            if index < JOINT:
                tokens = block(tokens)
            elif index % 2 == 0:
                tokens = own = block(tokens, within)
            else:
                tokens = block(tokens.flatten(0, 1)[None], across)[0].unflatten(0, (views, -1))
            if index in TAPS:
                back = order.argsort()
                last = torch.cat([own, tokens], dim=-1)[back]
                features.append(torch.cat([own, self.norm(tokens)], dim=-1)[back, 1:])
        return features, last[:, 0]

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """[1, 1 + rows * columns, C] learned positions for a grid of patches, that of the class token first."""
        table = self.pos_embed[:, 1:].unflatten(1, (TABLE, TABLE)).permute(0, 3, 1, 2)
        if grid != (TABLE, TABLE):
            # The added tenth is from DINOv2, and its weights expect it: it shifts every sample slightly.
            factors = tuple((side + 0.1) / TABLE for side in grid)
            table = F.interpolate(table, scale_factor=factors, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).transpose(1, 2)], dim=1)

    def _learned_cameras(self, views: int) -> Tensor:
        reference, other = self.camera_token[0]
        return torch.stack([reference] + [other] * (views - 1))


def patch_positions(grid: tuple[int, int]) -> Tensor:
    """[1 + rows * columns, 2] row and column of each token: 0, 0 for the first, which is not a patch; others from 1."""
    rows, columns = (torch.arange(1.0, side + 1) for side in grid)
    return torch.cat([torch.zeros(1, 2), torch.cartesian_prod(rows, columns)])


def rotary_turns(positions: Tensor) -> Tensor:
    """[2, N, HEAD_WIDTH] cosines and sines of the angles by which positions [N, 2] rotate a query or a key.

    The first half of the channels is for the row, the second for the column; within each, the channels i and i + 16 are
    the coordinates rotated by an angle (RoPE in two dimensions, Heo et al. 2024).
    """
    count = HEAD_WIDTH // 4
    frequencies = ROTARY_BASE ** -(torch.arange(count, device=positions.device) / count)
    angles = (positions[:, :, None] * frequencies)[:, :, None, :].expand(-1, -1, 2, -1).flatten(1)
    return torch.stack([angles.cos(), angles.sin()])


def turned(values: Tensor, turns: Tensor) -> Tensor:
    """Rotate queries or keys [..., N, HEAD_WIDTH] by `rotary_turns`."""
    first, second = values.unflatten(-1, (2, 2, -1)).unbind(-2)
    quarter = torch.stack([-second, first], dim=-2).flatten(-3)
    cosines, sines = turns.to(values.dtype)
    return values * cosines + quarter * sines


def reference_first(class_tokens: Tensor) -> Tensor:
    """[V] indices of the views with the reference first.

    The reference is the most typical view: three measures of its class token are each normalised to [0, 1] over the
    views, and the sum of their distances from 0.5 is minimal. The measures: mean cosine similarity to the other views,
    length, variance.

    Args:
        class_tokens: [V, C] class tokens of the views.
    """
    tokens = class_tokens.float()
    views, lengths = len(tokens), tokens.norm(dim=-1)
    unit = tokens / lengths[:, None]
    similarities = ((unit @ unit.T).sum(dim=1) - 1) / (views - 1)
    measures = torch.stack([similarities, lengths, unit.var(dim=-1)])
    low, high = measures.aminmax(dim=1, keepdim=True)
    reference = ((measures - low) / (high - low + 1e-8) - 0.5).abs().sum(dim=0).argmin()
    others = torch.arange(views, device=tokens.device)
    return torch.cat([reference[None], others[others != reference]])
