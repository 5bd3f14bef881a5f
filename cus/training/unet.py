"""Stage 1: the denoising U-Net, and optionally the parts that make its context."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from cus.conditioning import conditioning_kind
from cus.datasets.clips import Clip
from cus.diffusion import CloseUpShotPipeline, LatentTarget, NoiseSchedule, Objective, PromptEmbeddings, Sampling
from cus.diffusion.colors import keep_colors
from cus.diffusion.context import ContextEncoder
from cus.diffusion.latents import FirstStage, decode, encode
from cus.diffusion.layers import Layers, encode_layers, layer_channels
from cus.diffusion.lora import TARGETS, add_lora, require_peft, save_lora
from cus.diffusion.objective import at_exposure_of, charbonnier
from cus.errors import InputError
from cus.limits import limited
from cus.models.attention import TimeTransformer
from cus.models.blocks import TemporalConv
from cus.models.clip import ImageEncoder
from cus.models.perceptual import PerceptualDistance
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.models.unshuffle import UnshuffleAutoencoder
from cus.remote import local_folder
from cus.splats.losses import ssim
from cus.training.caches import require_cached
from cus.training.clip_crops import LayeredCrops
from cus.training.config import construct
from cus.training.held_out import clip_scores, guided_scores, held_out_clips, judge
from cus.training.latents import LatentCrops
from cus.training.loop import LoopSettings
from cus.training.pictures import save_grid
from cus.training.vae import read_autoencoder

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Lower bound of a condition's loss in a relative loss: errors of a good one are little above its photographs' noise.
LEAST_ERROR = 3e-3


@dataclass
class NewModel:
    """Arguments of the parts of a model trained from scratch.

    Attributes:
        vae: folder of a trained autoencoder; empty if `unshuffle` is set.
        unshuffle: factor of a lossless, weight-free first stage instead; 0: none; its latents are spectral.
        unet: arguments of `cus.models.UNet`; its channels follow from the first stage and the condition layers.
        image_encoder: arguments of `cus.models.clip.ImageEncoder`.
        image_projector: arguments of `cus.models.ImageProjector`.
        schedule: arguments of `cus.diffusion.NoiseSchedule`.
    """

    vae: str = ""
    unshuffle: int = limited(0, low=0, high=16)
    unet: dict[str, Any] = field(default_factory=dict)
    image_encoder: dict[str, Any] = field(default_factory=dict)
    image_projector: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


@dataclass
class LoraSettings:
    """An adapter that is trained instead of the U-Net's own weights (`cus.diffusion.lora`).

    Attributes:
        rank: rank of its matrices; 0 trains the weights themselves.
        alpha: its output is multiplied by `alpha / rank`; 0 takes the rank.
        targets: last name components of the layers to adapt.
        dropout: dropout probability before the adapter.
    """

    rank: int = limited(0, low=0, high=4096)
    alpha: float = limited(0.0, low=0)
    targets: list[str] = field(default_factory=lambda: list(TARGETS))
    dropout: float = limited(0.0, low=0, high=0.99)


@dataclass
class UNetConfig:
    """Settings of `train/unet.py`.

    Attributes:
        out: output folder of the run.
        latents: folder of cached latents (data/cache_latents.py); alternative to `clips`.
        clips: folder of clips, encoded during training: for a first stage that costs nothing.
        held_out: folder of clips for scores and sample pictures; empty: none.
        held_out_clips: maximum number of these.
        init: pipeline to start from: a folder or Hub id; empty builds `model`.
        model: arguments of a new model (`NewModel`).
        sampling: sampling settings of the exported model.
        trained: parts to train; the others are frozen.
        frames: number of frames per training window. With 1 the temporal layers are frozen: single pictures would not
            train them, but make them random for longer clips.
        crop: height and width of the windows in latent pixels.
        stills_share: fraction of the batches whose frames are used as single pictures, which prepares for short clips.
        conditioning: name of the warp of `clips` and `held_out` to read (`cus.datasets.other_warps`); empty: their own
            conditioning. It should be of the kind in `sampling.conditioning`.
        structure: folder of structure images (data/make_coarse.py) that replace those in `latents` or `clips`; empty:
            the latter.
        held_out_structure: folder of structure images for the held-out clips; empty: their own.
        structure_share: fraction of the items with a structure image that keep it (0: only pass 1).
        lora: adapter to train; with a rank, `trained` must be [unet], and everything else is kept in `loop.precision`.
        objective: settings of the loss (`Objective`).
        loop: settings of the training loop (`LoopSettings`).
    """

    out: str = MISSING
    latents: str = ""
    clips: str = ""
    held_out: str = ""
    held_out_clips: int = limited(6, low=1)
    init: str = ""
    model: NewModel = field(default_factory=NewModel)
    sampling: Sampling = field(default_factory=Sampling)
    trained: list[str] = field(default_factory=lambda: ["unet", "image_projector"])
    frames: int = limited(25, low=1)
    crop: tuple[int, int] = limited((72, 128), low=1, high=8192)
    stills_share: float = limited(0.0, low=0, high=1)
    conditioning: str = ""
    structure: str = ""
    held_out_structure: str = ""
    structure_share: float = limited(0.5, low=0, high=1)
    lora: LoraSettings = field(default_factory=LoraSettings)
    objective: Objective = field(default_factory=Objective)
    loop: LoopSettings = field(default_factory=LoopSettings)


def build(config: UNetConfig) -> CloseUpShotPipeline:
    """The pipeline to train: loaded from `config.init`, or new around a trained autoencoder."""
    conditioning_kind(config.sampling.conditioning)  # refuse an unknown kind, for which there would be no images
    if config.init:
        return CloseUpShotPipeline.from_pretrained(config.init, sampling=asdict(config.sampling))
    vae: FirstStage
    if config.model.unshuffle:
        vae = UnshuffleAutoencoder(config.model.unshuffle, scaling_factor=1.0, spectral=True)
    else:
        vae = read_autoencoder(config.model.vae, "set init=, model.vae= or model.unshuffle=")
    latent, layers = vae.latent_channels, config.sampling.layers
    channels = {
        "in_channels": 2 * latent + layer_channels(layers, latent, vae.downsample),
        "out_channels": latent,
    }
    unet = construct(UNet, channels | config.model.unet, "model.unet")
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
    """U-Net and context encoder as one module, so that one optimizer, one EMA and one DDP wrapper contain both."""

    def __init__(self, unet: nn.Module, context: ContextEncoder) -> None:
        super().__init__()
        self.unet, self.context = unet, context

    def forward(
        self, sample: Tensor, timesteps: Tensor, batch: dict[str, Tensor], drops: tuple[Tensor, Tensor], fps: int
    ) -> Tensor:
        """Predict v for `sample` [B, 2C, T, h, w]; `batch` provides reference images and structure latents."""
        context = self.context(batch["reference"], *drops)
        rates = torch.full_like(timesteps, fps)
        return self.unet(sample, timesteps, context, rates, structure=batch.get("structure")).sample


def dissimilarity(images: Tensor, targets: Tensor) -> Tensor:
    """[B] mean of 1 - SSIM over each item's frames [B, T, 3, H, W] in [0, 1], in single precision."""
    with torch.autocast(images.device.type, enabled=False):
        return 1 - ssim(images.float(), targets.float()).mean(dim=1)


class UNetStage:
    """Trains the denoising U-Net (a `cus.training.stage.Stage`)."""

    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        if config.lora.rank:
            _check_lora(config)
        self.pipeline = build(config)
        parts = self.pipeline
        for name in ("unet", "vae", "image_encoder", "image_projector", "prompt"):
            getattr(parts, name).requires_grad_(name in config.trained).train(name in config.trained)
        if unknown := set(config.trained) - {"unet", "image_encoder", "image_projector", "prompt"}:
            raise InputError(
                f"cannot train {sorted(unknown)}; choose from unet, image_encoder, image_projector, prompt"
            )
        self.module = Denoiser(parts.unet, ContextEncoder(parts.prompt, parts.image_encoder, parts.image_projector))
        # They get no gradients, and several processes would wait for these.
        for parameter in parts.image_encoder.unread_parameters():
            parameter.requires_grad_(False)
        if config.lora.rank:
            self._add_lora()
        elif config.frames == 1:
            for part in parts.unet.modules():
                if isinstance(part, TemporalConv | TimeTransformer):
                    part.requires_grad_(False)
        self.target = LatentTarget(config.sampling.residual_scale)
        self.perceptual = None
        if config.objective.perceptual:
            self.perceptual = PerceptualDistance.load("vgg").to(memory_format=torch.channels_last)
        self.judge = judge() if config.held_out else None
        self.clips = held_out_clips(
            config.held_out, config.held_out_clips, config.conditioning, config.held_out_structure
        )

    def _add_lora(self) -> None:
        """Freeze everything and add the adapter."""
        config, lora = self.config, self.config.lora
        add_lora(self.pipeline.unet, lora.rank, lora.alpha or lora.rank, lora.targets, lora.dropout)
        if (dtype := AUTOCAST.get(config.loop.precision)) is not None:
            for parameter in self.module.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)

    def dataset(self) -> LatentCrops | LayeredCrops:
        """Crops of the cached latents, or of the clips."""
        c = self.config
        layers = c.sampling.layers
        if bool(c.latents) == bool(c.clips):
            raise InputError("give either latents= (data/cache_latents.py) or clips= (a folder of clips)")
        structures = local_folder(c.structure) if c.structure else None
        if c.clips:
            factor, side = self.pipeline.vae.downsample, self.pipeline.image_encoder.config["image_size"]
            crop = (c.crop[0] * factor, c.crop[1] * factor)
            shown = (c.conditioning, c.structure_share, c.sampling.fill_holes, structures)
            return LayeredCrops(local_folder(c.clips), c.frames, crop, c.loop.seed, layers, side, *shown)
        require_cached(local_folder(c.latents), c.conditioning)
        if layers:
            raise InputError(f"cached latents hold no condition layers, and sampling.layers is {layers}: give clips=")
        return LatentCrops(local_folder(c.latents), c.frames, c.crop, c.loop.seed, c.structure_share, structures)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Eq. 2 as v-prediction, or Charbonnier's loss on the frames (`Objective`)."""
        schedule, objective = self.pipeline.scheduler, self.config.objective
        if float(torch.rand((), generator=generator)) < self.config.stills_share:
            batch = _as_stills(batch)
        condition, clean, structure, extra = self._latents(batch, generator)
        latents = self.target.encode(clean, condition)
        noise = torch.randn(latents.shape, generator=generator).to(latents) * self.config.sampling.noise
        timesteps = objective.draw_timesteps(len(latents), schedule, generator).to(latents.device)
        drops = objective.draw_drops(len(latents), generator)
        noisy = schedule.add_noise(latents, noise, timesteps)
        sample = torch.cat([noisy, condition, *extra], dim=1)
        inputs = {"reference": batch["reference"]}
        if structure is not None:
            inputs["structure"] = torch.cat([structure, *extra], dim=1)
        v = module(sample, timesteps, inputs, drops, self.config.sampling.fps)
        return self.loss_of_v(v, latents, noise, timesteps, condition, batch)

    def loss_of_v(
        self,
        v: Tensor,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        condition: Tensor,
        batch: dict[str, Tensor],
    ) -> Tensor:
        """The loss of a prediction of v for noised latents: on v, or on the frames with the batch's targets."""
        schedule, objective = self.pipeline.scheduler, self.config.objective
        if not objective.pixels:
            return objective.loss(v, schedule.v_target(latents, noise, timesteps), timesteps, schedule)
        noisy = schedule.add_noise(latents, noise, timesteps)
        found = schedule.x0_from_v(v.float(), noisy, timesteps) / schedule.rescaled(torch.ones_like(v), timesteps)
        return self._pixel_loss(self.frames_of(found, condition, batch), batch)

    def _latents(
        self, batch: dict[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
        """Condition, targets and structure (None: no item has one) [B, C, T, h, w], and the layers' channels."""
        if not self.config.clips:
            videos = {name: _sampled(batch[name], generator) for name in ("targets", "conditioning", "structure")}
            structure = _guides(videos["structure"], videos["conditioning"], batch["guided"])
            return videos["conditioning"], videos["targets"], structure, []
        vae, items = self.pipeline.vae, len(batch["targets"])
        vae.to(batch["targets"].device)
        with torch.no_grad():
            images = batch["conditioning"].flatten(0, 1)
            condition, clean = (encode(vae, part) for part in (images, batch["targets"].flatten(0, 1)))
            extra = []
            if self.config.sampling.layers:
                names = ("layer_images", "layer_masks", "gate")
                layers = Layers(*(batch[name].flatten(0, 1) for name in names))
                extra = [_as_video(encode_layers(vae, layers, images, condition, self.target), items)]
            condition, structure = _as_video(condition, items), None
            if "guided" in batch and bool(batch["guided"].any()):
                found = _as_video(encode(vae, batch["structure"].flatten(0, 1)), items)
                structure = _guides(found, condition, batch["guided"])
        return condition, _as_video(clean, items), structure, extra

    def frames_of(self, diffused: Tensor, condition: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Frames [B, T, 3, H, W] of diffused latents, with the colours that inference gives them."""
        shown = batch["conditioning"]
        latents = self.target.decode(diffused, condition).transpose(1, 2).flatten(0, 1)
        frames = decode(self.pipeline.vae, latents)
        return keep_colors(frames, shown.flatten(0, 1), self.config.sampling.color_window).unflatten(0, shown.shape[:2])

    def _pixel_loss(self, frames: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Charbonnier's loss on decoded frames, plus the weighted structural and perceptual distances."""
        objective, shown = self.config.objective, batch["conditioning"]
        targets = at_exposure_of(batch["targets"], shown)
        loss = torch.zeros((), device=frames.device)
        for weight, distance in ((1.0, charbonnier), (objective.structural, dissimilarity)):
            if weight:
                losses = distance(frames, targets)
                if objective.relative:
                    losses = losses / (distance(shown, targets) + LEAST_ERROR)
                loss = loss + weight * losses.mean()
        if self.perceptual is not None:
            items, middle = math.ceil(objective.perceptual_share * len(frames)), targets.shape[1] // 2
            pictures = frames[:items, middle].clamp(0, 1), targets[:items, middle]
            loss = loss + objective.perceptual * self.perceptual.to(frames.device)(*pictures).mean()
        return loss

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out clips: truth, conditioning, generated frames; mean PSNR in dB, and that of the conditioning."""
        self.module.eval()
        try:
            rows, scores = [], []
            for clip in self.clips:
                frames = self.generate(clip)
                for video in (clip.targets, clip.conditioning, frames):
                    rows += video[:: max(1, len(video) // 4)][:4]
                score = clip_scores(clip, frames, self.judge)
                if self.config.structure_share and clip.structure is not None:
                    score |= guided_scores(clip, self.generate(clip, clip.structure), self.judge)
                scores.append(score)
        finally:
            for name in ("unet", "image_encoder", "image_projector", "prompt"):
                getattr(self.pipeline, name).train(name in self.config.trained)
        if not scores:
            return {}
        columns = 3 if all(len(clip.targets) == 1 for clip in self.clips) else 4
        save_grid(folder / f"step-{step:08d}.png", rows, columns)
        found = {name: [s[name] for s in scores if name in s] for score in scores for name in score}
        return {name: sum(values) / len(values) for name, values in found.items()}

    def generate(self, clip: Clip, structure: Tensor | None = None) -> Tensor:
        """Pass 1 on a clip, or pass 2 with `structure`, with the current weights and the exported model's sampling."""
        precision = AUTOCAST.get(self.config.loop.precision)
        device = next(self.module.parameters()).device
        self.pipeline.vae.to(device)
        guide = None if structure is None else structure.to(device)
        return self.pipeline(clip.references.to(device), clip.shown.to(device), guide, dtype=precision).cpu()

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Save the pipeline, or only the LoRA."""
        if self.config.lora.rank:
            save_lora(self.pipeline.unet, folder)
        else:
            self.pipeline.save_pretrained(folder)


def _check_lora(config: UNetConfig) -> None:
    """Raise InputError if the settings or the installed packages do not allow training a LoRA."""
    require_peft()
    if list(config.trained) != ["unet"]:
        raise InputError(f"a LoRA changes the U-Net alone: set trained=[unet] instead of {list(config.trained)}")
    if config.frames == 1:
        raise InputError("a LoRA of single pictures would change the layers over time unseen: set frames=2 or more")


def _sampled(posterior: Tensor, generator: torch.Generator) -> Tensor:
    """Latents [B, C, ...] drawn from posteriors [B, 2C, ...] (mean, standard deviation)."""
    mean, std = posterior.chunk(2, dim=1)
    return mean + std * torch.randn(mean.shape, generator=generator).to(mean)


def _guides(structure: Tensor, condition: Tensor, guided: Tensor) -> Tensor:
    """Structure latents [B, ...]; items without any repeat their condition, so that the maximum changes nothing."""
    return torch.where(guided[:, None, None, None, None], structure, condition)


def _as_video(frames: Tensor, items: int) -> Tensor:
    """[B T, C, h, w] -> [B, C, T, h, w]."""
    return frames.unflatten(0, (items, -1)).transpose(1, 2)


def _as_stills(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Frames [B, T, ...] as clips of one frame [B T, 1, ...]; pictures of an item are repeated."""
    count = batch["targets"].shape[1]
    return {
        name: values.repeat_interleave(count, dim=0)
        if name in ("reference", "guided")
        else values.flatten(0, 1)[:, None]
        for name, values in batch.items()
    }
