"""A lossless first stage: pixels folded into channels, for models that restore rather than invent."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional as F


class UnshuffleAutoencoder(ModelMixin, ConfigMixin):
    """Pixel unshuffle in the place of `Autoencoder`: encoding loses nothing, decoding costs nothing.

    A learned autoencoder of factor 2 loses a quarter to half a decibel in a round trip of a good conditioning image,
    which is what a small restorer gains. There are no weights; it computes in float32 whatever the other networks do.

    Images are [N, 3, H, W] in [-1, 1], H and W multiples of `factor`; latents are [N, 3 * factor^2, H / factor,
    W / factor], not scaled (multiply by `scaling_factor` for the U-Net).

    Args:
        factor: pixels of an image to one of its latent, along each axis.
        scaling_factor: what makes latents about unit variance.

    Raises:
        ValueError: a factor below 1.
    """

    skip_convs = None  # no decoder that could read features (`Autoencoder.skip_convs`)

    @register_to_config
    def __init__(self, factor: int = 4, scaling_factor: float = 2.0) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        self.factor = factor
        # Stored weights are checked name by name, and a file without a single tensor is no file of weights.
        self.register_buffer("folds", torch.tensor([float(factor)]))

    @property
    def downsample(self) -> int:
        """Pixels of an image to one of its latent, along each axis."""
        return self.factor

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return 3 * self.factor**2

    @property
    def scaling_factor(self) -> float:
        """Latents of the U-Net are these latents times this."""
        return self.config["scaling_factor"]

    @property
    def dtype(self) -> torch.dtype:
        """Float32: rounding would be the only loss."""
        return torch.float32

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Latents of images [N, 3, H, W] as a distribution without spread, as `Autoencoder.encode` gives it.

        Raises:
            ValueError: the image size is no multiple of `factor`.
        """
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            expected = f"[N, 3, H, W] with H and W multiples of {self.factor}"
            raise ValueError(f"images are {tuple(x.shape)}; expected {expected}")
        latents = F.pixel_unshuffle(x, self.factor)
        exact = DiagonalGaussianDistribution(torch.cat([latents, torch.zeros_like(latents)], dim=1), deterministic=True)
        return AutoencoderKLOutput(latent_dist=exact) if return_dict else (exact,)

    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        skip_features: Sequence[Tensor] | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Images [N, 3, H, W] of latents [N, latent_channels, h, w], not scaled.

        Args:
            z: the latents.
            return_dict: a `DecoderOutput` with `.sample`; else a tuple of it.
            generator: unused, as in diffusers.
            skip_features: must be None.

        Raises:
            ValueError: there are features, or latents of another number of channels.
        """
        if skip_features is not None:
            raise ValueError("skip_features given, but a pixel-unshuffle autoencoder has no decoder to read them")
        if z.ndim != 4 or z.shape[1] != self.latent_channels:
            raise ValueError(f"latents are {tuple(z.shape)}; expected [N, {self.latent_channels}, h, w]")
        images = F.pixel_shuffle(z, self.factor)
        return DecoderOutput(sample=images) if return_dict else (images,)
