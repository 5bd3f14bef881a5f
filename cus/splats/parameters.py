"""The quantities that a fit optimises, each in units in which one learning rate suits every Gaussian."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.gaussians import Gaussians
from cus.splats.levels import opacities_at, shares


@dataclass(frozen=True)
class LearningRates:
    """Initial Adam step sizes; all decay together.

    Attributes:
        means: In widths of each Gaussian. 3DGS uses one rate for the whole scene, which is too large for close-up
            detail or too small for the coarse background next to it.
        scales: In natural logarithms.
        quats: In components of unit quaternions.
        opacities: In logits.
        sh0: In degree-0 coefficients.
        sh_rest: In coefficients of the higher bands.
    """

    means: float = 0.12
    scales: float = 0.06
    quats: float = 0.04
    opacities: float = 0.2
    sh0: float = 0.08
    sh_rest: float = 0.004


class Parameters:
    """Trainable Gaussians, bounded so that few views cannot stretch them into needles or balloons.

    Each half axis stays within a factor `max_stretch` of its initial length: a Gaussian that starts as a disc of its
    neighbourhood's spacing stays about that size, and a camera that approaches sees no spikes (Fig. 7 b of the paper).
    A copy inherits initial lengths and stretch; shrinking one also shrinks its initial lengths, evenly or along the
    longest axis, so that no number of splits turns a disc into a needle.
    """

    def __init__(self, start: Gaussians, rates: LearningRates, max_stretch: float) -> None:
        # Initial values of each Gaussian, and the length unit of its motion.
        fixed = {
            "means": start.means.clone(),
            "widths": start.scales.amax(dim=1, keepdim=True),
            "log_scales": start.scales.log(),
        }
        if start.rates is not None:
            fixed["rates"] = start.rates.clone()
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
        # One fused kernel instead of a dozen per quantity; elsewhere torch's default is as good.
        on_cpu = all(value.device.type == "cpu" for value in trained.values())
        self._optimizer = torch.optim.Adam(groups, eps=1e-15, fused=on_cpu or None)

    @classmethod
    def restored(cls, state: Mapping[str, Tensor], rates: LearningRates, max_stretch: float) -> "Parameters":
        """Rebuild the parameters and their optimizer's state from `state`."""

        def below(start: str) -> dict[str, Tensor]:
            return {k.removeprefix(start): v.clone() for k, v in state.items() if k.startswith(start)}

        parameters = cls.__new__(cls)
        parameters._build(below("fixed."), below("trained."), rates, max_stretch)
        restore_adam(parameters._optimizer, parameters._trained, below("adam."))
        return parameters

    def state(self) -> dict[str, Tensor]:
        """Everything that `restored` needs, by name."""
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
        """Opacities [N] in [0, 1], differentiable."""
        return self._trained["opacities"].sigmoid()

    def opacities_in(self, camera: Cameras) -> Tensor:
        """Opacities [N] as one camera sees them (`Gaussians.opacities_in`), differentiable."""
        if "rates" not in self._fixed:
            return self.opacities()
        return opacities_at(self.opacities(), shares(self._fixed["rates"], self._means(), camera))

    def stretches(self) -> Tensor:
        """Half axes over their initial lengths [N, 3], differentiable."""
        return self._trained["scales"].exp()

    def step(self, rate_factor: float) -> None:
        """Step along the gradients at `rate_factor` times the initial rates, and clear the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["start_lr"] * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._trained["scales"].clamp_(-self._max_log_stretch, self._max_log_stretch)

    @torch.no_grad()
    def prune(self, min_opacity: float) -> Tensor:
        """Remove Gaussians that are fainter, but never the last one; returns those that stay [N] bool."""
        opacities = self.opacities()
        kept = opacities >= min(min_opacity, float(opacities.max()))
        self.keep(kept)
        return kept

    @torch.no_grad()
    def keep(self, kept: Tensor) -> None:
        """Remove the Gaussians that are not in `kept` [N] bool, with their optimizer state."""
        if not bool(kept.all()):
            self._remake(lambda value: value[kept], lambda moment: moment[kept])

    @torch.no_grad()
    def duplicate(self, sources: Tensor) -> Tensor:
        """Append an equal copy of each of the Gaussians `sources` [K]; returns the copies' indices [K].

        The copies start without optimizer state.
        """
        count = len(self)
        self._remake(
            lambda value: torch.cat([value, value[sources]]),
            lambda moment: torch.cat([moment, torch.zeros_like(moment[sources])]),
        )
        return torch.arange(count, count + len(sources), device=sources.device)

    @torch.no_grad()
    def overwrite(self, targets: Tensor, sources: Tensor) -> None:
        """Make the Gaussians `targets` [K] equal to `sources` [K] and reset their optimizer state."""
        for value in (*self._fixed.values(), *self._trained.values()):
            value[targets] = value[sources]
        self._forget(targets)

    @torch.no_grad()
    def rescale(self, index: Tensor, factors: Tensor | float, opacities: Tensor) -> None:
        """Multiply the half axes of the Gaussians `index` [K] by factors [K] or [K, 3] and set their opacities [K].

        Their initial lengths, and so their bounds and unit of motion, shrink too.
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
        """Shift the Gaussians `index` [K] by offsets [K, 3] in scene units."""
        self._trained["means"][index] += offsets / self._fixed["widths"][index]

    @torch.no_grad()
    def cap_opacities(self, limit: float) -> None:
        """Limit all opacities to `limit` and reset the optimizer state of the opacities."""
        self._trained["opacities"].clamp_(max=math.log(limit / (1 - limit)))
        for moment in self._moments("opacities"):
            moment.zero_()

    @torch.no_grad()
    def gaussians(self) -> Gaussians:
        """The current Gaussians, detached."""
        means, quats, scales, opacities, sh = (tensor.detach().clone() for tensor in self.tensors())
        limits = torch.finfo(opacities.dtype)
        opacities = opacities.clamp(limits.tiny, 1 - limits.eps / 2)
        rates = self._fixed.get("rates")
        return Gaussians(means, quats, scales, opacities, sh, None if rates is None else rates.clone())

    def _means(self) -> Tensor:
        return self._fixed["means"] + self._fixed["widths"] * self._trained["means"]

    def _scales(self) -> Tensor:
        return torch.exp(self._fixed["log_scales"] + self._trained["scales"])

    def _moments(self, name: str) -> list[Tensor]:
        """Adam's per-Gaussian moments of one quantity; without its step count."""
        return [moment for moment in self._optimizer.state.get(self._trained[name], {}).values() if moment.ndim]

    def _forget(self, index: Tensor) -> None:
        for name in self._trained:
            for moment in self._moments(name):
                moment[index] = 0

    def _remake(self, change: Callable[[Tensor], Tensor], change_moment: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor, and its optimizer state, by one of another length."""
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


def adam_tensors(optimizer: torch.optim.Adam, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments of each named parameter, under `<name>.<quantity>`; none for a parameter it has never moved."""
    return {
        f"{name}.{quantity}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def restore_adam(optimizer: torch.optim.Adam, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Restore each named parameter's moments from `adam_tensors`."""
    for name, parameter in parameters.items():
        start = f"{name}."
        found = {key.removeprefix(start): value.clone() for key, value in tensors.items() if key.startswith(start)}
        if found:
            # Step counts stay on the CPU, where Adam keeps them.
            optimizer.state[parameter] = {k: v.to(parameter.device) if v.ndim else v for k, v in found.items()}
