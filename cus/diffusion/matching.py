"""Distribution matching: a student of few steps whose samples come to be distributed as a teacher's.

Yin et al., "One-step Diffusion with Distribution Matching Distillation" (2024), and "Improved Distribution Matching
Distillation" (2024) for more than one step. Nothing here knows of the networks.
"""

import torch
from torch import Tensor

from cus.diffusion.sampler import Denoiser, ddim_parts
from cus.diffusion.schedule import NoiseSchedule


def matching_loss(clean: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """A scalar whose gradient moves samples to where they are more likely for the teacher than for the critic.

    A sample's gradient is the difference of the two scores, i.e. of the two estimates of the clean sample, divided by
    the teacher's mean error (Eqs. 7 and 8 of the first paper).

    Args:
        clean: [B, ...], the student's samples, with their gradient.
        real: the teacher's estimate of the clean samples from noised ones.
        fake: the estimate of the critic, which learns the student's samples.
    """
    axes = tuple(range(1, clean.ndim))
    scale = (clean.detach() - real).abs().mean(dim=axes, keepdim=True).clamp(min=1e-6)
    wanted = clean.detach() - (fake - real).detach() / scale
    return 0.5 * (clean - wanted).square().mean()


def student_samples(denoiser: Denoiser, noise: Tensor, schedule: NoiseSchedule, steps: int, last: int) -> Tensor:
    """A student's estimate of the clean latents at DDIM step `last` of `steps`, with the gradient of that step.

    Args:
        denoiser: the student.
        noise: [B, ...], the start of sampling.
        schedule: noise levels.
        steps: number of sampling steps.
        last: 0 .. steps - 1; the student makes the steps before it, as in inference, without gradient.

    Raises:
        ValueError: `last` is out of range.
    """
    if not 0 <= last < steps:
        raise ValueError(f"last must be 0 to {steps - 1}, got {last}")
    timesteps = [*schedule.timesteps(steps).tolist(), 0]
    latents, x0 = noise, noise
    for step in range(last + 1):
        now, then = timesteps[step], timesteps[step + 1]
        batch = torch.full((len(latents),), now, dtype=torch.long, device=latents.device)
        with torch.set_grad_enabled(step == last and torch.is_grad_enabled()):
            x0, direction = ddim_parts(denoiser(latents, batch), latents, schedule, now, then)
        if step < last:
            alpha = float(schedule.alpha_bar[then])
            latents = alpha**0.5 * x0 + (1 - alpha) ** 0.5 * direction
    return x0 / float(schedule.rescale[timesteps[last + 1]])


def estimate_of(denoiser: Denoiser, noisy: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """A denoiser's estimate [B, ...] of the clean latents from noisy ones."""
    v = denoiser(noisy, timesteps).float()
    return schedule.x0_from_v(v, noisy, timesteps) / schedule.rescaled(torch.ones_like(v), timesteps)
