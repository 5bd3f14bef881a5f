"""Few steps: a student of one to four steps from a trained U-Net, by distribution matching with a LoRA'd critic."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cus.diffusion.context import ContextEncoder
from cus.diffusion.lora import TARGETS, add_lora, require_peft
from cus.diffusion.matching import estimate_of, matching_loss, student_samples
from cus.diffusion.objective import charbonnier
from cus.diffusion.sampler import Denoiser as Predictor
from cus.diffusion.sampler import guided
from cus.errors import InputError
from cus.limits import limited
from cus.models.unet import UNet
from cus.training.unet import UNetConfig, UNetStage

MOST_STEPS = 8


@dataclass
class DistillConfig(UNetConfig):
    """Settings of `train/distill.py`, in addition to those of `UNetConfig`, where `init` is the teacher.

    `sampling` is for the student: its number of `steps`, without guidance.

    Attributes:
        teacher_guidance: the teacher's classifier-free guidance scale, which the student learns to imitate.
        teacher_rescale: how far the teacher's guided prediction is rescaled to the standard deviation without guidance.
        critic_rank: rank of the LoRA that turns the teacher into the critic; 0: a whole copy of the teacher learns, for
            small networks, whose few attentions leave a LoRA little to change.
        critic_rate: factor of the critic's learning rate: it has to follow the student.
        regression: weight of the distance between the student's and the teacher's samples of the same noise, as in the
            first paper on distribution matching; 0: none. A student of one step needs it to make use of its noise.
        regression_steps: number of the teacher's sampling steps for that; each costs a forward pass.
        noise_range: lowest and highest noise level of compared samples, as fractions of the noise schedule.
    """

    teacher_guidance: float = limited(7.5, low=1, high=100)
    teacher_rescale: float = limited(0.7, low=0, high=1)
    critic_rank: int = limited(16, low=0, high=4096)
    critic_rate: float = limited(4.0, above=0, high=1000)
    regression: float = limited(0.0, low=0)
    regression_steps: int = limited(10, low=1, high=1000)
    noise_range: tuple[float, float] = limited((0.02, 0.98), low=0, high=1)


@dataclass(frozen=True)
class Draws:
    """Random draws of one training step.

    Attributes:
        last: the sampling step that is trained.
        noise: [B, C, T, h, w], the start of sampling.
        compared: timesteps [B] and noise at which the estimates of teacher and critic are compared.
        learned: timesteps [B] and noise at which the critic learns the samples.
    """

    last: int
    noise: Tensor
    compared: tuple[Tensor, Tensor]
    learned: tuple[Tensor, Tensor]


class Distiller(nn.Module):
    """Student, teacher and critic as one module; the last two may be one network, with and without its LoRA.

    Args:
        student: trained network.
        critic: the teacher with a trained LoRA, or a trained copy of it.
        teacher: the teacher, if the critic has no LoRA.
        context: encodes the reference views for all networks.
        stage: gives the noise schedule, the settings, and the teacher's own loss, by which the critic learns, too.
    """

    def __init__(
        self,
        student: UNet,
        critic: UNet,
        teacher: UNet | None,
        context: ContextEncoder,
        stage: "DistillStage",
    ) -> None:
        super().__init__()
        self.student, self.critic, self.teacher, self.context = student, critic, teacher, context
        self.stage = stage
        self.learning_rates = {"critic": stage.config.critic_rate}

    def forward(
        self, condition: Tensor, extra: list[Tensor], structure: Tensor | None, batch: dict[str, Tensor], draws: Draws
    ) -> Tensor:
        """The sum of the student's losses and the critic's; neither affects the other's gradient."""
        items, config, schedule = len(condition), self.stage.config, self.stage.pipeline.scheduler
        kept, dropped = (torch.full((items,), flag) for flag in (False, True))
        with torch.no_grad():
            shown = self.context(batch["reference"], kept, kept)
            hidden = self.context(batch["reference"], dropped, dropped)

        def predictor(network: UNet, context: Tensor) -> Predictor:
            def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
                rates = torch.full((items,), config.sampling.fps, device=noisy.device)
                sample = torch.cat([noisy, condition, *extra], dim=1)
                return network(sample, timesteps, context, rates, structure=structure).sample.float()

            return predict

        steps = config.sampling.steps
        samples = student_samples(predictor(self.student, shown), draws.noise, schedule, steps, draws.last)
        made, taught = samples.detach(), None
        with torch.no_grad():
            timesteps, noise = draws.compared
            noisy = schedule.add_noise(made, noise, timesteps)
            with self._teaching() as network:
                conditional, unconditional = (predictor(network, context) for context in (shown, hidden))
                teacher = guided(conditional, unconditional, config.teacher_guidance, config.teacher_rescale)
                real = estimate_of(teacher, noisy, timesteps, schedule)
                if config.regression:
                    count = config.regression_steps
                    taught = student_samples(teacher, draws.noise, schedule, count, count - 1)
            fake = estimate_of(predictor(self.critic, shown), noisy, timesteps, schedule)
        timesteps, noise = draws.learned
        v = predictor(self.critic, shown)(schedule.add_noise(made, noise, timesteps), timesteps)
        if config.objective.pixels:
            samples, real, fake = (self.stage.frames_of(x, condition, batch) for x in (samples, real, fake))
            taught = None if taught is None else self.stage.frames_of(taught, condition, batch)
            batch = {**batch, "targets": samples.detach()}
        loss = matching_loss(samples, real, fake)
        if taught is not None:
            loss = loss + config.regression * charbonnier(samples, taught).mean()
        return loss + self.stage.loss_of_v(v, made, noise, timesteps, condition, batch)

    @contextlib.contextmanager
    def _teaching(self) -> Iterator[UNet]:
        """The teacher: its own network, or the critic's without the LoRA."""
        if self.teacher is not None:
            yield self.teacher
            return
        self.critic.disable_adapters()
        try:
            yield self.critic
        finally:
            self.critic.enable_adapters()


class DistillStage(UNetStage):
    """Trains and exports the student; a stage of `cus.training.loop`."""

    config: DistillConfig

    def __init__(self, config: DistillConfig) -> None:
        check_settings(config)
        super().__init__(config)
        parts = self.pipeline
        critic, teacher = copy.deepcopy(parts.unet).train(False), None
        if config.critic_rank:
            # Its initial values must not depend on earlier draws, such as those of the held-out clips' distance.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.loop.seed)
                add_lora(critic, config.critic_rank, config.critic_rank, TARGETS)
        else:
            teacher = copy.deepcopy(critic).requires_grad_(False)
        context = ContextEncoder(parts.prompt, parts.image_encoder, parts.image_projector)
        self.module: Any = Distiller(parts.unet, critic, teacher, context, self)

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Distribution matching of the student's samples, and the critic's loss of v on them."""
        condition, clean, structure, extra = self._latents(batch, generator)
        guide = None if structure is None else torch.cat([structure, *extra], dim=1)
        return module(condition, extra, guide, batch, self._drawn(clean, generator))

    def _drawn(self, like: Tensor, generator: torch.Generator) -> Draws:
        schedule, items = self.pipeline.scheduler, len(like)
        low, high = (round(share * (schedule.num_timesteps - 1)) for share in self.config.noise_range)

        def noise() -> Tensor:
            return torch.randn(like.shape, generator=generator).to(like)

        def level() -> Tensor:
            return torch.randint(low, high + 1, (items,), generator=generator).to(like.device)

        # Every other time or so the first step: it has the most to learn.
        last = int(self.config.sampling.steps * float(torch.rand((), generator=generator)) ** 2)
        return Draws(last, noise(), (level(), noise()), (level(), noise()))


def check_settings(config: DistillConfig) -> None:
    """Raises InputError if no student can be trained with the settings."""
    if config.critic_rank:
        require_peft()
    sampling = config.sampling
    refusals: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: not config.init, "a student starts from a trained model: name it with init="),
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
