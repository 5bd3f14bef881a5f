"""Stage 0, small models only: the first-stage VAE. Full-size models take the VAE of their checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL as Autoencoder
from diffusers.models.resnet import ResnetBlock2D
from omegaconf import MISSING
from torch import Tensor, nn

from cus.datasets.clips import ClipCrops
from cus.training.loop import LoopSettings
from cus.training.pictures import psnr, save_grid


@dataclass
class VaeConfig:
    """Settings of `train/vae.py`.

    Attributes:
        out: folder of the run.
        clips: folder of training clips.
        held_out: folder of clips for the sample pictures.
        model: arguments of `cus.models.Autoencoder`.
        crop: height and width of the training windows, in pixels.
        color_mix: share of the training images whose colours are turned at random, see `colors_mixed`.
        recolored: share of the windows whose colours are mixed at random, see `recolor`.
        kl_weight: of the KL divergence from the standard normal, per latent value.
        gradient_weight: of the L1 distance of horizontal and vertical differences, which keeps edges sharp.
        loop: see `LoopSettings`.
    """

    out: str = MISSING
    clips: str = MISSING
    held_out: str = MISSING
    model: dict[str, Any] = field(default_factory=dict)
    crop: tuple[int, int] = (96, 96)
    color_mix: float = 0.6
    kl_weight: float = 1e-6
    gradient_weight: float = 1.0
    loop: LoopSettings = field(default_factory=LoopSettings)


def colors_mixed(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Turn the colours of a share of images [N, 3, H, W] in [-1, 1] by a random rotation about a random mean.

    Pictures vary in lightness far more than in hue, and a small VAE is content to forget hue: here no direction of the
    colour space has less to carry than another.
    """
    count = len(images)
    turns, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    means = torch.rand(count, 3, 1, 1, generator=generator) * 1.2 - 0.6
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < share
    centered = images - images.mean((2, 3), keepdim=True)
    mixed = 1.2 * torch.einsum("nij,njhw->nihw", turns.to(images), centered) + means.to(images)
    return torch.where(chosen.to(images.device), mixed.clamp(-1, 1), images)


class Reconstruction(nn.Module):
    """Encode, sample, decode."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [N, 3, H, W] in [-1, 1] and noise like the latents -> decoded, latents' mean and log-variance."""
        images = images.contiguous(memory_format=torch.channels_last)
        posterior = self.vae.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        latents = posterior.mean + posterior.std * noise
        return self.vae.decode(latents).sample, posterior.mean, posterior.logvar  # pyright: ignore


def start_simple_(vae: Autoencoder) -> None:
    """Start as a shallow net that hardly samples: residual branches at zero, posterior spread at exp(-3).

    With the usual start the posterior's unit noise drowns the signal for the first thousands of steps.
    """
    for part in vae.modules():
        if isinstance(part, ResnetBlock2D):
            nn.init.zeros_(part.conv2.weight)
            nn.init.zeros_(part.conv2.bias)
    with torch.no_grad():
        _, log_variance_weight = vae.quant_conv.weight.chunk(2)
        _, log_variance_bias = vae.quant_conv.bias.chunk(2)
        log_variance_weight.zero_()
        log_variance_bias.fill_(-6.0)


def recolor(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mix the colours of a share of the images [N, 3, H, W] in [-1, 1] by a random rotation about a random mean.

    In photographs nearly all variance lies along grey, and a small VAE that sees only such pictures spends its latents
    on the detail of brightness and never learns colour. After mixing, no direction of colour is the weak one.
    """
    count = len(images)
    rotations = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator)).Q.to(images)
    means = (torch.rand(count, 3, 1, 1, generator=generator) * 1.2 - 0.6).to(images)
    chosen = (torch.rand(count, 1, 1, 1, generator=generator) < share).to(images.device)
    centered = images - images.mean(dim=(-1, -2), keepdim=True)
    mixed = torch.einsum("nij,njhw->nihw", rotations, 1.2 * centered) + means
    return torch.where(chosen, mixed.clamp(-1, 1), images)


class VaeStage:
    """See `cus.training.loop.Stage`."""

    def __init__(self, config: VaeConfig) -> None:
        self.config = config
        self.vae = Autoencoder(**config.model)
        start_simple_(self.vae)
        self.vae.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.module = Reconstruction(self.vae)
        self.held_out = ClipCrops(Path(config.held_out), 1, config.crop, seed=1)

    def dataset(self) -> ClipCrops:
        """Single frames: targets and conditioning, because the VAE must carry both."""
        return ClipCrops(Path(self.config.clips), 1, self.config.crop, self.config.loop.seed)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """L1, L1 of differences, KL."""
        images = torch.cat([batch["targets"], batch["conditioning"]]).flatten(0, 1) * 2 - 1
        images = colors_mixed(images, self.config.color_mix, generator)
        noise = torch.randn(self._latent_shape(images), generator=generator).to(images.device)
        decoded, mean, logvar = module(images, noise)
        errors = (decoded.float() - images).abs().mean()
        edges = sum((decoded.float().diff(dim=axis) - images.diff(dim=axis)).abs().mean() for axis in (-1, -2))
        divergence = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()
        return errors + self.config.gradient_weight * edges + self.config.kl_weight * divergence

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out frames above their reconstructions; PSNR in dB."""
        device = next(self.module.parameters()).device
        images = torch.cat([self.held_out[i]["targets"] for i in range(16)]).to(device) * 2 - 1
        decoded, mean, _ = self.module(images, torch.zeros(self._latent_shape(images), device=device))
        shown = torch.cat([images[:8], decoded[:8]]) / 2 + 0.5
        save_grid(folder / f"step-{step:08d}.png", shown, columns=8)
        return {"psnr": psnr(decoded / 2 + 0.5, images / 2 + 0.5), "latent_std": float(mean.std())}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the VAE with the scaling factor that brings its latents of held-out frames to unit variance."""
        device = next(self.module.parameters()).device
        images = torch.cat([self.held_out[i]["targets"] for i in range(64)]).to(device) * 2 - 1
        latents = self.vae.encode(images).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
        self.vae.register_to_config(scaling_factor=float(1 / latents.std()))
        self.vae.save_pretrained(folder)

    def _latent_shape(self, images: Tensor) -> tuple[int, int, int, int]:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)  # pyright: ignore[reportAttributeAccessIssue]
        channels = self.vae.config.latent_channels  # pyright: ignore[reportAttributeAccessIssue]
        return (len(images), channels, images.shape[-2] // factor, images.shape[-1] // factor)
