"""The quantities a fit moves, each in units in which one learning rate suits every Gaussian."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.splats.gaussians import Gaussians
from cus.splats.optimizer_state import adam_tensors, restore_adam


@dataclass(frozen=True)
class LearningRates:
    """Adam step sizes, at the start; all decay together.

    Attributes:
        means: In widths of each Gaussian. 3DGS takes one rate for the whole scene; where close-up detail lies beside
            coarse background that is too much for the one or too little for the other.
        scales: Natural logarithm.
        quats: Quaternions of unit length.
        opacities: Logits.
        sh0: Degree-0 coefficients.
        sh_rest: Higher bands.
    """

    means: float = 0.12
    scales: float = 0.06
    quats: float = 0.04
    opacities: float = 0.2
    sh0: float = 0.08
    sh_rest: float = 0.004


class Parameters:
    """Trainable Gaussians, bounded so that few views cannot pull them into needles or balloons.

    Each half axis stays within a factor `max_stretch` of its start: a Gaussian that starts as a disc of its
    neighbourhood's spacing stays about that, and a walk towards it meets no spikes (Fig. 7 b of the paper). A copy
    inherits start and stretch; one made smaller has its start shrunk, evenly or where it is longest, so that no number
    of splits makes a needle of a disc.
    """

    def __init__(self, start: Gaussians, rates: LearningRates, max_stretch: float) -> None:
        # Where each Gaussian starts, and the length in which it moves.
        fixed = {
            "means": start.means.clone(),
            "widths": start.scales.amax(dim=1, keepdim=True),
            "log_scales": start.scales.log(),
        }
        trained = {
            "means": torch.zeros_like(start.means),
            "scales": torch.zeros_like(start.scales),
            "quats": torch.nn.functional.normalize(start.quats, dim=1),
            "opacities": torch.logit(start.opacities),
            "sh0": start.sh[:, :1].clone(),
            "sh_rest": start.sh[:, 1:].clone(),
        }
        self._build(fixed, trained, rates, max_stretch)

    def _build(
        self, fixed: dict[str, Tensor], trained: dict[str, Tensor], rates: LearningRates, max_stretch: float
    ) -> None:
        self._fixed = fixed
        self._trained = trained
        self._max_log_stretch = math.log(max_stretch)
        groups = []
        for name, value in trained.items():
            value.requires_grad_()
            if value.numel():
                groups.append({"params": [value], "lr": getattr(rates, name), "start_lr": getattr(rates, name)})
        # One kernel instead of a dozen a quantity; elsewhere torch's own choice is as good.
        on_cpu = all(value.device.type == "cpu" for value in trained.values())
        self._optimizer = torch.optim.Adam(groups, eps=1e-15, fused=on_cpu or None)

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], rates: LearningRates, max_stretch: float) -> "Parameters":
        """The parameters, and what their optimizer remembers, that `state` describes."""

        def below(start: str) -> dict[str, Tensor]:
            return {k.removeprefix(start): v.clone() for k, v in state.items() if k.startswith(start)}

        parameters = cls.__new__(cls)
        parameters._build(below("fixed."), below("trained."), rates, max_stretch)
        restore_adam(parameters._optimizer, parameters._trained, below("adam."))
        return parameters

    def state(self) -> dict[str, Tensor]:
        """All that `restored` needs, by name."""
        moments = adam_tensors(self._optimizer, self._trained)
        return (
            {f"fixed.{name}": value for name, value in self._fixed.items()}
            | {f"trained.{name}": value.detach() for name, value in self._trained.items()}
            | {f"adam.{name}": value for name, value in moments.items()}
        )

    def __len__(self) -> int:
        return len(self._fixed["means"])

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(means, quats, scales, opacities, sh), differentiable."""
        t = self._trained
        return self._means(), t["quats"], self._scales(), self.opacities(), torch.cat([t["sh0"], t["sh_rest"]], dim=1)

    def opacities(self) -> Tensor:
        """[N] in [0, 1], differentiable."""
        return self._trained["opacities"].sigmoid()

    def stretches(self) -> Tensor:
        """Half axes over their start [N, 3], differentiable."""
        return self._trained["scales"].exp()

    def step(self, rate_factor: float) -> None:
        """Move along the gradients at `rate_factor` times the starting rates, and drop the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["start_lr"] * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._trained["scales"].clamp_(-self._max_log_stretch, self._max_log_stretch)

    @torch.no_grad()
    def prune(self, min_opacity: float) -> Tensor:
        """Forget Gaussians that have become fainter, but never the last one; returns which stayed [N] bool."""
        opacities = self.opacities()
        kept = opacities >= min(min_opacity, float(opacities.max()))
        self.keep(kept)
        return kept

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Forget the Gaussians that `kept` [N] bool does not name, with what the optimizer remembers of them."""
        if not bool(kept.all()):
            self._remake(lambda value: value[kept], lambda moment: moment[kept])

    @torch.no_grad()
    def duplicate(self, sources: Tensor) -> Tensor:
        """Append an equal copy of each of the Gaussians `sources` [K]; returns the copies' indices [K].

        The optimizer knows nothing of the copies yet.
        """
        count = len(self)
        self._remake(
            lambda value: torch.cat([value, value[sources]]),
            lambda moment: torch.cat([moment, torch.zeros_like(moment[sources])]),
        )
        return torch.arange(count, count + len(sources), device=sources.device)

    @torch.no_grad()
    def overwrite(self, targets: Tensor, sources: Tensor) -> None:
        """Make the Gaussians `targets` [K] equal to `sources` [K]; the optimizer forgets what it knew of them."""
        for value in (*self._fixed.values(), *self._trained.values()):
            value[targets] = value[sources]
        self._forget(targets)

    @torch.no_grad()
    def rescale(self, index: Tensor, factors: Tensor | float, opacities: Tensor) -> None:
        """Multiply the half axes of the Gaussians `index` [K] by factors [K] or [K, 3] and set their opacities [K].

        Their start, and so their bounds and the length in which they move, shrinks along.
        """
        factors = torch.as_tensor(factors, dtype=opacities.dtype, device=opacities.device)
        by_axis = factors if factors.ndim == 2 else factors.expand(len(index))[:, None]
        self._fixed["means"][index] = self._means()[index]
        self._trained["means"][index] = 0
        self._fixed["log_scales"][index] += by_axis.log()
        self._fixed["widths"][index] = self._fixed["log_scales"][index].amax(dim=1, keepdim=True).exp()
        eps = torch.finfo(opacities.dtype).eps
        self._trained["opacities"][index] = torch.logit(opacities.clamp(eps, 1 - eps))
        self._forget(index)

    @torch.no_grad()
    def move(self, index: Tensor, offsets: Tensor) -> None:
        """Displace the Gaussians `index` [K] by offsets [K, 3] in scene units."""
        self._trained["means"][index] += offsets / self._fixed["widths"][index]

    @torch.no_grad()
    def cap_opacities(self, limit: float) -> None:
        """Make no Gaussian more opaque than `limit`; the optimizer forgets how the opacities moved."""
        self._trained["opacities"].clamp_(max=math.log(limit / (1 - limit)))
        for moment in self._moments("opacities"):
            moment.zero_()

    @torch.no_grad()
    def gaussians(self) -> Gaussians:
        """As they are now."""
        means, quats, scales, opacities, sh = (tensor.detach().clone() for tensor in self.tensors())
        limits = torch.finfo(opacities.dtype)
        return Gaussians(means, quats, scales, opacities.clamp(limits.tiny, 1 - limits.eps / 2), sh)

    def _means(self) -> Tensor:
        return self._fixed["means"] + self._fixed["widths"] * self._trained["means"]

    def _scales(self) -> Tensor:
        return torch.exp(self._fixed["log_scales"] + self._trained["scales"])

    def _moments(self, name: str) -> list[Tensor]:
        """What Adam remembers a Gaussian of one quantity; its step count is not among them."""
        return [moment for moment in self._optimizer.state.get(self._trained[name], {}).values() if moment.ndim]

    def _forget(self, index: Tensor) -> None:
        for name in self._trained:
            for moment in self._moments(name):
                moment[index] = 0

    def _remake(self, change: Callable[[Tensor], Tensor], change_moment: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by one of another length, the optimizer's included."""
        self._fixed = {name: change(value) for name, value in self._fixed.items()}
        groups = {id(group["params"][0]): group for group in self._optimizer.param_groups}
        for name, old in list(self._trained.items()):
            new = change(old.detach()).requires_grad_()
            self._trained[name] = new
            if id(old) in groups:
                groups[id(old)]["params"] = [new]
                remembered = self._optimizer.state.pop(old, {})
                if remembered:
                    self._optimizer.state[new] = {k: change_moment(v) if v.ndim else v for k, v in remembered.items()}
