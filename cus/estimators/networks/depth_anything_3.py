"""Depth Anything 3 (Lin et al. 2025), small and base: depth, confidence and cameras of any number of views.

Written from the paper and the numbers of the public code (https://github.com/ByteDance-Seed/Depth-Anything-3), checked
against these numbers by tests/estimators/test_depth_anything_3.py. Attributes are named like the tensors of the public
checkpoints.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cus.estimators.networks.depth_anything_3_heads import ENCODING, CameraDecoder, CameraEncoder, DepthHead
from cus.estimators.networks.vision_transformer import PATCH, MultiViewTransformer

# Statistics of the backbone's training photographs.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
VIEWS_AT_A_TIME = 4  # views per batch of the depth head, whose maps are large


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
            (`cus.estimators.pose_encodings`).
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
            pictures: [V, 3, H, W] float32, normalised by `MEAN` and `DEVIATION`; H and W are multiples of `PATCH`.
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
