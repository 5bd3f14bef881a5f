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

# Cosine coefficients (i, j) of a cell of a picture in [-1, 1] have a typical size of `_SLOPE / (i^2 + j^2)`; for the
# mean it is `_MEAN` times the cell's side. Measured on the fused images of photographs.
_SLOPE, _MEAN = 0.25, 0.5


class UnshuffleAutoencoder(ModelMixin, ConfigMixin):
    """Pixel unshuffle instead of `Autoencoder`: encoding is lossless, decoding costs nothing.

    A learned autoencoder of factor 2 loses a quarter to half a decibel in a round trip of a good conditioning image, as
    much as a small restorer gains. There are no weights; it computes in float32 whatever the other networks use.

    Images are [N, 3, H, W] in [-1, 1], H and W multiples of `factor`; latents are [N, 3 * factor^2, H / factor,
    W / factor], not scaled (multiply by `scaling_factor` for the U-Net).

    A cell's pixels are nearly equal, and a restorer changes their differences. `spectral` latents are the cell's cosine
    coefficients, each scaled to a variance of about 1, so that the network need not learn this first.

    Args:
        factor: image pixels per latent pixel, along each axis.
        scaling_factor: factor that makes the latents' variance about 1.
        spectral: whether latents are the cosine coefficients of each cell divided by their typical size, not its
            pixels.

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
        # Stored weights are checked by name, and a weights file needs at least one tensor.
        self.register_buffer("folds", torch.tensor([float(factor)]))
        basis, sizes = _cosines(factor)
        self._forward_transform = basis / sizes[:, None] if spectral else None
        self._backward_transform = (basis * sizes[:, None]).T.contiguous() if spectral else None

    @property
    def downsample(self) -> int:
        """Image pixels per latent pixel, along each axis."""
        return self.factor

    @property
    def latent_channels(self) -> int:
        """Number of latent channels."""
        return 3 * self.factor**2

    @property
    def scaling_factor(self) -> float:
        """Factor from these latents to those of the U-Net."""
        return self.config["scaling_factor"]

    @property
    def dtype(self) -> torch.dtype:
        """Always float32: rounding would be the only loss."""
        return torch.float32

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Latents of images [N, 3, H, W] as a distribution without spread, like the result of `Autoencoder.encode`.

        Raises:
            ValueError: the image size is not a multiple of `factor`.
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
        """Decode unscaled latents [N, latent_channels, h, w] to images [N, 3, H, W].

        Args:
            z: latents to decode.
            return_dict: return a `DecoderOutput` with `.sample`; else a tuple of it.
            generator: unused, as in diffusers.
            skip_features: must be None.

        Raises:
            ValueError: features are given, or the latents have a wrong number of channels.
        """
        if skip_features is not None:
            raise ValueError("skip_features given, but a pixel-unshuffle autoencoder has no decoder to read them")
        if z.ndim != 4 or z.shape[1] != self.latent_channels:
            raise ValueError(f"latents are {tuple(z.shape)}; expected [N, {self.latent_channels}, h, w]")
        images = F.pixel_shuffle(_transformed(z, self._backward_transform), self.factor)
        return DecoderOutput(sample=images) if return_dict else (images,)


def _cosines(factor: int) -> tuple[Tensor, Tensor]:
    """Orthonormal cosine basis [factor^2, factor^2] of a cell's pixels, in rows, and typical sizes [factor^2]."""
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
    # Rounding would be the only loss. The meta device, where memory is measured, has no autocast to turn off.
    with nullcontext() if cells.is_meta else torch.autocast(cells.device.type, enabled=False):
        return torch.einsum("ij,ncjhw->ncihw", matrix.to(cells.device), colors).flatten(1, 2).to(cells.dtype)
