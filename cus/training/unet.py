"""Stage 1: the denoising U-Net, with the parts that make its context where they are trained too."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from cus.datasets.clips import Clip, clip_paths, load_clip
from cus.diffusion import CloseUpShotPipeline, LatentTarget, NoiseSchedule, Objective, PromptEmbeddings, Sampling
from cus.diffusion.context import ContextEncoder
from cus.errors import InputError
from cus.limits import limited
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.training.config import construct
from cus.training.latents import LatentCrops
from cus.training.loop import LoopSettings
from cus.training.pictures import box_blurred, psnr, save_grid
from cus.training.vae import read_autoencoder


@dataclass
class NewModel:
    """Arguments of the parts of a model that is trained from nothing.

    Attributes:
        vae: folder of a trained autoencoder.
        unet: of `cus.models.UNet`.
        image_encoder: of `cus.models.clip.ImageEncoder`.
        image_projector: of `cus.models.ImageProjector`.
        schedule: of `cus.diffusion.NoiseSchedule`.
    """

    vae: str = ""
    unet: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] = field(default_factory=dict)
    image_projector: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


@dataclass
class UNetConfig:
    """Settings of `train/unet.py`.

    Attributes:
        out: folder of the run.
        latents: folder of cached latents (data/cache_latents.py).
        held_out: folder of clips for sample pictures; empty makes none.
        init: pipeline to start from: a folder or Hub id; empty builds `model`.
        model: see `NewModel`.
        sampling: how the exported model is sampled.
        trained: parts that learn; the others stay frozen.
        frames: length of the training windows.
        crop: their height and width, in latent pixels.
        structure_share: share of the items that keep their structure image (0: pass 1 only).
        objective: see `Objective`.
        loop: see `LoopSettings`.
    """

    out: str = MISSING
    latents: str = MISSING
    held_out: str = ""
    init: str = ""
    model: NewModel = field(default_factory=NewModel)
    sampling: Sampling = field(default_factory=Sampling)
    trained: list[str] = field(default_factory=lambda: ["unet", "image_projector"])
    frames: int = limited(25, low=1)
    crop: tuple[int, int] = limited((72, 128), low=1, high=8192)
    structure_share: float = limited(0.5, low=0, high=1)
    objective: Objective = field(default_factory=Objective)
    loop: LoopSettings = field(default_factory=LoopSettings)


def build(config: UNetConfig) -> CloseUpShotPipeline:
    """The pipeline to train: loaded from `config.init`, or new around a trained autoencoder."""
    if config.init:
        return CloseUpShotPipeline.from_pretrained(config.init, sampling=asdict(config.sampling))
    vae = read_autoencoder(config.model.vae, "set init=, or model.vae=")
    unet = construct(UNet, config.model.unet, "model.unet")
    options = unet.config
    return CloseUpShotPipeline(
        unet=unet,
        vae=vae,
        image_encoder=construct(ImageEncoder, config.model.image_encoder, "model.image_encoder"),
        image_projector=construct(ImageProjector, config.model.image_projector, "model.image_projector"),
        prompt=PromptEmbeddings(options.text_tokens, options.context_dim),  # pyright: ignore[reportAttributeAccessIssue]
        scheduler=construct(NoiseSchedule, config.model.schedule, "model.schedule"),
        sampling=asdict(config.sampling),
    )


class Denoiser(nn.Module):
    """U-Net and context encoder as one module, so that one optimizer, one EMA and one DDP wrapper hold both."""

    def __init__(self, unet: nn.Module, context: ContextEncoder) -> None:
        super().__init__()
        self.unet, self.context = unet, context

    def forward(
        self, sample: Tensor, timesteps: Tensor, batch: dict[str, Tensor], drops: tuple[Tensor, Tensor], fps: int
    ) -> Tensor:
        """The predicted v for `sample` [B, 2C, T, h, w]; `batch` gives reference images and structure latents."""
        context = self.context(batch["reference"], *drops)
        rates = torch.full_like(timesteps, fps)
        return self.unet(sample, timesteps, context, rates, structure=batch["structure"]).sample


class UNetStage:
    """See `cus.training.loop.Stage`."""

    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        self.pipeline = build(config)
        parts = self.pipeline
        for name in ("unet", "vae", "image_encoder", "image_projector", "prompt"):
            getattr(parts, name).requires_grad_(name in config.trained).train(name in config.trained)
        if unknown := set(config.trained) - {"unet", "image_encoder", "image_projector", "prompt"}:
            raise InputError(
                f"cannot train {sorted(unknown)}; choose from unet, image_encoder, image_projector, prompt"
            )
        self.module = Denoiser(parts.unet, ContextEncoder(parts.prompt, parts.image_encoder, parts.image_projector))
        self.target = LatentTarget(config.sampling.residual_scale)
        self.clips = [load_clip(path) for path in clip_paths(Path(config.held_out))[:6]] if config.held_out else []

    def dataset(self) -> LatentCrops:
        """Crops of the cached latents."""
        c = self.config
        return LatentCrops(Path(c.latents), c.frames, c.crop, c.loop.seed, c.structure_share)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Eq. 2 as v-prediction. Items without a structure repeat their condition: then the maximum changes nothing."""
        schedule, objective = self.pipeline.scheduler, self.config.objective
        videos = {name: _sampled(batch[name], generator) for name in ("targets", "conditioning", "structure")}
        condition = videos["conditioning"]
        guided = batch["guided"][:, None, None, None, None]
        structure = torch.where(guided, videos["structure"], condition)
        latents = self.target.encode(videos["targets"], condition)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = objective.draw_timesteps(len(latents), schedule, generator).to(latents.device)
        drops = objective.draw_drops(len(latents), generator)
        sample = torch.cat([schedule.add_noise(latents, noise, timesteps), condition], dim=1)
        inputs = {"reference": batch["reference"], "structure": structure}
        v = module(sample, timesteps, inputs, drops, self.config.sampling.fps)
        return objective.loss(v, schedule.v_target(latents, noise, timesteps), timesteps, schedule)

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out clips: truth, conditioning, generated frames; mean PSNR in dB beside the conditioning's."""
        self.module.eval()
        try:
            rows, scores = [], []
            for clip in self.clips:
                frames = self.generate(clip)
                rows += [video[:: max(1, len(video) // 4)][:4] for video in (clip.targets, clip.conditioning, frames)]
                scores.append(clip_scores(clip, frames))
        finally:
            for name in ("unet", "image_encoder", "image_projector", "prompt"):
                getattr(self.pipeline, name).train(name in self.config.trained)
        if not scores:
            return {}
        save_grid(folder / f"step-{step:08d}.png", torch.cat(rows), columns=4)
        return {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}

    def generate(self, clip: Clip) -> Tensor:
        """Pass 1 on a clip, with the present weights and the exported model's sampling."""
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.config.loop.precision)
        device = next(self.module.parameters()).device
        self.pipeline.vae.to(device)
        return self.pipeline(clip.references.to(device), clip.conditioning.to(device), dtype=precision).cpu()

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the pipeline."""
        self.pipeline.save_pretrained(folder)


def _sampled(posterior: Tensor, generator: torch.Generator) -> Tensor:
    """Latents [B, C, ...] drawn from posteriors [B, 2C, ...] (mean, standard deviation)."""
    mean, std = posterior.chunk(2, dim=1)
    return mean + std * torch.randn(mean.shape, generator=generator).to(mean)


def clip_scores(clip: Clip, frames: Tensor) -> dict[str, float]:
    """PSNR in dB of generated frames, of the conditioning, and of the conditioning's best box blur."""
    blurred = max(psnr(box_blurred(clip.conditioning, radius), clip.targets) for radius in (1, 2, 3))
    return {
        "psnr": psnr(frames, clip.targets),
        "psnr_conditioning": psnr(clip.conditioning, clip.targets),
        "psnr_blurred": blurred,
    }
