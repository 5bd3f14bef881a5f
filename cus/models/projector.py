"""Image projector: a perceiver resampler from the tokens of the CLIP image tower to context tokens of the U-Net."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F


class ResamplerLayer(nn.Module):
    """Queries attend to image tokens and themselves, followed by a feed-forward layer; both are residual."""

    def __init__(self, dim: int, heads: int, head_channels: int, hidden: int) -> None:
        super().__init__()
        inner = heads * head_channels
        self.heads = heads
        self.norm_tokens = nn.LayerNorm(dim)
        self.norm_queries = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, hidden, bias=False)
        self.narrow = nn.Linear(hidden, dim, bias=False)

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Tokens [B, L, dim], queries [B, Q, dim] -> queries [B, Q, dim]."""
        normed = self.norm_queries(queries)
        k, v = self.to_kv(torch.cat([self.norm_tokens(tokens), normed], dim=1)).chunk(2, dim=-1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (self.to_q(normed), k, v))
        read = F.scaled_dot_product_attention(q, k, v)
        queries = queries + self.to_out(read.transpose(1, 2).flatten(2))
        return queries + self.narrow(F.gelu(self.widen(self.norm_feed_forward(queries))))


class ImageProjector(ModelMixin, ConfigMixin):
    """Turns image tokens into a fixed number of context tokens.

    Args:
        token_dim: width of the image tower's tokens.
        context_dim: width of the U-Net's context.
        dim: inner width.
        depth: number of layers.
        heads: number of attention heads per layer.
        head_channels: width of an attention head.
        num_tokens: number of context tokens.
        hidden_mult: width of the feed-forward layers, as a multiple of `dim`.
    """

    @register_to_config
    def __init__(
        self,
        token_dim: int = 1280,
        context_dim: int = 1024,
        dim: int = 1024,
        depth: int = 4,
        heads: int = 12,
        head_channels: int = 64,
        num_tokens: int = 256,
        hidden_mult: int = 4,
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)
        self.proj_in = nn.Linear(token_dim, dim)
        self.layers = nn.ModuleList(ResamplerLayer(dim, heads, head_channels, hidden_mult * dim) for _ in range(depth))
        self.proj_out = nn.Linear(dim, context_dim)
        self.norm_out = nn.LayerNorm(context_dim)

    def forward(self, image_tokens: Tensor) -> Tensor:
        """Image tokens [B, L, token_dim] -> context tokens [B, num_tokens, context_dim].

        Raises:
            ValueError: the tokens have a wrong shape.
        """
        width = self.config["token_dim"]
        if image_tokens.ndim != 3 or image_tokens.shape[-1] != width:
            raise ValueError(f"image_tokens is {tuple(image_tokens.shape)}; expected [B, L, {width}]")
        tokens = self.proj_in(image_tokens)
        queries = self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            queries = layer(tokens, queries)
        return self.norm_out(self.proj_out(queries))
