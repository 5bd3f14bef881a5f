"""The heads of Depth Anything 3: depth from patch features, cameras from tokens, and tokens from cameras.

The depth head is a dense prediction transformer (DPT, Ranftl et al. 2021). Attributes are named like the tensors of the
public checkpoints.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cus.estimators.networks.vision_transformer import PATCH, Block, Mlp

ENCODING = 9  # numbers of a camera: translation, quaternion (x, y, z, w), vertical and horizontal field of view
POSITION_STRENGTH = 0.1
POSITION_BASE = 100.0
LAST_WIDTH = 32  # channels before the last layer
RAYS = 7  # channels of the ray map and its confidence


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
