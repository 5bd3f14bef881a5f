"""Transformers over space and time for the video U-Net.

Everything here works on *tokens*, [B, T, S, C] with S = h * w. A feature map [B*T, C, h, w] in channels-last memory has
the same bytes, so nothing is copied between a convolution and an attention; and an attention over time is one over
space with the two token axes read in the other order (see `TimeAttention`).
"""

from dataclasses import dataclass
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cus.choices import AttentionBackend
from cus.models.norm import GroupNorm

Module = TypeVar("Module", bound=nn.Module)


# CUDA's attention kernels launch at most 65535 blocks along the head axis.
MAX_HEADS_PER_CALL = 65535
# The CPU's fused kernel is made for long rows: with 16 keys, forward and backward take eight times as long as the two
# plain products.
FEW_KEYS = 32
# Without gradients, and with gradient checkpointing, wide layers process this many tokens at a time: their hidden
# values, eight times as wide as the tokens, would be the largest tensors of the whole network.
TOKENS_AT_A_TIME = 1 << 15

KeysValues = tuple[Tensor, Tensor, Tensor, Tensor]
"""Keys and values of the text tokens, then of the image tokens."""


@dataclass(frozen=True)
class Context:
    """Tokens for the cross-attention, split once for all layers.

    Attributes:
        text: [B, L, C] text tokens, shared by every frame.
        image: [B, G, L, C] image tokens: G = 1 (every frame reads all of them) or G = T (each frame has its own).
        projected: each attention's keys and values, if precomputed: they are the same at every denoising step.
    """

    text: Tensor
    image: Tensor
    projected: dict["ContextAttention", KeysValues] | None = None

    @property
    def frames(self) -> int | None:
        """The number of frames it is for, or None if all frames read the same tokens."""
        return None if self.image.shape[1] == 1 else self.image.shape[1]


def split_context(context: Tensor, frames: int, text_tokens: int, frame_tokens: int) -> Context:
    """Split a context into text and image tokens by the reference model's rule.

    The first `text_tokens` are text. If exactly `frame_tokens * frames` tokens follow, they belong to the frames in
    turn; otherwise every frame reads all of them.

    Args:
        context: [B, L, C] context tokens.
        frames: number of frames T.
        text_tokens: number of text tokens, 77 in the reference model.
        frame_tokens: number of image tokens per frame if each frame has its own, 16 in the reference model.

    Raises:
        ValueError: the context is too short to contain an image token.
    """
    if context.shape[1] <= text_tokens:
        wanted = f"{text_tokens} text tokens and at least 1 image token"
        raise ValueError(f"context has {context.shape[1]} tokens; expected {wanted}")
    text, image = context[:, :text_tokens], context[:, text_tokens:]
    groups = frames if image.shape[1] == frame_tokens * frames else 1
    return Context(text, image.unflatten(1, (groups, -1)))


class SpaceAttention(nn.Module):
    """Multi-head self-attention among the tokens of each frame. Tokens [B, T, S, C] in and out."""

    def __init__(self, channels: int, heads: int, head_channels: int) -> None:
        super().__init__()
        inner = heads * head_channels
        self.backend: AttentionBackend = "sdpa"
        self.head_channels = head_channels
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(channels, inner, bias=False)
        self.to_v = nn.Linear(channels, inner, bias=False)
        self.to_out = nn.Linear(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, T, S, C] -> tokens of the same shape."""
        q, k, v = (self._heads(project(x)) for project in (self.to_q, self.to_k, self.to_v))
        return self.to_out(_attend(q, k, v, self.backend).transpose(1, 2).reshape(*x.shape[:3], -1))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, S, H*d] -> [B*T, H, S, d], a view."""
        b, t, s, _ = x.shape
        return x.reshape(b * t, s, -1, self.head_channels).transpose(1, 2)


class TimeAttention(SpaceAttention):
    """Multi-head self-attention among the frames at each position. Tokens [B, T, S, C] in and out.

    Positions are read as additional heads: [B, S*H, T, d] is a view of the tokens in memory, whereas the usual
    [B*S, H, T, d] would need a transposed copy of each of q, k, v and the result.
    """

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], -1, self.head_channels).transpose(1, 2)


class ContextAttention(nn.Module):
    """Cross-attention to text and, with a second pair of key and value projections, to image tokens; both are added.

    Queries of all frames that read the same tokens form one sequence: shared keys and values are stored once, not T
        times.
    """

    def __init__(self, channels: int, heads: int, head_channels: int, context_dim: int) -> None:
        super().__init__()
        inner = heads * head_channels
        self.backend: AttentionBackend = "sdpa"
        self.head_channels = head_channels
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(context_dim, inner, bias=False)
        self.to_v = nn.Linear(context_dim, inner, bias=False)
        self.to_k_image = nn.Linear(context_dim, inner, bias=False)
        self.to_v_image = nn.Linear(context_dim, inner, bias=False)
        self.to_out = nn.Linear(inner, channels)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Tokens [B, T, S, C] -> tokens of the same shape."""
        q = self.to_q(x)
        known = None if context.projected is None else context.projected.get(self)
        k, v, k_image, v_image = self.project(context) if known is None else known
        return self.to_out(self._read(q, k, v) + self._read(q, k_image, v_image))

    def project(self, context: Context) -> KeysValues:
        """Keys and values: [B, 1, L, H*d] for the text and [B, G, L, H*d] for the image tokens."""
        text = context.text[:, None]
        return self.to_k(text), self.to_v(text), self.to_k_image(context.image), self.to_v_image(context.image)

    def _read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Q [B, T, S, C], k and v [B, G, L, C] with G = 1 or T -> [B, T, S, C]."""
        rows = k.shape[0] * k.shape[1]
        q_heads, k, v = (
            a.reshape(rows, -1, a.shape[-1] // self.head_channels, self.head_channels).transpose(1, 2)
            for a in (q, k, v)
        )
        return _attend(q_heads, k, v, self.backend).transpose(1, 2).reshape(q.shape)


def _attend(q: Tensor, k: Tensor, v: Tensor, backend: AttentionBackend = "sdpa") -> Tensor:
    """Attention of q [N, H, L, d] to k and v [N, H, M, d], by the fastest method for the shape and device."""
    if backend == "xformers":
        from cus.models.xformers_attention import attend

        return attend(q, k, v)
    if q.device.type == "cpu" and k.shape[2] <= FEW_KEYS:
        return torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3)).softmax(-1) @ v
    if q.shape[1] <= MAX_HEADS_PER_CALL:
        return F.scaled_dot_product_attention(q, k, v)
    parts = zip(*(a.split(MAX_HEADS_PER_CALL, dim=1) for a in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts], dim=1)


class FeedForward(nn.Module):
    """Two linear layers, the first gated by a GELU (GEGLU), four times as wide inside."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        # `UNet.enable_gradient_checkpointing` sets this and its function.
        self.gradient_checkpointing = False
        self.widen = nn.Linear(channels, 8 * channels)
        self.narrow = nn.Linear(4 * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [..., C] -> tokens of the same shape."""
        learns = torch.is_grad_enabled()
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) <= TOKENS_AT_A_TIME or (learns and not self.gradient_checkpointing):
            return self._feed(x)
        if learns:
            fed = [self._gradient_checkpointing_func(self._feed, part) for part in rows.split(TOKENS_AT_A_TIME)]  # pyright: ignore[reportCallIssue]
            return torch.cat(fed).view(x.shape)
        fed = torch.empty_like(rows)
        for start in range(0, len(rows), TOKENS_AT_A_TIME):
            part = slice(start, start + TOKENS_AT_A_TIME)
            fed[part] = self._feed(rows[part])
        return fed.view(x.shape)

    def _feed(self, x: Tensor) -> Tensor:
        value, gate = self.widen(x).chunk(2, dim=-1)
        return self.narrow(self.dropout(value * F.gelu(gate)))


class SpaceBlock(nn.Module):
    """Pre-norm transformer block: attention within the frame, to the context, feed-forward."""

    def __init__(self, channels: int, heads: int, head_channels: int, context_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(channels)
        self.self_attention = SpaceAttention(channels, heads, head_channels)
        self.norm_context = nn.LayerNorm(channels)
        self.context_attention = ContextAttention(channels, heads, head_channels, context_dim)
        self.norm_feed_forward = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Tokens [B, T, S, C] -> tokens of the same shape."""
        x = x + self.self_attention(self.norm_self(x))
        x = x + self.context_attention(self.norm_context(x), context)
        return x + self.feed_forward(self.norm_feed_forward(x))


class TimeBlock(nn.Module):
    """Pre-norm transformer block over time: two self-attentions (the context is not read here), then feed-forward."""

    def __init__(self, channels: int, heads: int, head_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm_first = nn.LayerNorm(channels)
        self.first_attention = TimeAttention(channels, heads, head_channels)
        self.norm_second = nn.LayerNorm(channels)
        self.second_attention = TimeAttention(channels, heads, head_channels)
        self.norm_feed_forward = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, T, S, C] -> tokens of the same shape."""
        x = x + self.first_attention(self.norm_first(x))
        x = x + self.second_attention(self.norm_second(x))
        return x + self.feed_forward(self.norm_feed_forward(x))


@dataclass(frozen=True)
class TransformerShape:
    """Sizes that all transformers of one U-Net share."""

    head_channels: int
    depth: int
    norm_groups: int
    dropout: float


class SpaceTransformer(nn.Module):
    """Residual transformer over the positions of each frame."""

    def __init__(self, channels: int, context_dim: int, shape: TransformerShape) -> None:
        super().__init__()
        heads, d = channels // shape.head_channels, shape.head_channels
        self.norm = GroupNorm(shape.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, heads * d)
        self.blocks = nn.ModuleList(
            SpaceBlock(heads * d, heads, d, context_dim, shape.dropout) for _ in range(shape.depth)
        )
        self.proj_out = zero_module(nn.Linear(heads * d, channels))

    def forward(self, maps: Tensor, context: Context) -> Tensor:
        """Maps [B*T, C, h, w] -> maps of the same shape."""
        frames = maps.shape[0] // context.text.shape[0]
        x = self.proj_in(tokens_from_maps(self.norm(maps), frames))
        for block in self.blocks:
            x = block(x, context)
        return maps + maps_from_tokens(self.proj_out(x), maps)


class TimeTransformer(nn.Module):
    """Residual transformer over the frames at each position; its first norm spans all frames."""

    def __init__(self, channels: int, heads: int, shape: TransformerShape) -> None:
        super().__init__()
        d = shape.head_channels
        self.norm = GroupNorm(shape.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, heads * d)
        self.blocks = nn.ModuleList(TimeBlock(heads * d, heads, d, shape.dropout) for _ in range(shape.depth))
        self.proj_out = zero_module(nn.Linear(heads * d, channels))

    def forward(self, maps: Tensor, frames: int) -> Tensor:
        """Maps [B*T, C, h, w] with `frames` = T -> maps of the same shape."""
        x = tokens_from_maps(maps, frames)
        x = self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.proj_in(x)
        for block in self.blocks:
            x = block(x)
        return maps + maps_from_tokens(self.proj_out(x), maps)


def set_attention_backend(model: nn.Module, backend: AttentionBackend) -> None:
    """Choose the implementation of every attention in a model: "sdpa" (PyTorch's) or "xformers".

    Raises:
        InputError: xformers is not installed.
        ValueError: an unknown backend.
    """
    if backend not in get_args(AttentionBackend):
        raise ValueError(f"unknown attention backend {backend!r}; expected {', '.join(get_args(AttentionBackend))}")
    if backend == "xformers":
        from cus.models.xformers_attention import check_installed

        check_installed()
    for module in model.modules():
        if isinstance(module, SpaceAttention | ContextAttention):
            module.backend = backend


def tokens_from_maps(maps: Tensor, frames: int) -> Tensor:
    """Maps [B*T, C, h, w] -> tokens [B, T, h*w, C]; a view where the maps are channels-last."""
    n, c, h, w = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(n // frames, frames, h * w, c)


def maps_from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """Tokens [B, T, h*w, C] -> channels-last maps [B*T, C, h, w] of the size of `like`; a view."""
    return tokens.reshape(like.shape[0], like.shape[2], like.shape[3], -1).permute(0, 3, 1, 2)


def zero_module(module: Module) -> Module:
    """The module with all parameters set to zero: a residual branch that is inactive at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
