"""diffusers' `StableDiffusionUpscalePipeline` as a prior: the x4 upscaler of Stable Diffusion 2, in latents."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_upscale import StableDiffusionUpscalePipeline
from diffusers.utils import logging
from torch import Tensor

from cus.diffusion.calls import pad_to
from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.hub.errors import first_line
from cus.refinement.priors.prior import CriticOptions, Prior, PriorView, Shown

HUB_ID = "stabilityai/stable-diffusion-x4-upscaler"
# The pipeline's own noise level for the photograph, out of 350.
NOISE_LEVEL = 20


class UpscalerPrior(Prior):
    """An upscaler that sees the photograph itself, with a little noise, and an empty prompt."""

    factor = 4

    def __init__(self, pipeline: StableDiffusionUpscalePipeline, critic: CriticOptions) -> None:
        super().__init__(pipeline.unet, critic)
        self.pipeline: Any = pipeline
        config: Any = pipeline.scheduler.config
        if config.prediction_type not in ("v_prediction", "epsilon"):
            raise InputError(f"the upscaler predicts {config.prediction_type}; expected v_prediction or epsilon")
        self.predicts_v = config.prediction_type == "v_prediction"
        alphas: Tensor = pipeline.scheduler.alphas_cumprod  # pyright: ignore[reportAttributeAccessIssue]
        self.schedule = NoiseSchedule(len(alphas), rescale_base=1.0, rescale_steps=len(alphas))
        self.schedule.alpha_bar = alphas.double().cpu()

    @classmethod
    def open(  # noqa: D102
        cls, source: str, device: torch.device, dtype: torch.dtype, critic: CriticOptions, lora: str | None = None
    ) -> Self:
        if lora is not None:
            raise InputError("a LoRA is for a prior of ours; leave --lora out, or name another --model")
        # The library's own progress bar would break into the stages' bars.
        logging.disable_progress_bar()
        try:
            found = StableDiffusionUpscalePipeline.from_pretrained(source, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError, RuntimeError, ImportError, AttributeError, LookupError, TypeError) as error:
            raise InputError(
                f"cannot load the upscaler {source}: {first_line(error)}; connect to the Hub once, about 3.5 GB, or "
                "name a folder that diffusers' save_pretrained wrote of it, or --model mini or none"
            ) from error
        return cls(found.to(device), critic)

    def views(self, shown: Sequence[Shown]) -> list[PriorView]:  # noqa: D102
        pipeline = self.pipeline
        with torch.no_grad():
            prompt = pipeline.encode_prompt("", pipeline.unet.device, 1, False)[0]
        return [_View(self, view, prompt) for view in shown]


class _View:
    """The upscaler's estimates for one view."""

    def __init__(self, prior: UpscalerPrior, shown: Shown, prompt: Tensor) -> None:
        self.upscaler, self.pipeline, self.prompt = prior, prior.pipeline, prompt
        config = self.pipeline.vae.config
        if 2 ** (len(config.block_out_channels) - 1) != prior.factor:
            raise InputError(f"the upscaler's autoencoder does not halve {prior.factor} times smaller; get another one")
        # The U-Net halves the photograph's size at every level but the last.
        self.multiple = 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        self.size = tuple(4 * side for side in shown.photograph.shape[-2:])
        low = pad_to(shown.photograph[None].to(self.pipeline.unet.device), self.multiple) * 2 - 1
        noise = torch.randn(low.shape, generator=prior.draws).to(low)
        level = torch.tensor([NOISE_LEVEL], device=low.device)
        self.level, self.low = level, self.pipeline.low_res_scheduler.add_noise(low, noise, level)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        vae = self.pipeline.vae
        padded = pad_to(image[None].to(self.low), 4 * self.multiple)
        return (vae.encode((padded * 2 - 1).to(vae.dtype)).latent_dist.mean * vae.config.scaling_factor).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.pipeline.vae
        image = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample[0].float() / 2 + 0.5
        return image[:, : self.size[0], : self.size[1]].clamp(0, 1)

    def prior(self, noisy: Tensor, timestep: int) -> Tensor:
        self.upscaler.as_critic(False)
        return self._estimate(noisy, self.low, timestep)

    def critic(self, noisy: Tensor, timestep: int) -> Tensor:
        self.upscaler.as_critic(True)
        return self._estimate(noisy, self.low, timestep)

    def learn(self, clean: Tensor, noise: Tensor, timestep: int) -> None:
        prior = self.upscaler
        prior.as_critic(True)
        height, width = clean.shape[-2:]
        part = (..., *prior.window(height, width, self.multiple))
        noisy = prior.schedule.add_noise(clean[part], noise[part], torch.tensor([timestep]))
        error = (self._estimate(noisy, self.low[part], timestep) - clean[part]).square().mean()
        prior.step(error / prior.schedule.level(timestep).spread ** 2)

    def _estimate(self, noisy: Tensor, low: Tensor, timestep: int) -> Tensor:
        unet = self.pipeline.unet
        sample = torch.cat([noisy, low.to(noisy)], dim=1).to(unet.dtype)
        made = unet(sample, timestep, encoder_hidden_states=self.prompt.to(unet.dtype), class_labels=self.level).sample
        level, made = self.upscaler.schedule.level(timestep), made.float()
        if self.upscaler.predicts_v:
            return level.split(made, noisy)[0]
        return (noisy - level.spread * made) / level.signal
