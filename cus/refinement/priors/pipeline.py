"""Our pipeline as a prior: `mini`, a converted ViewCrafter, any checkpoint, with a LoRA if given."""

from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch
from torch import Tensor

from cus.diffusion import CloseUpShotPipeline, LatentTarget
from cus.diffusion.calls import as_clip, pad_to, padded_layers
from cus.diffusion.context import ContextEncoder
from cus.diffusion.latents import encode
from cus.diffusion.layers import encode_layers, split_conditioning
from cus.diffusion.loading import load_model
from cus.diffusion.lora import find_lora
from cus.diffusion.matching import estimate_of
from cus.diffusion.sampler import Denoiser, guided
from cus.refinement.priors.prior import CriticOptions, Prior, PriorView, Shown

# Side in latent pixels of the tiles that the network sees at a time, and of the border around each.
TILE, BORDER = 96, 16


class PipelinePrior(Prior):
    """A checkpoint of ours, shown the photographs' fused warp as it is for a close-up.

    A checkpoint whose sampling starts without noise (`Sampling.noise` is 0, such as `mini`) is a regression: its
    estimate depends on the condition alone, whatever the noise level, and has no spread.
    """

    def __init__(self, pipeline: CloseUpShotPipeline, critic: CriticOptions) -> None:
        if getattr(pipeline.unet, "peft_config", None):
            # The user's LoRA becomes part of the weights; the critic's is another one.
            pipeline.unet.fuse_lora()
            pipeline.unet.unload_lora()
        super().__init__(pipeline.unet, critic)
        self.pipeline, self.schedule = pipeline, pipeline.scheduler
        self.has_spread = pipeline.sampling.noise > 0

    @classmethod
    def open(  # noqa: D102
        cls, source: str, device: torch.device, dtype: torch.dtype, critic: CriticOptions, lora: str | None = None
    ) -> Self:
        return cls(load_model(source, device, dtype=dtype, lora=None if lora is None else find_lora(lora)), critic)

    def views(self, shown: Sequence[Shown]) -> list[PriorView]:  # noqa: D102
        return [_View(self, view) for view in shown]


class _View:
    """A checkpoint's estimates for one view."""

    @torch.no_grad()
    def __init__(self, prior: PipelinePrior, shown: Shown) -> None:
        pipeline = self.pipeline = prior.pipeline
        own = pipeline.sampling
        self.prior_model, self.conditioning = prior, shown.conditioning
        self.target, self.regression = LatentTarget(own.residual_scale), not prior.has_spread
        images, layers = split_conditioning(shown.conditioning, own.layers, own.fill_holes)
        self.size = tuple(images.shape[-2:])
        device = pipeline.unet.device
        padded = pad_to(images.to(device), pipeline.size_multiple)
        frames = encode(pipeline.vae, padded)
        self.condition = as_clip(frames)
        self.inputs = self.condition
        if layers is not None:
            layers = padded_layers(layers, range(1), padded, pipeline.size_multiple)
            extra = encode_layers(pipeline.vae, layers, padded, frames, self.target)
            self.inputs = torch.cat([self.condition, as_clip(extra)], dim=1)
        encoder = ContextEncoder(pipeline.prompt, pipeline.image_encoder, pipeline.image_projector)
        kept, dropped = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
        reference = shown.reference.to(device)
        self.shown = encoder(reference, kept, kept)
        self.hidden = encoder(reference, dropped, dropped) if own.guidance != 1 else None
        self.made: dict[str, tuple[int, Tensor]] = {}

    def encode(self, image: Tensor) -> Tensor:
        padded = pad_to(image[None].to(self.condition), self.pipeline.size_multiple)
        with torch.no_grad():
            return self.target.encode(as_clip(encode(self.pipeline.vae, padded)), self.condition)

    def decode(self, latents: Tensor) -> Tensor:
        frames = self.target.decode(latents, self.condition)[0].transpose(0, 1)
        return self.pipeline.decode_latents(frames, self.conditioning)[0].clone()

    def prior(self, noisy: Tensor, timestep: int) -> Tensor:
        def make() -> Tensor:
            self.prior_model.as_critic(False)
            own = self.pipeline.sampling
            denoiser = self._denoiser(self.shown)
            if self.hidden is not None:
                denoiser = guided(denoiser, self._denoiser(self.hidden), own.guidance, own.guidance_rescale)
            return self._estimate(denoiser, noisy, timestep)

        return self._once("prior", 0, make)

    def critic(self, noisy: Tensor, timestep: int) -> Tensor:
        def make() -> Tensor:
            self.prior_model.as_critic(True)
            return self._estimate(self._denoiser(self.shown), noisy, timestep)

        return self._once("critic", self.prior_model.version, make)

    def learn(self, clean: Tensor, noise: Tensor, timestep: int) -> None:
        prior = self.prior_model
        prior.as_critic(True)
        height, width = clean.shape[-2:]
        rows, columns = prior.window(height, width, self.pipeline.unet.size_multiple)
        part = (..., rows, columns)
        noisy = prior.schedule.add_noise(clean[part], noise[part], torch.tensor([timestep]))
        estimate = self._estimate(self._denoiser(self.shown, self.inputs[part]), noisy, timestep)
        error = (estimate - clean[part]).square().mean()
        # The loss of v, in which the model was trained; a regression's is that of its estimate.
        prior.step(error if self.regression else error / prior.schedule.level(timestep).spread ** 2)

    def _once(self, name: str, version: int, make: Callable[[], Tensor]) -> Tensor:
        """A regression's estimate changes only with its weights."""
        if not self.regression:
            return make()
        if name not in self.made or self.made[name][0] != version:
            self.made[name] = (version, make())
        return self.made[name][1]

    def _estimate(self, denoiser: Denoiser, noisy: Tensor, timestep: int) -> Tensor:
        schedule = self.prior_model.schedule
        if self.regression:
            noisy, timestep = torch.zeros_like(noisy), schedule.num_timesteps - 1
        return estimate_of(denoiser, noisy, torch.tensor([timestep], device=noisy.device), schedule)

    def _denoiser(self, context: Tensor, inputs: Tensor | None = None) -> Denoiser:
        """The network over tiles of a view, or of a part of its inputs."""
        unet = self.pipeline.unet
        shown = self.inputs if inputs is None else inputs
        rates = torch.full((1,), self.pipeline.sampling.fps, device=shown.device)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            rows = []
            for outer, inner in _tiles(noisy.shape[-2], unet.size_multiple):
                row = []
                for across, kept in _tiles(noisy.shape[-1], unet.size_multiple):
                    sample = torch.cat([noisy[..., outer, across], shown[..., outer, across]], dim=1)
                    made = unet(sample.to(unet.dtype), timesteps, context.to(unet.dtype), rates).sample.float()
                    row.append(made[..., inner, kept])
                rows.append(torch.cat(row, dim=-1))
            return torch.cat(rows, dim=-2)

        return predict


def _tiles(length: int, multiple: int) -> Iterator[tuple[slice, slice]]:
    """Windows of an axis with a border around each, and the part of each without it."""
    tile, border = (-(-size // multiple) * multiple for size in (TILE, BORDER))
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        low, high = max(0, start - border), min(length, stop + border)
        yield slice(low, high), slice(start - low, stop - low)
