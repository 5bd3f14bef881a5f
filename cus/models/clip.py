"""CLIP image tower: the reference image as tokens. The only file that imports open_clip."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(ModelMixin, ConfigMixin):
    """open_clip's vision transformer, read after its last block: before the final norm and the projection.

    Defaults are ViT-H-14, whose tensors the public checkpoints hold.

    Args:
        image_size: height and width of the square that images are squashed to, pixels.
        patch_size: pixels.
        width: width of the tokens.
        layers: transformer blocks.
        heads: attention heads of a block.
        mlp_ratio: width of the feed-forward layers, as a multiple of `width`.
        output_dim: width of the projection; unused here, but one of a checkpoint's tensors.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        width: int = 1280,
        layers: int = 32,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        output_dim: int = 1024,
    ) -> None:
        super().__init__()
        from open_clip.transformer import VisionTransformer

        self.tower = VisionTransformer(image_size, patch_size, width, layers, heads, mlp_ratio, output_dim=output_dim)

    @property
    def num_tokens(self) -> int:
        """Tokens of an image: the class token and one a patch."""
        return (self.config["image_size"] // self.config["patch_size"]) ** 2 + 1

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], any size -> tokens [B, num_tokens, width], class token first.

        Raises:
            ValueError: the images have another shape.
        """
        weight = self.tower.conv1.weight
        found = self.tower.forward_intermediates(
            self.preprocess(images).to(weight),
            indices=1,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat([found["image_intermediates_prefix"][-1], found["image_intermediates"][-1]], dim=1)

    def preprocess(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] squashed (not cropped) to the tower's square and normalised as CLIP's were."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {tuple(images.shape)}; expected [B, 3, H, W]")
        size = (self.config["image_size"], self.config["image_size"])
        squashed = F.interpolate(images.float(), size, mode="bicubic", align_corners=True, antialias=True)
        mean = squashed.new_tensor(CLIP_MEAN).view(3, 1, 1)
        std = squashed.new_tensor(CLIP_STD).view(3, 1, 1)
        return (squashed - mean) / std
