"""Few steps: a student of one to four steps from a trained U-Net, by distribution matching with a LoRA'd critic."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cus.diffusion.context import ContextEncoder
from cus.diffusion.lora import TARGETS, add_lora, require_peft
from cus.diffusion.matching import estimate_of, matching_loss, student_samples
from cus.diffusion.sampler import Denoiser as Predictor
from cus.diffusion.sampler import guided
from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.limits import limited
from cus.models.unet import UNet
from cus.training.unet import UNetConfig, UNetStage

MOST_STEPS = 8


@dataclass
class DistillConfig(UNetConfig):
    """Settings of `train/distill.py`: those of `UNetConfig`, where `init` is the teacher, and these.

    `sampling` is the student's: its `steps`, without guidance.

    Attributes:
        teacher_guidance: classifier-free guidance scale that the student learns to do without.
        teacher_rescale: see `cus.diffusion.sampler.guided`.
        critic_rank: of the LoRA that turns the teacher into the critic.
        critic_weight: of the critic's own loss.
        noise_range: share of the noise schedule from which samples are noised to be compared.
    """

    teacher_guidance: float = limited(7.5, low=1, high=100)
    teacher_rescale: float = limited(0.7, low=0, high=1)
    critic_rank: int = limited(16, low=1, high=4096)
    critic_weight: float = limited(1.0, above=0)
    noise_range: tuple[float, float] = limited((0.02, 0.98), low=0, high=1)


@dataclass(frozen=True)
class Draws:
    """What a step draws.

    Attributes:
        last: the student's step that learns.
        noise: [B, C, T, h, w], what sampling starts from.
        compared: timesteps [B] and noise at which teacher and critic look at the samples.
        learned: likewise those at which the critic learns them.
    """

    last: int
    noise: Tensor
    compared: tuple[Tensor, Tensor]
    learned: tuple[Tensor, Tensor]


class Distiller(nn.Module):
    """Student, teacher and critic as one module; the last two are one network, with and without its LoRA.

    Args:
        student: learns.
        critic: the teacher with an adapter, which learns.
        context: makes the context of both.
        schedule: noise levels.
        config: see `DistillConfig`.
    """

    def __init__(
        self, student: UNet, critic: UNet, context: ContextEncoder, schedule: NoiseSchedule, config: DistillConfig
    ) -> None:
        super().__init__()
        self.student, self.critic, self.context = student, critic, context
        self.schedule, self.config = schedule, config

    def forward(self, condition: Tensor, extra: list[Tensor], batch: dict[str, Tensor], draws: Draws) -> Tensor:
        """The student's loss and the critic's; neither has a gradient for the other."""
        items, config = len(condition), self.config
        kept, dropped = (torch.full((items,), flag) for flag in (False, True))
        with torch.no_grad():
            shown = self.context(batch["reference"], kept, kept)
            hidden = self.context(batch["reference"], dropped, dropped)

        def predictor(network: UNet, context: Tensor) -> Predictor:
            def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
                rates = torch.full((items,), config.sampling.fps, device=noisy.device)
                sample = torch.cat([noisy, condition, *extra], dim=1)
                return network(sample, timesteps, context, rates, structure=batch.get("structure")).sample.float()

            return predict

        steps = config.sampling.steps
        samples = student_samples(predictor(self.student, shown), draws.noise, self.schedule, steps, draws.last)
        with torch.no_grad():
            timesteps, noise = draws.compared
            noisy = self.schedule.add_noise(samples.detach(), noise, timesteps)
            self.critic.disable_adapters()
            conditional, unconditional = (predictor(self.critic, context) for context in (shown, hidden))
            teacher = guided(conditional, unconditional, config.teacher_guidance, config.teacher_rescale)
            real = estimate_of(teacher, noisy, timesteps, self.schedule)
            self.critic.enable_adapters()
            fake = estimate_of(conditional, noisy, timesteps, self.schedule)
        timesteps, noise = draws.learned
        noisy = self.schedule.add_noise(samples.detach(), noise, timesteps)
        v = predictor(self.critic, shown)(noisy, timesteps)
        learned = (v - self.schedule.v_target(samples.detach(), noise, timesteps)).square().mean()
        return matching_loss(samples, real, fake) + config.critic_weight * learned


class DistillStage(UNetStage):
    """See `cus.training.loop.Stage`; the export is the student."""

    config: DistillConfig

    def __init__(self, config: DistillConfig) -> None:
        check_settings(config)
        super().__init__(config)
        parts = self.pipeline
        critic = copy.deepcopy(parts.unet).train(False)
        # Its first values must not depend on what else was made before, such as the judge of held-out clips.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.loop.seed)
            add_lora(critic, config.critic_rank, config.critic_rank, TARGETS)
        context = ContextEncoder(parts.prompt, parts.image_encoder, parts.image_projector)
        self.module: Any = Distiller(parts.unet, critic, context, parts.scheduler, config)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Distribution matching of the student's samples, and the critic's loss of v on them."""
        condition, clean, structure, extra = self._latents(batch, generator)
        inputs = {"reference": batch["reference"]}
        if structure is not None:
            inputs["structure"] = torch.cat([structure, *extra], dim=1)
        return module(condition, extra, inputs, self._drawn(clean, generator))

    def _drawn(self, like: Tensor, generator: torch.Generator) -> Draws:
        schedule, items = self.pipeline.scheduler, len(like)
        low, high = (round(share * (schedule.num_timesteps - 1)) for share in self.config.noise_range)

        def noise() -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        def level() -> Tensor:
            return torch.randint(low, high + 1, (items,), generator=generator).to(like.device)

        last = int(torch.randint(self.config.sampling.steps, (1,), generator=generator))
        return Draws(last, noise(), (level(), noise()), (level(), noise()))


def check_settings(config: DistillConfig) -> None:
    """Raises InputError where no student can be made of the settings."""
    require_peft()
    sampling = config.sampling
    refusals: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: not config.init, "a student is made of a trained model: name it with init="),
        (lambda: config.lora.rank > 0, "the student's own weights learn: set lora.rank=0"),
        (lambda: list(config.trained) != ["unet"], "the student is a U-Net: set trained=[unet]"),
        (lambda: sampling.steps > MOST_STEPS, f"a student takes 1 to {MOST_STEPS} steps: set sampling.steps"),
        (lambda: sampling.guidance != 1, "a student is sampled without guidance: set sampling.guidance=1"),
        (lambda: sampling.eta != 0, "a student's steps add no noise: set sampling.eta=0"),
        (lambda: sampling.noise != 1, "the model must be one of noise, not a regression: sampling.noise must be 1"),
        (lambda: config.noise_range[0] >= config.noise_range[1], "noise_range must ascend"),
    )
    for refused, message in refusals:
        if refused():
            raise InputError(message)
