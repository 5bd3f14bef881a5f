"""Adaptive density control (3DGS, Kerbl et al. 2023, Section 5.2), for short runs."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cus.splats.parameters import Parameters
from cus.splats.projection import rotmat_from_quat
from cus.splats.strategies.base import Strategy, StrategyState, steps_of
from cus.splats.strategies.mcmc import shared_by_copies

# Halves of a split are smaller by this factor (3DGS) along the axis of the split; with an offset of sqrt(1 - 1 / 1.6^2)
# standard deviations to either side, both together have the variance of the original.
_SPLIT_SHRINK = 1.6
_SPLIT_OFFSET = (1 - _SPLIT_SHRINK**-2) ** 0.5
# Copies of a clone part by this many standard deviations to either side: in the same place they would stay together.
_CLONE_OFFSET = 0.3


@dataclass(frozen=True)
class DefaultStrategy(Strategy):
    """Clone small and split large Gaussians with a large gradient; prune faint and huge ones.

    All times are fractions of the run, all sizes fractions of the picture's longer side, so neither the number of steps
    nor the scene's unit matters. Unlike in 3DGS, a clone shares its opacity with its source (`shared_by_copies`), so
    that the picture hardly changes, and "large" refers to the size in the picture, not in the scene: close-up frames
    need fine Gaussians where they look and coarse ones elsewhere.

    Attributes:
        max_gaussians: Maximum number of Gaussians; those with the largest gradients come first.
        min_opacity: Fainter Gaussians are pruned at every refinement and at the end.
        grow_gradient: Threshold for cloning or splitting: the mean norm of the gradient of the loss in a Gaussian's
            position in the picture, in half pictures.
        split_radius: A Gaussian with a larger box half size is split instead of cloned.
        prune_radius: A Gaussian with a larger box half size is pruned, once opacities have been reset.
        start: Time of the first refinement.
        stop: Time of the last refinement.
        every: Time between refinements.
        reset_every: Time between resets of all opacities to at most `reset_opacity`, before `stop`; 0 is never. A fused
            cloud has few floaters to remove, and a reset costs a short run a tenth of its steps.
        reset_opacity: Largest opacity after a reset.
    """

    max_gaussians: int
    min_opacity: float = 0.02
    grow_gradient: float = 2e-4
    split_radius: float = 0.02
    prune_radius: float = 0.5
    start: float = 0.05
    stop: float = 0.6
    every: float = 0.05
    reset_every: float = 0.0
    reset_opacity: float = 0.1

    def initialize(self, count: int, device: torch.device) -> StrategyState:
        """Gradient norm sums and view counts of each Gaussian, its largest radius, and whether a reset has happened."""
        zeros = torch.zeros(count, device=device)
        return {"gradients": zeros, "seen": zeros.clone(), "radii": zeros.clone(), "resets": torch.zeros(())}

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
        """Accumulate gradients; at its times refine (clone, split, prune) or reset opacities."""
        done = step + 1
        if done == total:
            self._select(parameters, state, parameters.opacities() >= self._faintest(parameters))
            return
        if done > self.stop * total:
            return
        self._accumulate(state, info)
        if done >= self.start * total and done % steps_of(self.every, total) == 0:
            self._grow(parameters, state, generator)
            self._prune(parameters, state)
            for name in ("gradients", "seen", "radii"):
                state[name].zero_()
        if self.reset_every > 0 and done % steps_of(self.reset_every, total) == 0:
            parameters.cap_opacities(self.reset_opacity)
            state["resets"] += 1

    def _accumulate(self, state: StrategyState, info: dict[str, Any]) -> None:
        gradient = info["means2d"].grad
        if gradient is None:  # nothing was seen
            return
        size = gradient.new_tensor([info["width"], info["height"]])
        norms = (gradient * (size / 2) * len(gradient)).norm(dim=-1)
        # gsplat before 1.5 gives one radius per Gaussian, all others one per axis.
        radii = info["radii"].amax(dim=-1) if info["radii"].ndim == 3 else info["radii"]
        seen = radii > 0
        state["gradients"] += (norms * seen).sum(dim=0)
        state["seen"] += seen.sum(dim=0)
        shares = radii.amax(dim=0) / max(info["width"], info["height"])
        state["radii"] = torch.maximum(state["radii"], shares.to(state["radii"]))

    def _grow(self, parameters: Parameters, state: StrategyState, generator: torch.Generator) -> None:
        """Clone and split; new entries of the state are zero, as all entries will be after the refinement."""
        room = self.max_gaussians - len(parameters)
        wanted = state["gradients"] / state["seen"].clamp_min(1)
        count = min(room, int((wanted > self.grow_gradient).sum()))
        if count <= 0:
            return
        chosen = wanted.argsort(descending=True, stable=True)[:count]
        large = state["radii"][chosen] > self.split_radius
        opacities = parameters.opacities()[chosen]
        offsets, longest = _partings(parameters, chosen, large, generator)
        copies = parameters.duplicate(chosen)
        shared, factors = shared_by_copies(opacities, torch.full_like(opacities, 2))
        # Halves of a split lie side by side and stay as opaque; a clone lies on its source.
        shared = torch.where(large, opacities, shared)
        split = torch.where(longest, 1 / _SPLIT_SHRINK, torch.ones_like(offsets))
        factors = torch.where(large[:, None], split, factors[:, None])
        for index, sign in ((chosen, 1), (copies, -1)):
            parameters.move(index, sign * offsets)
            parameters.rescale(index, factors, shared)
        for name in ("gradients", "seen", "radii"):
            state[name] = torch.cat([state[name], state[name].new_zeros(count)])

    def _prune(self, parameters: Parameters, state: StrategyState) -> None:
        kept = parameters.opacities() >= self._faintest(parameters)
        if state["resets"] > 0:
            kept &= (state["radii"] <= self.prune_radius) | (parameters.opacities() >= parameters.opacities().max())
        self._select(parameters, state, kept)

    def _faintest(self, parameters: Parameters) -> float:
        """The pruning threshold, lowered so that the last Gaussian stays."""
        return min(self.min_opacity, float(parameters.opacities().max()))

    def _select(self, parameters: Parameters, state: StrategyState, kept: Tensor) -> None:
        parameters.keep(kept)
        for name in ("gradients", "seen", "radii"):
            state[name] = state[name][kept]


def _partings(
    parameters: Parameters, index: Tensor, large: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Offsets of copies to either side of their sources `index` [K, 3], scene units, and the longest axes [K, 3] bool.

    Large ones part along their longest axis: shrunk along all axes, as in 3DGS, two halves leave gaps in a surface.
    """
    _, quats, scales, _, _ = parameters.tensors()
    axes = scales[index]
    longest = torch.nn.functional.one_hot(axes.argmax(dim=1), 3).bool()
    draws = torch.randn(len(index), 3, generator=generator).to(axes)
    local = axes * torch.where(large[:, None], _SPLIT_OFFSET * longest, _CLONE_OFFSET * draws)
    return torch.einsum("nij,nj->ni", rotmat_from_quat(quats[index]), local), longest
