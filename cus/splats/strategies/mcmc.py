"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024), for short runs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cus.splats.parameters import Parameters
from cus.splats.projection import rotmat_from_quat
from cus.splats.strategies.base import StrategyState, steps_of
from cus.splats.strategies.sharing import MOST_COPIES, shared_by_copies

# The paper's gate: noise for Gaussians about as faint as 0.005, next to none above ten times that opacity.
_GATE_SLOPE = 100.0
_GATE_OPACITY = 0.005
# Above this opacity the gate passes less than 1/1000, which is not worth a draw.
_STILL = 0.075


@dataclass(frozen=True)
class MCMCStrategy:
    """Gaussians as samples: dead ones are relocated to live ones, faint ones explore, and all are regularised.

    All times are fractions of the run. Noise and the regulariser of the scales are in widths of each Gaussian, so that
    the scene's unit cancels; the paper's are in scene units.

    Attributes:
        max_gaussians: Maximum number of Gaussians.
        min_opacity: Fainter Gaussians are dead: they are relocated, and pruned at the end.
        growth: Relative growth of the number of Gaussians at each refinement.
        start: Time of the first refinement.
        stop: Time of the last refinement.
        every: Time between refinements.
        noise: Initial noise per step in the positions of faint Gaussians, in widths.
        final_noise: Fraction of the noise that is left at the end; it decays exponentially.
        opacity_weight: Weight of the mean opacity in the loss.
        scale_weight: Weight of the mean half axis over its initial length in the loss.
    """

    max_gaussians: int
    min_opacity: float = 0.01
    growth: float = 0.05
    start: float = 0.02
    stop: float = 0.8
    every: float = 0.02
    noise: float = 0.5
    final_noise: float = 0.01
    opacity_weight: float = 0.01
    scale_weight: float = 0.001

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """Numbers of Gaussians relocated and added so far."""
        return {"relocated": torch.zeros((), dtype=torch.int64), "added": torch.zeros((), dtype=torch.int64)}

    def penalty(self, parameters: Parameters) -> Tensor | None:
        """The paper's L1 regularisers of opacities and scales."""
        return self.opacity_weight * parameters.opacities().mean() + self.scale_weight * parameters.stretches().mean()

    @torch.no_grad()
    def after_backward(
        self,
        parameters: Parameters,
        state: StrategyState,
        step: int,
        total: int,
        info: dict[str, Any],
        generator: torch.Generator,
    ) -> None:
        """Relocate dead Gaussians and add new ones at refinements; add noise at every step."""
        done = step + 1
        if done == total:
            parameters.prune(self.min_opacity)
            return
        if self.start * total <= done <= self.stop * total and done % steps_of(self.every, total) == 0:
            state["relocated"] += self._relocate(parameters, generator)
            state["added"] += self._add(parameters, generator)
        self._wander(parameters, self.noise * self.final_noise ** (step / total), generator)

    def _relocate(self, parameters: Parameters, generator: torch.Generator) -> int:
        opacities = parameters.opacities()
        dead = (opacities <= self.min_opacity).nonzero().squeeze(1)
        if len(dead) == 0 or len(dead) == len(parameters):
            return 0
        weights = opacities * (opacities > self.min_opacity)
        sources = self._share(parameters, weights, len(dead), generator)
        parameters.overwrite(dead[: len(sources)], sources)
        return len(sources)

    def _add(self, parameters: Parameters, generator: torch.Generator) -> int:
        room = self.max_gaussians - len(parameters)
        count = min(room, int(self.growth * len(parameters)))
        if count <= 0:
            return 0
        sources = self._share(parameters, parameters.opacities(), count, generator)
        parameters.duplicate(sources)
        return len(sources)

    def _share(self, parameters: Parameters, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draw sources [K] by weight, with repetition, and set each to its value among its copies.

        A source drawn more often than the sum allows gives fewer copies: K may be less than count.
        """
        draws = torch.multinomial(weights.cpu().double(), count, replacement=True, generator=generator)
        drawn = torch.bincount(draws, minlength=len(parameters)).clamp(max=MOST_COPIES - 1).to(weights.device)
        chosen = drawn.nonzero().squeeze(1)
        opacities, factors = shared_by_copies(parameters.opacities()[chosen], drawn[chosen] + 1)
        parameters.rescale(chosen, factors, opacities.clamp(min=self.min_opacity))
        return torch.repeat_interleave(chosen, drawn[chosen])

    def _wander(self, parameters: Parameters, strength: float, generator: torch.Generator) -> None:
        """Add noise in the shape of each Gaussian, gated by its opacity (the paper's Eq. 8)."""
        opacities = parameters.opacities()
        index = (opacities < _STILL).nonzero().squeeze(1)
        if len(index) == 0 or strength == 0:
            return
        _, quats, scales, _, _ = parameters.tensors()
        rotations, axes = rotmat_from_quat(quats[index]), scales[index]
        draws = torch.randn(len(index), 3, generator=generator).to(axes)
        # The covariance times the draw, divided by the largest half axis: of the length of a half axis.
        local = axes.square() * torch.einsum("nji,nj->ni", rotations, draws) / axes.amax(dim=1, keepdim=True)
        gates = torch.sigmoid(-_GATE_SLOPE * (opacities[index] - _GATE_OPACITY))
        parameters.move(index, strength * gates[:, None] * torch.einsum("nij,nj->ni", rotations, local))
