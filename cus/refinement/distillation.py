"""Score distillation: moves pictures to where a diffusion model finds them likely, without sampling it.

Three gradients as one family. Each compares two estimates of the clean sample and moves it from one to the other:

    SDS  the sample itself, and the prior's estimate of it       Poole et al., "DreamFusion" (2022), Eq. 3
    RSD  both after the prior's next step, i.e. renoised         Lee et al., "DiSR-NeRF" (arXiv 2404.00874)
    VSD  a critic's estimate, and the prior's                    Wang et al., "ProlificDreamer" (2023), Eq. 9

SDS moves to what the prior expects, which is the mean of what is likely. In VSD the critic learns the samples, so both
scores are equal, and nothing moves any more, once the samples are distributed as the prior's. Super-resolution of a
scene by VSD, with a critic trained every third step: arXiv 2410.18137.

Nothing here knows of networks or pictures; samples are [B, ...].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError

Gradient = Literal["sds", "rsd", "vsd"]


@dataclass(frozen=True)
class DistillOptions:
    """How samples are distilled.

    Attributes:
        gradient: sds, rsd or vsd.
        steps: number of steps for each sample; the noise is annealed over them.
        rate: step size, as a fraction of the way to the estimate.
        noise_range: lowest and highest noise level, as fractions of the noise schedule.
        critic_every: number of steps for each training step of the critic; 1 trains it in every step.
        critic_steps: training steps of the critic before the first step of the samples.
    """

    gradient: Gradient = "vsd"
    steps: int = 12
    rate: float = 1.0
    noise_range: tuple[float, float] = (0.02, 0.98)
    critic_every: int = 3
    critic_steps: int = 0

    def check(self) -> None:
        """Refuse invalid options. Raises InputError."""
        low, high = self.noise_range
        refusals = (
            (self.gradient not in get_args(Gradient), f"gradient must be {', '.join(get_args(Gradient))}"),
            (self.steps < 1, "steps must be at least 1"),
            (not 0 < self.rate <= 10, "rate must be above 0 and at most 10"),
            (not 0 <= low < high <= 1, "noise_range must ascend within 0 to 1"),
            (self.critic_every < 1, "critic_every must be at least 1"),
            (self.critic_steps < 0, "critic_steps must not be negative"),
        )
        for refused, message in refusals:
            if refused:
                raise InputError(f"{message}; got {self}")


class Score(Protocol):
    """A diffusion model's view of one sample."""

    def prior(self, noisy: Tensor, timestep: int) -> Tensor:
        """The model's estimate of the clean sample."""
        ...

    def critic(self, noisy: Tensor, timestep: int) -> Tensor:
        """The estimate of the critic, which learns the samples."""
        ...

    def learn(self, clean: Tensor, noise: Tensor, timestep: int) -> None:
        """One training step of the critic on this sample."""
        ...


def annealed(options: DistillOptions, schedule: NoiseSchedule) -> list[tuple[int, int]]:
    """(timestep, next timestep) of each step, linearly from the highest noise level; the last one ends at 0."""
    last = schedule.num_timesteps - 1
    low, high = (share * last for share in options.noise_range)
    levels = torch.linspace(high, low, options.steps, dtype=torch.float64).round().long().tolist()
    return list(zip(levels, [*levels[1:], 0], strict=True))


def renoised(clean: Tensor, noise: Tensor, timestep: int, schedule: NoiseSchedule) -> Tensor:
    """Noisy samples at a timestep."""
    return schedule.add_noise(clean, noise, torch.tensor([timestep]))


def gradient(
    options: DistillOptions, score: Score, clean: Tensor, noise: Tensor, now: int, then: int, schedule: NoiseSchedule
) -> Tensor:
    """The direction that a sample is moved against, in units of the sample.

    SDS and VSD are weighted by the signal's share of the noisy sample: estimates from noise alone say little of it. RSD
    needs no weight: with a rate of 1 and the same noise in every step, the renoised samples are those of DDIM.

    Args:
        options: which gradient.
        score: the model's view of this sample.
        clean: [B, ...].
        noise: of that shape, standard normal.
        now: timestep at which the sample is judged.
        then: next timestep, where RSD compares.
        schedule: noise levels.
    """
    noisy = renoised(clean, noise, now, schedule)
    real = score.prior(noisy, now)
    signal = schedule.level(now).signal
    if options.gradient == "sds":
        return signal * (clean - real)
    if options.gradient == "vsd":
        return signal * (score.critic(noisy, now) - real)
    level, scale = schedule.level(now), float(schedule.rescale[now])
    direction = (noisy - level.signal * scale * real) / level.spread
    difference = renoised(clean, noise, then, schedule) - renoised(real, direction, then, schedule)
    return difference / (schedule.level(then).signal * float(schedule.rescale[then]))


@torch.no_grad()
def distill(
    samples: Sequence[Tensor],
    scores: Sequence[Score],
    schedule: NoiseSchedule,
    options: DistillOptions,
    generator: torch.Generator,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Move samples along a gradient, and train the critic on them in the same loop.

    Args:
        samples: clean samples, [B, ...] each; their sizes may differ.
        scores: the model's view of each.
        schedule: noise levels of the model.
        options: gradient, steps and critic.
        generator: source of all noise, on the CPU.
        on_progress: called with (samples moved, samples times steps).

    Returns:
        The samples after all steps.
    """
    options.check()
    samples = [sample.clone() for sample in samples]
    learns = options.gradient == "vsd"

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    def learn() -> None:
        index = int(torch.randint(len(samples), (1,), generator=generator))
        low, high = (round(share * (schedule.num_timesteps - 1)) for share in options.noise_range)
        timestep = int(torch.randint(low, high + 1, (1,), generator=generator))
        with torch.enable_grad():
            scores[index].learn(samples[index], drawn(samples[index]), timestep)

    for _ in range(options.critic_steps if learns else 0):
        learn()
    kept = [drawn(sample) for sample in samples]
    for step, (now, then) in enumerate(annealed(options, schedule)):
        if learns and step % options.critic_every == 0:
            learn()
        for index, sample in enumerate(samples):
            noise = kept[index] if options.gradient == "rsd" else drawn(sample)
            moved = gradient(options, scores[index], sample, noise, now, then, schedule)
            samples[index] = sample - options.rate * moved
            if on_progress is not None:
                on_progress(step * len(samples) + index + 1, options.steps * len(samples))
    return samples
