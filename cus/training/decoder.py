"""The decoder stages: U-Net and encoder are frozen, the decoder learns with skips from the conditioning images."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.latents import to_model_range
from cus.errors import InputError
from cus.limits import limited
from cus.models.autoencoder import Autoencoder
from cus.training.distances import training_distance
from cus.training.held_out import clip_scores, held_out_clips
from cus.training.latents import GeneratedCrops
from cus.training.loop import LoopSettings
from cus.training.pictures import save_grid
from cus.training.vae import read_autoencoder


@dataclass
class DecoderConfig:
    """Settings of `train/decoder.py`.

    Attributes:
        out: folder of the run.
        init: pipeline whose decoder is trained: a folder or Hub id.
        clips: folder of clips.
        vae: folder of the autoencoder to start from, such as that of an earlier decoder stage; empty: the pipeline's.
        generated: folder of the latents that the pipeline generates for them (data/cache_latents.py pipeline=...).
        conditioning: which warp of the `clips` and `held_out` is read; empty is their own.
        held_out: folder of clips for sample pictures; empty makes none.
        held_out_clips: how many of them, at most.
        held_out_structure: folder of their structure images (data/make_coarse.py): scores are then those of pass 2.
        frames: frames of a training window.
        crop: height and width of a window, in latent pixels.
        gradient_weight: of the L1 distance of horizontal and vertical differences.
        perceptual: weight of the perceptual distance, 0 is none.
        distance: which one: "lpips", of VGG, "st_lpips", shift-tolerant, or "auto", the first whose weights are here.
        loop: see `LoopSettings`.
    """

    out: str = MISSING
    init: str = MISSING
    vae: str = ""
    clips: str = MISSING
    generated: str = MISSING
    conditioning: str = ""
    held_out: str = ""
    held_out_clips: int = limited(6, low=1)
    held_out_structure: str = ""
    frames: int = limited(1, low=1)
    crop: tuple[int, int] = limited((72, 128), low=1, high=8192)
    gradient_weight: float = limited(0.25, low=0)
    perceptual: float = limited(0.0, low=0)
    distance: str = limited("auto", choices=("auto", "lpips", "st_lpips"))
    loop: LoopSettings = field(default_factory=lambda: LoopSettings(learning_rate=1e-4))


def with_skips(vae: Autoencoder) -> Autoencoder:
    """The same autoencoder with skip connections, which start at zero and change nothing yet."""
    if vae.skip_convs is not None:
        return vae
    wider = Autoencoder.from_config(vae.config, skip=True)
    assert isinstance(wider, Autoencoder)
    wider.load_state_dict({**wider.state_dict(), **vae.state_dict()})
    return wider


class SkipDecoding(nn.Module):
    """Decode latents with the features of conditioning images, as the pipeline does."""

    def __init__(self, vae: Autoencoder, residual: bool) -> None:
        super().__init__()
        self.vae, self.residual = vae, residual

    def forward(self, latents: Tensor, conditioning: Tensor) -> Tensor:
        """Latents [N, C, h, w] (unscaled) and images [N, 3, H, W] in [-1, 1] -> images alike."""
        posterior, features = self.vae.encode_with_features(conditioning)
        decoded = self.vae.decode(latents, skip_features=features).sample  # pyright: ignore
        if not self.residual:
            return decoded
        before = self.vae.decode(posterior.mean, skip_features=features).sample  # pyright: ignore
        return conditioning + decoded - before


class DecoderStage:
    """See `cus.training.loop.Stage`."""

    def __init__(self, config: DecoderConfig) -> None:
        self.config = config
        self.pipeline = CloseUpShotPipeline.from_pretrained(config.init)
        if not isinstance(self.pipeline.vae, Autoencoder):
            raise InputError(
                f"the first stage of {config.init} is {type(self.pipeline.vae).__name__}, which has no decoder to train"
            )
        start = self.pipeline.vae
        if config.vae:
            start = read_autoencoder(config.vae, "name a pipeline's folder vae, or leave vae out")
            if start.latent_channels != self.pipeline.vae.latent_channels:
                raise InputError(
                    f"the autoencoder in {config.vae} has {start.latent_channels} latent channels, the one of "
                    f"{config.init} {self.pipeline.vae.latent_channels}: they do not belong together"
                )
        self.vae = with_skips(start)
        self.pipeline.register_modules(vae=self.vae)
        for part in ("unet", "image_encoder", "image_projector", "prompt", "vae"):
            getattr(self.pipeline, part).requires_grad_(False).eval()
        for part in (self.vae.decoder, self.vae.post_quant_conv, self.vae.skip_convs):
            if part is not None:
                part.requires_grad_(True)
        self.module = SkipDecoding(self.vae, residual=bool(self.pipeline.sampling.residual_scale))
        self.distance = training_distance(config.distance) if config.perceptual else None
        self.clips = held_out_clips(
            config.held_out, config.held_out_clips, config.conditioning, config.held_out_structure
        )

    def dataset(self) -> GeneratedCrops:
        """Windows of clips with their generated latents."""
        c = self.config
        where = (Path(c.clips), Path(c.generated))
        return GeneratedCrops(*where, c.frames, c.crop, self.vae.downsample, c.loop.seed, c.conditioning)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """L1 of pixels and of their differences, and the perceptual distance where it has a weight."""
        latents, targets, conditioning = (batch[k].flatten(0, 1) for k in ("generated", "targets", "conditioning"))
        targets = to_model_range(targets)
        scaling = self.vae.config.scaling_factor  # pyright: ignore[reportAttributeAccessIssue]
        decoded = module(latents / scaling, to_model_range(conditioning)).float()
        edges = sum((decoded.diff(dim=axis) - targets.diff(dim=axis)).abs().mean() for axis in (-1, -2))
        loss = (decoded - targets).abs().mean() + self.config.gradient_weight * edges
        if self.distance is not None:
            shown, wanted = ((images / 2 + 0.5).clamp(0, 1) for images in (decoded, targets))
            loss = loss + self.config.perceptual * self.distance.to(shown.device)(shown, wanted).mean()
        return loss

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """As of the U-Net's stage."""
        if not self.clips:
            return {}
        device = next(self.vae.parameters()).device
        rows, scores = [], []
        for clip in self.clips:
            guide = clip.structure if self.config.held_out_structure else None
            guide = None if guide is None else guide.to(device)
            frames = self.pipeline.to(device)(clip.references.to(device), clip.shown.to(device), guide).cpu()
            rows += [video[:: max(1, len(video) // 4)][:4] for video in (clip.targets, clip.conditioning, frames)]
            scores.append(clip_scores(clip, frames))
        save_grid(folder / f"step-{step:08d}.png", torch.cat(rows), columns=4)
        return {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the pipeline with the trained decoder."""
        self.pipeline.save_pretrained(folder)
