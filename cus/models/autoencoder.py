"""First-stage autoencoder: diffusers' `AutoencoderKL` with skips into the decoder (Section III-D, decoder finetune)."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from cus.models.attention import zero_module
from cus.models.norm import replace_group_norms


class Autoencoder(AutoencoderKL, ModelMixin):
    """KL autoencoder whose decoder can read the encoder's features of the conditioning images.

    The features of each level enter the decoder's block of the same resolution through a 1x1 convolution that starts at
    zero, so a new `Autoencoder(skip=True)` decodes exactly like one without. Without `skip` this is diffusers' class
    with its weights.

    Images are [N, 3, H, W] in [-1, 1], H and W multiples of `downsample`; latents are not scaled (multiply by
    `config.scaling_factor` for the U-Net).

    Args:
        block_out_channels: width of each level; each level but the last halves height and width.
        layers_per_block: residual blocks per level in the encoder; one more in the decoder.
        latent_channels: number of latent channels.
        norm_num_groups: number of groups in every group norm; must divide every width.
        sample_size: image size of the training in pixels; only used for tiling.
        scaling_factor: factor that makes the latents' variance about 1.
        mid_block_add_attention: attention over the smallest maps of encoder and decoder.
        skip: whether to add the skip convolutions.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 256,
        scaling_factor: float = 0.18215,
        mid_block_add_attention: bool = True,
        skip: bool = False,
    ) -> None:
        widths = tuple(block_out_channels)
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=("DownEncoderBlock2D",) * len(widths),  # pyright: ignore[reportArgumentType]
            up_block_types=("UpDecoderBlock2D",) * len(widths),  # pyright: ignore[reportArgumentType]
            block_out_channels=widths,  # pyright: ignore[reportArgumentType]
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            mid_block_add_attention=mid_block_add_attention,
        )
        replace_group_norms(self)
        # Level i joins the decoder's output of level i + 1, with that level's width.
        entering = (*widths[1:], widths[-1])
        convolutions = (zero_module(nn.Conv2d(a, b, 1)) for a, b in zip(widths, entering, strict=True))
        self.skip_convs = nn.ModuleList(convolutions) if skip else None

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in diffusers, without its warning of the arguments of its own class, which this one sets itself."""
        ours = inspect.signature(cls.__init__).parameters
        theirs = [name for name in inspect.signature(AutoencoderKL.__init__).parameters if name not in ours]
        kept = {name: value for name, value in config_dict.items() if name not in theirs}
        return super().extract_init_dict(kept, **kwargs)

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel, along each axis."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        """Number of latent channels."""
        return self.config["latent_channels"]

    @property
    def scaling_factor(self) -> float:
        """Factor from these latents to those of the U-Net."""
        return self.config["scaling_factor"]

    @apply_forward_hook
    def skip_features(self, images: Tensor) -> list[Tensor]:
        """The encoder's features of images [N, 3, H, W] in [-1, 1], finest level first: [N, C_i, H / 2^i, W / 2^i].

        No gradient: the encoder is frozen while the decoder learns to read it.

        Raises:
            ValueError: the image size is not a multiple of `downsample`.
        """
        with torch.no_grad():
            return self._features(images)[0]

    @apply_forward_hook
    def encode_with_features(self, images: Tensor) -> tuple[DiagonalGaussianDistribution, list[Tensor]]:
        """`encode(images).latent_dist` and `skip_features(images)` at the cost of one encoding; no gradient."""
        with torch.no_grad():
            features, x = self._features(images)
            x = self.encoder.mid_block(x)
            x = self.encoder.conv_out(self.encoder.conv_act(self.encoder.conv_norm_out(x)))
            x = x if self.quant_conv is None else self.quant_conv(x)
            return DiagonalGaussianDistribution(x), features

    @apply_forward_hook
    def decode(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        skip_features: Sequence[Tensor] | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents, with the conditioning images' features if given.

        Args:
            z: [N, latent_channels, h, w] unscaled latents.
            return_dict: return a `DecoderOutput` with `.sample` [N, 3, H, W], about [-1, 1]; else a tuple of it.
            generator: unused, as in diffusers.
            skip_features: features from `skip_features` for N images of the decoded size.

        Raises:
            ValueError: features without skip convolutions, features of wrong shapes, or tiling is on.
        """
        if skip_features is None:
            return super().decode(z, return_dict=return_dict, generator=generator)  # pyright: ignore
        self._check_features(z, skip_features)
        step = 1 if self.use_slicing else len(z)
        parts = [
            self._decode_with(z[i : i + step], [f[i : i + step] for f in skip_features]) for i in range(0, len(z), step)
        ]
        decoded = parts[0] if len(parts) == 1 else torch.cat(parts)
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)

    def _encode(self, x: Tensor) -> Tensor:
        return super()._encode(x.contiguous(memory_format=torch.channels_last))

    def _decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | Tensor:
        return super()._decode(z.contiguous(memory_format=torch.channels_last), return_dict=return_dict)

    def _decode_with(self, z: Tensor, features: Sequence[Tensor]) -> Tensor:
        assert self.skip_convs is not None
        z = z.contiguous(memory_format=torch.channels_last)
        z = z if self.post_quant_conv is None else self.post_quant_conv(z)
        decoder = self.decoder
        x = decoder.mid_block(decoder.conv_in(z))
        for up, read, feature in zip(decoder.up_blocks, reversed(self.skip_convs), reversed(features), strict=True):
            x = x + read(feature)
            if decoder.gradient_checkpointing and torch.is_grad_enabled():
                x = decoder._gradient_checkpointing_func(up, x)  # pyright: ignore[reportCallIssue]
            else:
                x = up(x)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    def _features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of each level before downsampling, and the output of the last level."""
        if images.ndim != 4 or images.shape[-2] % self.downsample or images.shape[-1] % self.downsample:
            expected = f"[N, 3, H, W] with H and W multiples of {self.downsample}"
            raise ValueError(f"images are {tuple(images.shape)}; expected {expected}")
        x = self.encoder.conv_in(images.contiguous(memory_format=torch.channels_last))
        features = []
        for level in self.encoder.down_blocks:
            assert isinstance(level, DownEncoderBlock2D)
            for block in level.resnets:
                x = block(x, temb=None)
            features.append(x)
            for halve in level.downsamplers or ():
                x = halve(x)
        return features, x

    def _check_features(self, z: Tensor, features: Sequence[Tensor]) -> None:
        if self.skip_convs is None:
            raise ValueError("skip_features given, but this autoencoder has no skip convolutions (config: skip=False)")
        if self.use_tiling:
            raise ValueError(
                "decoding with skip_features does not tile; call disable_tiling() and decode fewer frames at a time"
            )
        n, (height, width) = len(z), z.shape[-2:]
        factor = self.downsample
        expected = [
            (n, c, height * factor >> i, width * factor >> i) for i, c in enumerate(self.config["block_out_channels"])
        ]
        if [tuple(f.shape) for f in features] != expected:
            raise ValueError(f"skip_features are {[tuple(f.shape) for f in features]}; expected {expected}")
