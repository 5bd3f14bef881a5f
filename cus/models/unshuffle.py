"""A lossless first stage: pixels folded into channels, for models that restore rather than invent."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional as F

# Cosine coefficients (i, j) of a cell of a picture in [-1, 1] are about `_SLOPE / (i^2 + j^2)` large, that of its mean
# `_MEAN` times the cell's side. Measured on the fused images of photographs.
_SLOPE, _MEAN = 0.25, 0.5


class UnshuffleAutoencoder(ModelMixin, ConfigMixin):
    """Pixel unshuffle in the place of `Autoencoder`: encoding loses nothing, decoding costs nothing.

    A learned autoencoder of factor 2 loses a quarter to half a decibel in a round trip of a good conditioning image,
    which is what a small restorer gains. There are no weights; it computes in float32 whatever the other networks do.

    Images are [N, 3, H, W] in [-1, 1], H and W multiples of `factor`; latents are [N, 3 * factor^2, H / factor,
    W / factor], not scaled (multiply by `scaling_factor` for the U-Net).

    A cell's pixels are nearly the same, and what a restorer adds is in how they differ. `spectral` latents are
    the cell's cosine coefficients, each at about unit variance, so that a network need not find that out first.

    Args:
        factor: pixels of an image to one of its latent, along each axis.
        scaling_factor: what makes latents about unit variance.
        spectral: latents are coefficients of each cell's cosine transform over their usual size, not its pixels.

    Raises:
        ValueError: a factor below 1.
    """

    skip_convs = None  # no decoder that could read features (`Autoencoder.skip_convs`)

    @register_to_config
    def __init__(self, factor: int = 4, scaling_factor: float = 2.0, spectral: bool = False) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        self.factor = factor
        # Stored weights are checked name by name, and a file without a single tensor is no file of weights.
        self.register_buffer("folds", torch.tensor([float(factor)]))
        basis, sizes = _cosines(factor)
        self._forward_transform = basis / sizes[:, None] if spectral else None
        self._backward_transform = (basis * sizes[:, None]).T.contiguous() if spectral else None

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
        latents = _transformed(F.pixel_unshuffle(x, self.factor), self._forward_transform)
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
        images = F.pixel_shuffle(_transformed(z, self._backward_transform), self.factor)
        return DecoderOutput(sample=images) if return_dict else (images,)


def _cosines(factor: int) -> tuple[Tensor, Tensor]:
    """Orthonormal cosine basis [factor^2, factor^2] of a cell's pixels, a row each, and the usual sizes [factor^2]."""
    frequency, place = np.meshgrid(np.arange(factor), np.arange(factor), indexing="ij")
    line = np.cos(np.pi * (place + 0.5) * frequency / factor) * np.sqrt(2 / factor)
    line[0] = np.sqrt(1 / factor)
    squares = np.add.outer(np.arange(factor) ** 2, np.arange(factor) ** 2).ravel()
    sizes = np.where(squares == 0, _MEAN * factor, _SLOPE / np.maximum(squares, 1))
    return torch.from_numpy(np.kron(line, line)).float(), torch.from_numpy(sizes).float()


def _transformed(cells: Tensor, matrix: Tensor | None) -> Tensor:
    """[N, 3 P, h, w] with each colour's P pixels or coefficients multiplied by a [P, P] matrix."""
    if matrix is None:
        return cells
    colors = cells.unflatten(1, (3, -1)).to(torch.float32)
    # Rounding would be the only loss. Where memory is counted there is no autocast to turn off.
    with nullcontext() if cells.is_meta else torch.autocast(cells.device.type, enabled=False):
        return torch.einsum("ij,ncjhw->ncihw", matrix.to(cells.device), colors).flatten(1, 2).to(cells.dtype)
