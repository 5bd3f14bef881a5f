"""Depth of one picture, by a network trained without depth labels (Minciullo et al. 2023, arXiv 2308.14108).

A ResNet-18 encoder and a depth decoder with skips (Godard et al. 2019). The latent is a set of points that a camera's
motion transforms (`Pose`), so that the same decoder gives the depth of another camera: this is used in training, by
`cus.training.single_view`; here there is no motion.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cus.errors import InputError
from cus.limits import limited

LEVELS = 5  # halvings in the encoder; sides of pictures are multiples of 2 ** LEVELS
STEP = 2**LEVELS


@dataclass(frozen=True)
class Form:
    """Size and range of the network.

    Attributes:
        width: number of channels of the encoder's first two levels; ResNet-18 has 64.
        points: number of the latent's points at each position.
        nearest: smallest depth over focal length in its range, in scene units and with the focal length in units of
            the picture's longest side.
        farthest: largest depth over focal length in its range, in the same units.
    """

    width: int = limited(64, low=4, high=512)
    points: int = limited(64, low=1, high=4096)
    nearest: float = limited(0.4, above=0)
    farthest: float = limited(80.0, above=0)

    def __post_init__(self) -> None:
        # Settings are constructed before they are filled in.
        if isinstance(self.nearest, float) and not self.nearest < self.farthest:
            raise InputError(f"form.nearest must be below form.farthest, got {self.nearest} and {self.farthest}")

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Numbers of channels of the encoder's levels, the finest first."""
        return self.width, self.width, 2 * self.width, 4 * self.width, 8 * self.width

    def to_dict(self) -> dict[str, Any]:
        """Its fields as plain values."""
        return asdict(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with an identity shortcut, or a 1x1 convolution if the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = None
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        kept = features if self.shortcut is None else self.shortcut(features)
        inner = F.relu(self.norm1(self.conv1(features)))
        return F.relu(kept + self.norm2(self.conv2(inner)))


class Encoder(nn.Module):
    """ResNet-18 without its head: features at 1/2, 1/4, 1/8, 1/16 and 1/32."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, form.width, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(form.width)
        layers = []
        for before, after in zip(form.channels[:-1], form.channels[1:], strict=True):
            layers.append(nn.Sequential(BasicBlock(before, after, 2 if layers else 1), BasicBlock(after, after, 1)))
        self.layers = nn.ModuleList(layers)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] -> five maps, the finest first."""
        features = [F.relu(self.norm(self.conv((pictures - 0.45) / 0.225)))]
        coarse = F.max_pool2d(features[0], 3, 2, 1)
        for layer in self.layers:
            coarse = layer(coarse)
            features.append(coarse)
        return features


class Pose(nn.Module):
    """The latent as points in space, transformed from one camera to another."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.to_points = nn.Conv2d(form.channels[-1], 3 * form.points, 1)
        self.from_points = nn.Conv2d(3 * form.points, form.channels[-1], 1)

    def forward(self, latent: Tensor, viewmats: Tensor | None = None) -> Tensor:
        """Transform [B, C, h, w] from one camera to another by `viewmats` [B, 4, 4]; None: the same camera."""
        points = self.to_points(latent)
        if viewmats is not None:
            batch, _, height, width = points.shape
            triples = points.float().reshape(batch, -1, 3, height * width)
            with torch.autocast(points.device.type, enabled=False):
                moved = torch.einsum("bij,bnjp->bnip", viewmats[:, :3, :3], triples) + viewmats[:, None, :3, 3:]
            points = moved.reshape(batch, -1, height, width)
        return F.relu(self.from_points(points))


class Block(nn.Module):
    """A 3x3 convolution and ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H, W]."""
        return F.relu(self.conv(features))


class Decoder(nn.Module):
    """Decodes a latent at 1/32 and skips at 1/16 to 1/2 to features at 1/2."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        coarse, skips = form.channels[-1], form.channels[-2::-1]
        enter, join = [], []
        for skip in skips:
            after = max(skip // 2, 16)
            enter.append(Block(coarse, after))
            join.append(Block(after + skip, after))
            coarse = after
        self.enter, self.join = nn.ModuleList(enter), nn.ModuleList(join)
        self.channels = coarse

    def forward(self, latent: Tensor, skips: list[Tensor]) -> Tensor:
        """Latent [B, C, h, w] and four maps, the finest first -> [B, `channels`, 16 h, 16 w]."""
        for enter, join, skip in zip(self.enter, self.join, reversed(skips), strict=True):
            latent = F.interpolate(enter(latent), scale_factor=2.0, mode="nearest")
            latent = join(torch.cat([latent, skip.to(latent)], dim=1))
        return latent


class DepthDecoder(nn.Module):
    """Decodes a latent and skips to depth over focal length."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.decoder = Decoder(form)
        self.head = nn.Conv2d(self.decoder.channels, 1, 3, padding=1)
        # Without this initial value everything starts at the nearest depth; this is about 3 units away.
        nn.init.constant_(self.head.bias, -1.9)  # pyright: ignore[reportArgumentType]

    def forward(self, latent: Tensor, skips: list[Tensor]) -> Tensor:
        """Latent [B, C, h, w] and four maps -> [B, 1, 16 h, 16 w] positive."""
        near, far = 1 / self.form.nearest, 1 / self.form.farthest
        return 1 / (far + (near - far) * self.head(self.decoder(latent, skips)).float().sigmoid())


class SingleViewDepth(nn.Module):
    """Depth of a picture from nothing but the picture."""

    def __init__(self, form: Form | None = None) -> None:
        super().__init__()
        self.form = form or Form()
        self.encoder, self.pose = Encoder(self.form), Pose(self.form)
        self.depth = DepthDecoder(self.form)

    def forward(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1], sides multiples of `STEP` -> depth over focal length [B, 1, H / 2, W / 2].

        Multiplied by the focal length in units of the picture's longest side, this is z-depth in the unit of the
        training scenes.
        """
        *skips, latent = self.encoder(pictures)
        return self.depth(self.pose(latent), skips)
