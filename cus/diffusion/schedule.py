"""The noise schedule: scaled-linear betas with zero terminal SNR, dynamic rescale, v-prediction.

Symbols: `alpha_bar` is the cumulative product of `1 - beta`; a noisy latent is
`x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`, the network predicts
`v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0` (Salimans and Ho, "Progressive distillation", Section 4).
`alpha_bar[-1]` is exactly 0 (Lin et al., "Common diffusion noise schedules are flawed", Algorithm 1), so nothing
here divides by it.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin

MOST_TIMESTEPS = 1_000_000
Share = TypeVar("Share", float, torch.Tensor)


@dataclass(frozen=True)
class Level(Generic[Share]):
    """The mixture of noisy latents: x_t = signal x_0 + spread eps.

    Attributes:
        signal: sqrt(alpha_bar), a number or a tensor that broadcasts with latents.
        spread: sqrt(1 - alpha_bar), a number or a tensor that broadcasts with latents.
    """

    signal: Share
    spread: Share

    def mix(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Noisy latents from clean ones and noise."""
        return self.signal * x0 + self.spread * noise

    def v(self, x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The correct prediction for `mix(x0, noise)`."""
        return self.signal * noise - self.spread * x0

    def split(self, v: torch.Tensor, noisy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The clean latents and the noise that correspond to a prediction `v` at `noisy`."""
        return self.signal * noisy - self.spread * v, self.signal * v + self.spread * noisy


class NoiseSchedule(SchedulerMixin, ConfigMixin):
    """Noise levels of a diffusion process over `num_timesteps` discrete steps; tables are float64 on the CPU.

    Args:
        num_timesteps: length of the training schedule.
        beta_start: first beta, before the zero-SNR rescale.
        beta_end: last beta, before the rescale; between them the square roots are linear ("scaled_linear").
        zero_terminal_snr: shift and scale sqrt(alpha_bar) so that the last one is exactly 0.
        rescale_base: final value of the dynamic rescale s(t); 1 disables it.
        rescale_steps: s(t) decreases linearly from 1 to `rescale_base` over t = 0 .. rescale_steps - 1, then stays.
    """

    config_name = "scheduler_config.json"

    @register_to_config
    def __init__(
        self,
        num_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        zero_terminal_snr: bool = True,
        rescale_base: float = 0.3,
        rescale_steps: int = 400,
    ) -> None:
        if not 0 < beta_start <= beta_end < 1:
            raise ValueError(f"betas must satisfy 0 < start <= end < 1, got {beta_start} and {beta_end}")
        if not 1 < rescale_steps <= num_timesteps <= MOST_TIMESTEPS:
            raise ValueError(
                f"rescale_steps must lie in 2 .. num_timesteps, and that in 2 .. {MOST_TIMESTEPS}; got {rescale_steps} "
                f"and {num_timesteps}"
            )
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2
        alpha_bar = torch.cumprod(1 - betas, 0)
        if zero_terminal_snr:
            roots = alpha_bar.sqrt()
            roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
            alpha_bar = roots**2
        self.num_timesteps = num_timesteps
        self.alpha_bar = alpha_bar
        self.rescale = torch.full((num_timesteps,), rescale_base, dtype=torch.float64)
        self.rescale[:rescale_steps] = torch.linspace(1.0, rescale_base, rescale_steps, dtype=torch.float64)

    def timesteps(self, steps: int) -> torch.Tensor:
        """Int64 [steps], descending, "trailing": the first is the last training step, where there is only noise.

        Raises:
            ValueError: `steps` is not in 1 .. num_timesteps.
        """
        if not 1 <= steps <= self.num_timesteps:
            raise ValueError(f"steps must lie in 1 .. {self.num_timesteps}, got {steps}")
        fractions = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
        return (fractions * self.num_timesteps).round().long() - 1

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noisy latents for clean ones [B, ...], noise of that shape and timesteps [B]; applies the dynamic rescale."""
        return self._levels(timesteps, latents).mix(self.rescaled(latents, timesteps), noise)

    def v_target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The correct prediction for `add_noise(latents, noise, timesteps)`; same shapes."""
        return self._levels(timesteps, latents).v(self.rescaled(latents, timesteps), noise)

    def rescaled(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The clean latents times s(t), which `add_noise` mixes with noise and `x0_from_v` returns."""
        return latents * self._per_item(self.rescale, timesteps, latents)

    def x0_from_v(self, v: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The (rescaled) clean latents that correspond to a prediction `v` at `noisy` [B, ...]."""
        return self._levels(timesteps, noisy).split(v, noisy)[0]

    def level(self, timestep: int) -> Level[float]:
        """The level of one timestep as plain numbers, without synchronising with the device."""
        alpha_bar = float(self.alpha_bar[timestep])
        return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at `timesteps`, float64; 0 at the last one."""
        alpha_bar = self.alpha_bar[timesteps.cpu()]
        return alpha_bar / (1 - alpha_bar)

    def _levels(self, timesteps: torch.Tensor, like: torch.Tensor) -> Level[torch.Tensor]:
        return Level(
            self._per_item(self.alpha_bar.sqrt(), timesteps, like),
            self._per_item((1 - self.alpha_bar).sqrt(), timesteps, like),
        )

    def _per_item(self, table: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if timesteps.ndim != 1 or len(timesteps) not in (1, len(like)):
            raise ValueError(f"timesteps must be [B] with B = {len(like)} (or 1), got {tuple(timesteps.shape)}")
        values = table[timesteps.cpu()].to(device=like.device, dtype=like.dtype)
        return values.view(-1, *([1] * (like.ndim - 1)))
