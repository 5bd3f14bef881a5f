"""CLIP towers: the reference image and the prompt as tokens. The only file that imports open_clip."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(ModelMixin, ConfigMixin):
    """open_clip's vision transformer, read after its last block, before the final norm and projection.

    Defaults are those of ViT-H-14, whose weights are in the public checkpoints.

    Args:
        image_size: height and width of the square that images are squashed to, pixels.
        patch_size: side of a patch in pixels.
        width: width of the tokens.
        layers: number of transformer blocks.
        heads: number of attention heads per block.
        mlp_ratio: width of the feed-forward layers, as a multiple of `width`.
        output_dim: width of the projection; unused here, but checkpoints contain it.
        blur_first: squash images like the public checkpoints' own code: a Gaussian blur, then bicubic interpolation
            with aligned corners. False uses PyTorch's antialiased bicubic interpolation, which differs by up to half a
            pixel of the tower and keeps more detail.
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
        blur_first: bool = False,
    ) -> None:
        super().__init__()
        from open_clip.transformer import VisionTransformer

        self.tower = VisionTransformer(image_size, patch_size, width, layers, heads, mlp_ratio, output_dim=output_dim)

    @property
    def num_tokens(self) -> int:
        """Number of tokens per image: the class token and one per patch."""
        return (self.config["image_size"] // self.config["patch_size"]) ** 2 + 1

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], any size -> tokens [B, num_tokens, width], class token first.

        Raises:
            ValueError: the images have a wrong shape.
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

    def unread_parameters(self) -> list[nn.Parameter]:
        """Weights of the final norm and the projection, which do not affect any token."""
        projection = self.tower.proj
        return [*([] if projection is None else [projection]), *self.tower.ln_post.parameters()]

    def preprocess(self, images: Tensor) -> Tensor:
        """Squash (do not crop) images [B, 3, H, W] in [0, 1] to the tower's square and normalise them as CLIP does."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images are {tuple(images.shape)}; expected [B, 3, H, W]")
        size = (self.config["image_size"], self.config["image_size"])
        images, blurs = images.float(), self.config["blur_first"]
        if blurs:
            images = blurred_for(images, size)
        squashed = F.interpolate(images, size, mode="bicubic", align_corners=True, antialias=not blurs)
        mean = squashed.new_tensor(CLIP_MEAN).view(3, 1, 1)
        std = squashed.new_tensor(CLIP_STD).view(3, 1, 1)
        return (squashed - mean) / std


def blurred_for(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, C, H, W] blurred before shrinking to `size`, as kornia's `resize(antialias=True)` does.

    A Gaussian of (factor - 1) / 2 pixels along each axis, cut off at two sigma, mirrored at the edges; an axis that is
    not shrunk is unchanged.
    """
    for axis, (length, target) in enumerate(zip(images.shape[-2:], size, strict=True)):
        sigma = (length / target - 1) / 2
        if sigma <= 0:
            continue
        radius = max(int(4 * sigma), 3) // 2
        offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view((1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1))
        padded = F.pad(images, (0, 0, radius, radius) if axis == 0 else (radius, radius, 0, 0), mode="reflect")
        images = F.conv2d(padded.flatten(0, 1)[:, None], kernel).view(images.shape)
    return images


class TextEncoder(ModelMixin, ConfigMixin):
    """open_clip's text transformer, read before its last block ("penultimate") and normed: one token per position.

    Defaults are those of ViT-H-14, whose weights are in the public checkpoints. Positions attend only to earlier ones
    (causal mask). Padding after the end of the text is token 0 and not masked, as in the checkpoints' own training.

    Args:
        context_length: number of tokens per text, including the start and end tokens.
        vocab_size: number of known tokens.
        width: width of the tokens.
        layers: number of transformer blocks, the last of which is not run; at least 2.
        heads: number of attention heads per block.
        output_dim: width of the projection; unused here, but checkpoints contain it.
    """

    @register_to_config
    def __init__(
        self,
        context_length: int = 77,
        vocab_size: int = 49408,
        width: int = 1024,
        layers: int = 24,
        heads: int = 16,
        output_dim: int = 1024,
    ) -> None:
        super().__init__()
        if layers < 2:
            raise ValueError(f"the penultimate of {layers} layers does not exist; at least 2 are needed")
        from open_clip.transformer import TextTransformer

        self.tower = TextTransformer(context_length, vocab_size, width, heads, layers, output_dim=output_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [B, context_length] from `tokenize` -> [B, context_length, width]."""
        found = self.tower.forward_intermediates(
            tokens,
            indices=[self.config["layers"] - 2],
            stop_early=True,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        return found["text_intermediates"][0]

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """CLIP's byte-pair tokens of B texts, int64 [B, context_length]; the vocabulary is open_clip's own file.

        Raises:
            ValueError: a text is too long for the tower, or the tower knows fewer tokens than the vocabulary has.
        """
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer, length = SimpleTokenizer(), self.config["context_length"]
        if tokenizer.vocab_size > self.config["vocab_size"]:
            known = self.config["vocab_size"]
            raise ValueError(f"the tower knows {known} tokens; CLIP's vocabulary has {tokenizer.vocab_size}")
        for text in texts:
            # Start and end count as tokens.
            if (needed := len(tokenizer.encode(text)) + 2) > length:
                raise ValueError(f"the text has {needed} tokens, at most {length} are read: {text!r}")
        return tokenizer(list(texts), context_length=length)

    def reset_mask(self) -> None:
        """Recreate the causal mask: it is not a weight, so a tower built on the meta device has none."""
        self.tower.register_buffer("attn_mask", self.tower.build_causal_mask(), persistent=False)
