"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024), for short runs."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cus.splats.parameters import Parameters
from cus.splats.projection import rotmat_from_quat
from cus.splats.strategies.base import Strategy, StrategyState, steps_of

# The paper's gate: noise for Gaussians about as faint as 0.005, next to none above ten times that opacity.
_GATE_SLOPE = 100.0
_GATE_OPACITY = 0.005
# Above this opacity the gate passes less than 1/1000, which is not worth a draw.
_STILL = 0.075
# The sum alternates; beyond this many copies double precision is insufficient for opaque Gaussians.
MOST_COPIES = 51


@dataclass(frozen=True)
class MCMCStrategy(Strategy):
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


def shared_by_copies(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and size of N copies that together look like one Gaussian (3DGS-MCMC, Kheradmand et al. 2024, Eq. 9).

    N equal Gaussians in one place, composited, are as opaque in the middle if 1 - (1 - o')^N = o. Away from the middle
    their opacity decreases more slowly, which smaller half axes compensate: their integral along a line, the sum over k
    of C(N, k) (-1)^(k-1) o'^k / sqrt(k) times the half axis, stays that of the original. (The paper's double sum, with
    the binomials added up.)

    Args:
        opacities: Opacities of the originals [K], in [0, 1).
        copies: Number of copies of each [K], 1 to 51; 1 changes nothing.

    Returns:
        The copies' opacities [K], and the factors of their half axes [K].
    """
    o, n = opacities.double(), copies.clamp(1, MOST_COPIES).double()
    each = -torch.expm1(torch.log1p(-o) / n)
    binomials, powers, integrals = torch.ones_like(o), torch.ones_like(o), torch.zeros_like(o)
    for k in range(1, int(n.max()) + 1 if len(n) else 1):
        # C(N, k) from C(N, k - 1); it becomes zero for k > N.
        binomials = binomials * (n - k + 1).clamp_min(0) / k
        powers = powers * each
        integrals += (1 if k % 2 else -1) * binomials * powers / math.sqrt(k)
    factors = torch.where(o > 0, o / integrals.clamp_min(1e-300), torch.ones_like(o))
    return each.to(opacities), factors.to(opacities)
