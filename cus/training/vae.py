"""Stage 0, small models only: the first-stage VAE. Full-size models take the VAE of their checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from omegaconf import MISSING
from torch import Tensor, nn

from cus.datasets.clips import ClipCrops
from cus.errors import InputError
from cus.limits import limited
from cus.models.autoencoder import Autoencoder
from cus.remote import local_folder
from cus.training.config import construct
from cus.training.loop import LoopSettings
from cus.training.pictures import psnr, save_grid


@dataclass
class VaeConfig:
    """Settings of `train/vae.py`.

    Attributes:
        out: output folder of the run.
        clips: folder of training clips.
        held_out: folder of clips for the sample pictures.
        model: arguments of `cus.models.Autoencoder`.
        crop: height and width of the training windows, in pixels.
        start: "random", or "subsampling" (`start_as_subsampling_`).
        color_mix: fraction of the training images whose colours are rotated at random (`colors_mixed`).
        kl_weight: weight of the KL divergence from the standard normal, per latent value.
        gradient_weight: weight of the L1 distance of horizontal and vertical differences, which keeps edges sharp.
        loop: settings of the training loop (`LoopSettings`).
    """

    out: str = MISSING
    clips: str = MISSING
    held_out: str = MISSING
    model: dict[str, Any] = field(default_factory=dict)
    crop: tuple[int, int] = limited((96, 96), low=1, high=8192)
    start: str = limited("random", choices=("random", "subsampling"))
    color_mix: float = limited(0.3, low=0, high=1)
    kl_weight: float = limited(1e-6, low=0)
    gradient_weight: float = limited(1.0, low=0)
    loop: LoopSettings = field(default_factory=LoopSettings)


def read_autoencoder(folder: str, remedy: str = "name the export of a run") -> Autoencoder:
    """Load a trained autoencoder. Raises InputError with the remedy if there is none."""
    if not folder or not Path(folder).is_dir():
        raise InputError(f"no autoencoder at {folder!r}: {remedy} (see train/vae.py)")
    try:
        vae = Autoencoder.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"no autoencoder can be read in {folder!r} ({str(error).splitlines()[0]}): {remedy}"
        ) from error
    assert isinstance(vae, Autoencoder)
    return vae


def colors_mixed(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Rotate the colours of a fraction of images [N, 3, H, W] in [-1, 1] randomly about a random mean.

    Pictures vary much more in lightness than in hue, and a small VAE tends to discard hue: this gives all directions of
    colour space the same importance.
    """
    count = len(images)
    turns, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    means = torch.rand(count, 3, 1, 1, generator=generator) * 1.2 - 0.6
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < share
    centered = images - images.mean((2, 3), keepdim=True)
    mixed = 1.2 * torch.einsum("nij,njhw->nihw", turns.to(images), centered) + means.to(images)
    return torch.where(chosen.to(images.device), mixed.clamp(-1, 1), images)


class Reconstruction(nn.Module):
    """Encodes, samples and decodes images."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [N, 3, H, W] in [-1, 1] and noise of the latents' shape -> decoded, latents' mean and log-variance."""
        posterior = self.vae.encode(images).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        latents = posterior.mean + posterior.std * noise
        return self.vae.decode(latents).sample, posterior.mean, posterior.logvar  # pyright: ignore


CONSTANT = 2.0


@torch.no_grad()
def start_as_subsampling_(vae: Autoencoder) -> None:
    """Initialise a new two-level VAE to keep every second pixel and the lightness of its three neighbours.

    From random weights a small VAE first learns grey pictures, and stays there for a long time. This start is nearly
    linear: a signal and its negative pass `silu(s) - silu(-s) = s`, and a constant in the same group of channels keeps
    the group norm from rescaling them. Residual branches start at zero, the posterior's spread at exp(-3).

    Raises:
        ValueError: the VAE does not have the sizes required for this start.
    """
    config = vae.config
    shape = (tuple(config.block_out_channels), config.norm_num_groups, config.latent_channels)  # pyright: ignore
    if shape != ((16, 32), 4, 8):
        raise ValueError(f"made for block_out_channels (16, 32), 4 groups, 8 latent channels, got {shape}")
    for part in vae.modules():
        if isinstance(part, ResnetBlock2D):
            nn.init.zeros_(part.conv2.weight)
            assert part.conv2.bias is not None
            nn.init.zeros_(part.conv2.bias)
    # diffusers types its blocks as plain modules.
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    quant: Any = vae.quant_conv
    # Slots of two channels, a signal and its negative: R, G, B, constant, then three lightnesses, constant.
    signals, constants = (0, 1, 2, 4, 5, 6), (3, 7)
    _clear(encoder.conv_in, 16)
    for slot, (row, column) in zip(signals, [(1, 1)] * 3 + [(1, 2), (2, 1), (2, 2)], strict=True):
        mix = torch.eye(3)[slot] if slot < 3 else torch.full((3,), 1 / 3)
        _set_pair(encoder.conv_in.weight[:, :, row, column], slot, mix)
    _set_constants(encoder.conv_in, constants)
    _pass_on(encoder.down_blocks[0].downsamplers[0].conv, 16, tap=0)
    _pass_on(encoder.down_blocks[1].resnets[0].conv_shortcut, 16)
    _clear(encoder.conv_out, 6)
    for latent, slot in enumerate(signals):
        encoder.conv_out.weight[latent, 2 * slot, 1, 1] = 1
        encoder.conv_out.weight[latent, 2 * slot + 1, 1, 1] = -1
    _pass_on(quant, 16)
    quant.weight[8:] = 0
    quant.bias[8:] = -6
    _pass_on(vae.post_quant_conv, 8)
    _clear(decoder.conv_in, 16)
    for latent, slot in enumerate(signals):
        _set_pair(decoder.conv_in.weight[:, :, 1, 1], slot, torch.eye(8)[latent])
    _set_constants(decoder.conv_in, constants)
    _pass_on(decoder.up_blocks[0].upsamplers[0].conv, 16, tap=1)
    narrow = decoder.up_blocks[1].resnets[0].conv_shortcut
    _clear(narrow, 12)
    _clear(decoder.conv_out, 3)
    for color in range(3):
        for channel, source in enumerate((2 * color, 2 * color + 1, 6, 7)):
            narrow.weight[4 * color + channel, source, 0, 0] = 1
        gain = CONSTANT / 2**0.5
        decoder.conv_out.weight[color, 4 * color, 1, 1] = gain
        decoder.conv_out.weight[color, 4 * color + 1, 1, 1] = -gain


def _clear(convolution: nn.Conv2d, rows: int) -> None:
    """Zero the first output channels; the others stay random."""
    assert convolution.bias is not None
    convolution.weight[:rows] = 0
    convolution.bias.zero_()


def _set_pair(weights: Tensor, slot: int, mix: Tensor) -> None:
    """Outputs 2 slot and 2 slot + 1 of one tap's weights [out, in] become `mix` [in], and its negative."""
    weights[2 * slot] = mix
    weights[2 * slot + 1] = -mix


def _set_constants(convolution: nn.Conv2d, slots: Sequence[int]) -> None:
    assert convolution.bias is not None
    for slot in slots:
        convolution.bias[2 * slot] = CONSTANT
        convolution.bias[2 * slot + 1] = -CONSTANT


def _pass_on(convolution: nn.Conv2d | None, channels: int, tap: int = 0) -> None:
    """Make the first output channels copy the inputs with the same index, at kernel position (tap, tap)."""
    assert convolution is not None
    _clear(convolution, channels)
    for channel in range(channels):
        convolution.weight[channel, channel, tap, tap] = 1


class VaeStage:
    """Trains the first-stage autoencoder (a `cus.training.stage.Stage`)."""

    def __init__(self, config: VaeConfig) -> None:
        self.config = config
        self.vae = construct(Autoencoder, config.model, "model")
        if config.start == "subsampling":
            start_as_subsampling_(self.vae)
        self.module = Reconstruction(self.vae)
        self.held_out = ClipCrops(local_folder(config.held_out), 1, config.crop, seed=1)

    def dataset(self) -> ClipCrops:
        """Single frames: targets and conditioning, because the VAE must encode both."""
        return ClipCrops(local_folder(self.config.clips), 1, self.config.crop, self.config.loop.seed)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """L1 of pixels and of their differences, plus the KL divergence."""
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
        """Save the VAE with the scaling factor that brings its latents of held-out frames to variance 1."""
        device = next(self.module.parameters()).device
        images = torch.cat([self.held_out[i]["targets"] for i in range(64)]).to(device) * 2 - 1
        latents = self.vae.encode(images).latent_dist.mean  # pyright: ignore[reportAttributeAccessIssue]
        self.vae.register_to_config(scaling_factor=float(1 / latents.std()))
        self.vae.save_pretrained(folder)

    def _latent_shape(self, images: Tensor) -> tuple[int, int, int, int]:
        factor = self.vae.downsample
        channels = self.vae.config.latent_channels  # pyright: ignore[reportAttributeAccessIssue]
        return (len(images), channels, images.shape[-2] // factor, images.shape[-1] // factor)
