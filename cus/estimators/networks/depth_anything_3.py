"""Depth Anything 3 (Lin et al. 2025), small and base: depth, confidence and cameras of any number of views.

Written from the paper and the numbers of the public code (https://github.com/ByteDance-Seed/Depth-Anything-3), checked
against these numbers by tests/estimators/test_depth_anything_3.py. Its depth head is a dense prediction transformer
(DPT, Ranftl et al. 2021); the backbone is `cus.estimators.networks.vision_transformer`. Attributes are named like the
tensors of the public checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cus.estimators.networks.vision_transformer import PATCH, Block, Mlp, MultiViewTransformer

ENCODING = 9  # numbers of a camera: translation, quaternion (x, y, z, w), vertical and horizontal field of view
POSITION_STRENGTH = 0.1
POSITION_BASE = 100.0
LAST_WIDTH = 32  # channels before the last layer
RAYS = 7  # channels of the ray map and its confidence
VIEWS_AT_A_TIME = 4  # views per batch of the depth head, whose maps are large


class DepthHead(nn.Module):
    """Depth and its confidence for every pixel, from the features of four blocks.

    The features become maps at 4, 2, 1 and 1/2 times the resolution of the patches, which are fused from the coarsest
    to the finest. The checkpoints contain a second chain of the same form, for rays; it is included here, so that
    checkpoints match tensor by tensor, but not run: cameras come from the camera tokens.
    """

    def __init__(self, width: int, features: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.projects = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(channels[0], channels[0], 4, 4),
                nn.ConvTranspose2d(channels[1], channels[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(channels[3], channels[3], 3, 2, 1),
            ]
        )
        scratch: dict[str, nn.Module] = {}
        for level, count in enumerate(channels, start=1):
            scratch[f"layer{level}_rn"] = nn.Conv2d(count, features, 3, padding=1, bias=False)
            scratch[f"refinenet{level}"] = Fusion(features, lateral=level < len(channels))
            scratch[f"refinenet{level}_aux"] = Fusion(features, lateral=level < len(channels))
        half = features // 2
        scratch["output_conv1"] = nn.Conv2d(features, half, 3, padding=1)
        scratch["output_conv2"] = nn.Sequential(
            nn.Conv2d(half, LAST_WIDTH, 3, padding=1), nn.ReLU(), nn.Conv2d(LAST_WIDTH, 2, 1)
        )
        scratch["output_conv1_aux"] = nn.ModuleList(_ray_neck(features, half) for _ in channels)
        scratch["output_conv2_aux"] = nn.ModuleList(_ray_output(half) for _ in channels)
        self.scratch = nn.ModuleDict(scratch)

    def forward(self, features: Sequence[Tensor], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Predict (depths, confidences), each [V, H, W]: positive, and above 1.

        Args:
            features: four tensors [V, rows * columns, C].
            grid: (rows, columns) of patches; H and W are `PATCH` times as many.
        """
        aspect = grid[1] / grid[0]
        maps = []
        layers = zip(features, self.projects, self.resize_layers, strict=True)
        for level, (tokens, project, resize) in enumerate(layers, start=1):
            patches = self.norm(tokens).transpose(1, 2).unflatten(2, grid)
            resized = resize(with_positions(project(patches), aspect))
            maps.append(self.scratch[f"layer{level}_rn"](resized))
        fused = self.scratch["refinenet4"](maps[3], None, maps[2].shape[-2:])
        fused = self.scratch["refinenet3"](fused, maps[2], maps[1].shape[-2:])
        fused = self.scratch["refinenet2"](fused, maps[1], maps[0].shape[-2:])
        fused = self.scratch["refinenet1"](fused, maps[0], [2 * side for side in maps[0].shape[-2:]])
        size = [PATCH * side for side in grid]
        fine = F.interpolate(self.scratch["output_conv1"](fused), size, mode="bilinear", align_corners=True)
        depth, confidence = self.scratch["output_conv2"](with_positions(fine, aspect)).unbind(dim=1)
        return depth.exp(), 1 + confidence.exp()


class Fusion(nn.Module):
    """Fuses a coarse map with a finer one, if any, then refines and enlarges it."""

    def __init__(self, features: int, lateral: bool) -> None:
        super().__init__()
        if lateral:
            self.resConfUnit1 = ResidualConvolutions(features)
        self.resConfUnit2 = ResidualConvolutions(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, coarse: Tensor, lateral: Tensor | None, size: Sequence[int]) -> Tensor:
        """[V, C, *size] from a map [V, C, h, w] and a finer one [V, C, h, w], or None."""
        if lateral is not None:
            coarse = coarse + self.resConfUnit1(lateral)
        refined = self.resConfUnit2(coarse)
        return self.out_conv(F.interpolate(refined, list(size), mode="bilinear", align_corners=True))


class ResidualConvolutions(nn.Module):
    """Two convolutions, each after a ReLU, added to their input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, values: Tensor) -> Tensor:
        """Maps [V, C, h, w] -> maps of the same shape."""
        return values + self.conv2(self.conv1(values.relu()).relu())


class CameraDecoder(nn.Module):
    """Cameras [V, ENCODING], camera to world, from their tokens [V, C]; fields of view are at least 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t = nn.Linear(width, 3)
        self.fc_qvec = nn.Linear(width, 4)
        self.fc_fov = nn.Sequential(nn.Linear(width, 2), nn.ReLU())

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [V, C] -> cameras [V, ENCODING]."""
        values = self.backbone(tokens)
        return torch.cat([self.fc_t(values), self.fc_qvec(values), self.fc_fov(values)], dim=-1)


class CameraEncoder(nn.Module):
    """Tokens [V, C] of known cameras [V, ENCODING], camera to world, with attention between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pose_branch = Mlp(ENCODING, width // 2, width)
        self.token_norm = nn.LayerNorm(width)
        self.trunk = nn.Sequential(*(Block(width, heads=16, eps=1e-5) for _ in range(4)))
        self.trunk_norm = nn.LayerNorm(width)

    def forward(self, cameras: Tensor) -> Tensor:
        """Cameras [V, ENCODING] -> tokens [V, C]."""
        return self.trunk_norm(self.trunk(self.token_norm(self.pose_branch(cameras))[None]))[0]


def with_positions(maps: Tensor, aspect: float) -> Tensor:
    """Add faint waves of the position in the picture to feature maps [V, C, h, w].

    Positions are relative to the middle, in units of half the picture's diagonal; the first half of the channels is
    for x, the second for y, each with sines and cosines of decreasing frequencies.

    Args:
        maps: [V, C, h, w] feature maps.
        aspect: width over height of the picture.
    """
    channels, height, width = maps.shape[-3:]
    diagonal = (1 + aspect**2) ** 0.5
    count = channels // 4
    frequencies = POSITION_BASE ** -(torch.arange(count, device=maps.device) / count)

    def waves(side: int, span: float) -> Tensor:
        edge = span * (side - 1) / side
        angles = frequencies[:, None] * torch.linspace(-edge, edge, side, device=maps.device)
        return torch.cat([angles.sin(), angles.cos()])

    across, down = waves(width, aspect / diagonal), waves(height, 1 / diagonal)
    pattern = torch.cat([across[:, None, :].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)])
    return maps + POSITION_STRENGTH * pattern.to(maps)


def _ray_neck(features: int, half: int) -> nn.Sequential:
    sides = [features, half, features, half, features, half]
    return nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sides[:-1], sides[1:], strict=True)))


def _ray_output(half: int) -> nn.Sequential:
    # The identities are steps without tensors that the checkpoints count.
    return nn.Sequential(
        nn.Conv2d(half, LAST_WIDTH, 3, padding=1),
        nn.Identity(),
        nn.LayerNorm(LAST_WIDTH),
        nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(LAST_WIDTH, RAYS, 1),
    )


@dataclass(frozen=True)
class Size:
    """One of the published sizes.

    Attributes:
        name: published name.
        width: number of channels of a token.
        features: number of channels of the depth head's fused maps.
        channels: numbers of channels of its maps before fusion, the finest first.
    """

    name: str
    width: int
    features: int
    channels: tuple[int, int, int, int]


SIZES = (Size("small", 384, 64, (48, 96, 192, 384)), Size("base", 768, 128, (96, 192, 384, 768)))


@dataclass(frozen=True)
class Views:
    """The network's output for V views.

    Attributes:
        depths: [V, H, W] z-depths in the network's own unit, positive.
        confidences: [V, H, W] confidences above 1.
        cameras: [V, ENCODING] camera to world in the same unit and a world of its own
            (`cus.estimators.predictions`).
    """

    depths: Tensor
    confidences: Tensor
    cameras: Tensor


class DepthAnything3(nn.Module):
    """The network. The backbone runs in the precision of the caller's autocast, the heads always in float32."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"pretrained": MultiViewTransformer(size.width)})
        self.head = DepthHead(2 * size.width, size.features, size.channels)
        self.cam_dec = CameraDecoder(2 * size.width)
        self.cam_enc = CameraEncoder(size.width)

    def forward(self, pictures: Tensor, cameras: Tensor | None = None) -> Views:
        """Predict depths and cameras of views in any order.

        Args:
            pictures: [V, 3, H, W] float32, normalised as in `cus.estimators.framing`; H and W are multiples of `PATCH`.
            cameras: [V, ENCODING] known cameras, camera to world, in the first one's frame and scaled to distances of
                about 1; or None.

        Raises:
            ValueError: wrong shapes.
        """
        views, channels, height, width = pictures.shape
        if channels != 3 or height % PATCH or width % PATCH:
            raise ValueError(f"pictures must be [V, 3, H, W], sides multiples of {PATCH}, got {tuple(pictures.shape)}")
        if cameras is not None and cameras.shape != (views, ENCODING):
            raise ValueError(f"cameras must be {(views, ENCODING)}, got {tuple(cameras.shape)}")
        tokens = None
        if cameras is not None:
            with torch.autocast(pictures.device.type, enabled=False):
                tokens = self.cam_enc(cameras.float())
        features, last = self.backbone["pretrained"](pictures, tokens)
        with torch.autocast(pictures.device.type, enabled=False):
            found = self.cam_dec(last.float())
            grid = height // PATCH, width // PATCH
            parts = [
                self.head([feature[start : start + VIEWS_AT_A_TIME].float() for feature in features], grid)
                for start in range(0, views, VIEWS_AT_A_TIME)
            ]
        depths, confidences = (torch.cat(values) for values in zip(*parts, strict=True))
        return Views(depths, confidences, found)
