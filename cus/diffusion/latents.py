"""Conversion between frames and latents. The only place where images in [0, 1] become the model's [-1, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor

from cus.models.autoencoder import Autoencoder
from cus.models.unshuffle import UnshuffleAutoencoder

FirstStage = Autoencoder | UnshuffleAutoencoder


def to_model_range(images: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1]."""
    return images * 2 - 1


def encode(vae: FirstStage, images: Tensor, generator: torch.Generator | None = None, chunk: int = 4) -> Tensor:
    """Scaled latents [T, C, h, w] of images [T, 3, H, W] in [0, 1], `chunk` frames at a time.

    With a generator they are samples of the posterior, as in the checkpoints' training; otherwise its mean.
    """
    noise = None
    if generator is not None:
        # Draw all noise first, so that it does not depend on `chunk`.
        sides = (side // vae.downsample for side in images.shape[-2:])
        shape = (len(images), vae.latent_channels, *sides)
        noise = torch.randn(shape, generator=generator, device=generator.device)
    latents = []
    for start in range(0, len(images), chunk):
        part = slice(start, start + chunk)
        posterior = vae.encode(to_model_range(images[part]).to(vae.dtype)).latent_dist  # pyright: ignore
        latent = posterior.mean.float()
        if noise is not None:
            latent = latent + posterior.std.float() * noise[part].to(latent)
        latents.append(latent * vae.scaling_factor)
    return torch.cat(latents)


def decode(
    vae: FirstStage,
    latents: Tensor,
    conditioning: Tensor | None = None,
    chunk: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Decode scaled latents [T, C, h, w] to images [T, 3, H, W], `chunk` frames at a time; in [0, 1] plus overshoots.

    `conditioning`, images of the result's size, feeds the decoder's skip connections if the VAE has them (III-D).
    """
    frames = []
    for start in range(0, len(latents), chunk):
        part = slice(start, start + chunk)
        scaled = (latents[part] / vae.scaling_factor).to(vae.dtype)
        features = None
        if conditioning is not None and isinstance(vae, Autoencoder) and vae.skip_convs is not None:
            features = vae.skip_features(to_model_range(conditioning[part]).to(vae.dtype))
        decoded = vae.decode(scaled, skip_features=features).sample  # pyright: ignore[reportAttributeAccessIssue]
        frames.append(decoded.float() / 2 + 0.5)
        if on_progress is not None:
            on_progress(min(start + chunk, len(latents)), len(latents))
    return torch.cat(frames)
