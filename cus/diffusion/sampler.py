"""DDIM (Song et al., 2021, Eq. 12) and classifier-free guidance, independent of the network."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from cus.diffusion.schedule import NoiseSchedule

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Maps noisy latents [B, ...] and timesteps [B] to a prediction of v, shaped like the latents."""
Constraint = Callable[[torch.Tensor, int], torch.Tensor]
"""Maps noisy latents [B, ...] at a timestep to latents that agree with known values."""
StepNoise = torch.Generator | Sequence[torch.Tensor] | torch.Tensor | None
"""Source of the noise added per step: a generator, or one tensor of the latents' shape per step."""


class Sampler(Protocol):
    """Goes from pure noise to clean latents; `ddim` describes arguments and result."""

    def __call__(  # noqa: D102
        self,
        denoiser: Denoiser,
        noise: torch.Tensor,
        schedule: NoiseSchedule,
        steps: int,
        *,
        eta: float = 0.0,
        step_noise: StepNoise = None,
        constrain: Constraint | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> torch.Tensor: ...


def ddim(
    denoiser: Denoiser,
    noise: torch.Tensor,
    schedule: NoiseSchedule,
    steps: int,
    *,
    eta: float = 0.0,
    step_noise: StepNoise = None,
    constrain: Constraint | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Sample clean latents from pure noise.

    Args:
        denoiser: predicts v for noisy latents [B, ...] at timesteps [B].
        noise: standard normal latents [B, ...] at the last timestep.
        schedule: noise levels; its trailing timesteps are used.
        steps: number of denoiser calls.
        eta: 0 is deterministic, 1 adds as much noise per step as DDPM.
        step_noise: source of the added noise if `eta > 0`.
        constrain: applied to the latents before each step.
        on_progress: called with (steps done, steps) after each step.

    Returns:
        Clean latents with the shape and dtype of `noise`.

    Raises:
        ValueError: `eta` is not in 0 .. 1, or is positive without `step_noise`, or `step_noise` has the wrong length.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if eta > 0 and step_noise is None:
        raise ValueError("eta > 0 adds noise at each step: pass a torch.Generator or the noise itself as step_noise")
    if step_noise is not None and not isinstance(step_noise, torch.Generator) and len(step_noise) != steps:
        raise ValueError(f"step_noise must hold one tensor a step ({steps}), got {len(step_noise)}")
    latents = noise
    timesteps = schedule.timesteps(steps)
    # The last step ends at timestep 0, whose alpha_bar is slightly below 1, as in the checkpoints' own sampler.
    previous = torch.cat([timesteps[1:], timesteps.new_zeros(1)])
    for step, (now, then) in enumerate(zip(timesteps.tolist(), previous.tolist(), strict=True)):
        batch = torch.full((len(latents),), now, dtype=torch.long, device=latents.device)
        if constrain is not None:
            latents = constrain(latents, now)
        v = denoiser(latents, batch)
        alpha, alpha_then = float(schedule.alpha_bar[now]), float(schedule.alpha_bar[then])
        x0, direction = ddim_parts(v, latents, schedule, now, then)
        sigma = eta * ((1 - alpha_then) / (1 - alpha) * (1 - alpha / alpha_then)) ** 0.5
        # At the first step (alpha = 0) with eta = 1, rounding leaves about -6e-8 under this root.
        latents = alpha_then**0.5 * x0 + max(1 - alpha_then - sigma**2, 0.0) ** 0.5 * direction
        if eta > 0:
            latents = latents + sigma * _noise(step_noise, step, latents)
        if on_progress is not None:
            on_progress(step + 1, steps)
    return latents


def ddim_parts(
    v: torch.Tensor, latents: torch.Tensor, schedule: NoiseSchedule, now: int, then: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two parts that Eq. 12 mixes: clean latents, in the scale of timestep `then`, and the direction to noise."""
    x0, direction = schedule.level(now).split(v, latents)
    return x0 * float(schedule.rescale[then] / schedule.rescale[now]), direction


def keep_first_frame(known: torch.Tensor, noise: torch.Tensor, schedule: NoiseSchedule) -> Constraint:
    """A constraint for `ddim` that makes a clip begin with a known frame.

    At each step the frame's latent is the known one with as much noise as the others, so that the other frames are
    denoised consistently with it (as in Lugmayr et al., "RePaint", 2022, where the first frame is the known region).

    Args:
        known: [B, C, h, w], clean latent of the frame.
        noise: [B, C, T, h, w], noise that sampling starts from.
        schedule: noise schedule of the sampling.
    """

    def constrain(latents: torch.Tensor, timestep: int) -> torch.Tensor:
        first = schedule.add_noise(known.to(latents), noise[:, :, 0], torch.tensor([timestep]))
        return torch.cat([first[:, :, None], latents[:, :, 1:]], dim=2)

    return constrain


def guided(conditional: Denoiser, unconditional: Denoiser, guidance: float, rescale: float = 0.0) -> Denoiser:
    """Classifier-free guidance `u + guidance (c - u)` of two denoisers.

    With `rescale` > 0 the result is scaled towards the standard deviation of the conditional prediction over all
    non-batch axes (Lin et al., Section 3.4). `guidance == 1` never calls `unconditional`.
    """
    if guidance == 1:
        return conditional

    def denoiser(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        cond = conditional(latents, timesteps)
        return _mixed(cond, unconditional(latents, timesteps), guidance, rescale)

    return denoiser


def guided_at_once(both: Denoiser, guidance: float, rescale: float = 0.0) -> Denoiser:
    """`guided` for one denoiser with twice the batch: the first half is conditional, the second unconditional."""

    def denoiser(latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        cond, uncond = both(torch.cat([latents, latents]), torch.cat([timesteps, timesteps])).chunk(2)
        return _mixed(cond, uncond, guidance, rescale)

    return denoiser


def _mixed(cond: torch.Tensor, uncond: torch.Tensor, guidance: float, rescale: float) -> torch.Tensor:
    mixed = uncond + guidance * (cond - uncond)
    if rescale == 0:
        return mixed
    axes = tuple(range(1, mixed.ndim))
    matched = mixed * (cond.std(axes, keepdim=True) / mixed.std(axes, keepdim=True))
    return rescale * matched + (1 - rescale) * mixed


def _noise(source: StepNoise, step: int, like: torch.Tensor):
    if isinstance(source, torch.Generator):
        drawn = torch.randn(like.shape, generator=source, device=source.device, dtype=torch.float32)
        return drawn.to(device=like.device, dtype=like.dtype)
    assert source is not None
    return source[step].to(device=like.device, dtype=like.dtype)
