"""The training objective: target latents, drop-out of conditions, and the loss on v."""

from dataclasses import dataclass

import torch

from cus.diffusion.schedule import NoiseSchedule
from cus.limits import limited


@dataclass(frozen=True)
class LatentTarget:
    """Which latents are diffused: those of the frames, or the frames' difference from the condition.

    The full-size checkpoints diffuse the frames' latents. A small model that is trained for few steps does better with
    the change from the condition, in latents and in pixels (`CloseUpShotPipeline`): a prediction of zero then returns
    the conditioning images, whatever its autoencoder loses.

    Args:
        residual_scale: 0: the latents themselves; otherwise `(latents - condition) * residual_scale` is diffused,
            where the scale makes the residual's variance about 1.
    """

    residual_scale: float = 0.0

    def encode(self, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Diffused latents for frames' `latents` and their `condition`, both [B, C, T, h, w]."""
        return (latents - condition) * self.residual_scale if self.residual_scale else latents

    def decode(self, diffused: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The inverse of `encode`."""
        return diffused / self.residual_scale + condition if self.residual_scale else diffused


@dataclass(frozen=True)
class Objective:
    """The loss of Eq. 2 in v-prediction form, and how timesteps and conditions are drawn.

    Args:
        drop_text: probability that only the text is replaced by the negative prompt.
        drop_image: probability that only the reference image is replaced by grey.
        drop_both: probability of both. The condition latents are never dropped.
        min_snr_gamma: 0: plain mean squared error on v; otherwise weighted by min(SNR, gamma) / (SNR + 1) (Hang et
            al., "Efficient diffusion training via min-SNR weighting", 2023).
        timestep_power: 1 draws timesteps uniformly; larger favours noisy ones: `t ~ N u^(1 / power)`.
        last_share: fraction of the items at the last timestep, where there is only noise: 1 trains a regression for one
            sampling step.
        pixels: use Charbonnier's loss on the decoded frames instead of the loss on v; for first stages that are cheap
            to decode. Targets first get their condition's mean colour, because their exposure cannot be predicted.
        relative: divide an item's loss by that of its condition: items with correct geometry, which leave something to
            gain, then count as much as those where everything is off.
        structural: weight of an additional loss of 1 - SSIM on decoded frames; `relative` divides it, too.
        perceptual: weight of an additional ST-LPIPS (VGG) loss on one frame per item; slower than a small network.
        perceptual_share: fraction of a batch's items that it compares, for the sake of time; at least one.
    """

    drop_text: float = limited(0.05, low=0, high=1)
    drop_image: float = limited(0.05, low=0, high=1)
    drop_both: float = limited(0.05, low=0, high=1)
    min_snr_gamma: float = limited(0.0, low=0)
    timestep_power: float = limited(1.0, above=0)
    last_share: float = limited(0.0, low=0, high=1)
    pixels: bool = False
    relative: bool = False
    structural: float = limited(0.0, low=0)
    perceptual: float = limited(0.0, low=0)
    perceptual_share: float = limited(1.0, above=0, high=1)

    def draw_timesteps(self, batch: int, schedule: NoiseSchedule, generator: torch.Generator) -> torch.Tensor:
        """Draw int64 timesteps [batch] on the CPU."""
        uniform = torch.rand(batch, generator=generator, dtype=torch.float64)
        timesteps = (uniform ** (1 / self.timestep_power) * schedule.num_timesteps).long()
        if self.last_share:
            last = torch.rand(batch, generator=generator) < self.last_share
            timesteps = torch.where(last, schedule.num_timesteps - 1, timesteps)
        return timesteps.clamp(max=schedule.num_timesteps - 1)

    def draw_drops(self, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw two bool tensors [batch] on the CPU: replace the text, replace the reference image."""
        draw = torch.rand(batch, generator=generator)
        both = draw < self.drop_both
        text = (draw >= self.drop_both) & (draw < self.drop_both + self.drop_text)
        start = self.drop_both + self.drop_text
        image = (draw >= start) & (draw < start + self.drop_image)
        return both | text, both | image

    def loss(self, v: torch.Tensor, target: torch.Tensor, timesteps: torch.Tensor, schedule: NoiseSchedule):
        """Scalar: mean over all axes of the (weighted) squared error of the prediction `v` [B, ...]."""
        errors = (v.float() - target.float()).square().flatten(1).mean(1)
        if self.min_snr_gamma:
            snr = schedule.snr(timesteps)
            weights = snr.clamp(max=self.min_snr_gamma) / (snr + 1)
            errors = errors * weights.to(device=errors.device, dtype=errors.dtype)
        return errors.mean()


def charbonnier(images: torch.Tensor, targets: torch.Tensor, epsilon: float = 2e-3) -> torch.Tensor:
    """[B] mean of sqrt(d^2 + epsilon^2) over each item of [B, ...] in [0, 1], d the difference: L1, smooth at 0."""
    return ((images.float() - targets.float()).square() + epsilon**2).sqrt().flatten(1).mean(1)


def at_exposure_of(targets: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """Shift targets [B, T, 3, H, W] to the mean colour of their conditioning images where those are not black."""
    shown = (condition > 0).any(dim=2, keepdim=True)
    difference = torch.where(shown, condition - targets, 0.0).sum(dim=(1, 3, 4), keepdim=True)
    return (targets + difference / shown.sum(dim=(1, 3, 4), keepdim=True).clamp(min=1)).clamp(0, 1)
