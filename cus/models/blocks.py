"""Convolutional blocks of the video U-Net: residual block with temporal convolution, and the two resamplings.

Maps are [B*T, C, h, w] in channels-last memory throughout.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from cus.models.attention import maps_from_tokens, tokens_from_maps, zero_module
from cus.models.norm import GroupNorm


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions around an added time embedding, with a shortcut, then a temporal convolution.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels; if they differ, the shortcut is a 1x1 convolution.
        embedding_dim: width of the time embedding.
        groups: number of groups in the group norms.
        dropout: dropout probability in the second layer of both halves.
    """

    def __init__(self, in_channels: int, out_channels: int, embedding_dim: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(embedding_dim, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=1e-5)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.temporal = TemporalConv(out_channels, groups, dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Maps [B*T, C, h, w] and embedding [B, E] (before its SiLU) -> maps [B*T, C', h, w]."""
        frames = x.shape[0] // embedding.shape[0]
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.embedding(F.silu(embedding)).repeat_interleave(frames, dim=0)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.temporal(self.shortcut(x) + h, frames)


class TemporalConv(nn.Module):
    """Four normalised convolutions over three frames each, in a residual branch.

    A (3, 1, 1) convolution of [B, C, T, h, w] is a (3, 1) convolution of [B, C, T, h*w], which is a view of
    channels-last maps.
    """

    def __init__(self, channels: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(GroupNorm(groups, channels, eps=1e-5) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)) for _ in range(4))
        self.dropout = nn.Dropout(dropout)
        zero_module(self.convs[-1])

    def forward(self, maps: Tensor, frames: int) -> Tensor:
        """Maps [B*T, C, h, w] with `frames` = T -> maps of the same shape."""
        h = tokens_from_maps(maps, frames).permute(0, 3, 1, 2)
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            h = F.silu(norm(h))
            h = conv(self.dropout(h) if i > 0 else h)
        return maps + maps_from_tokens(h.permute(0, 2, 3, 1), maps)


class Downsample(nn.Module):
    """3x3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, h, w] -> [N, C, h / 2, w / 2]."""
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, h, w] -> [N, C, 2h, 2w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
