"""The quantities a fit moves, each in units in which one learning rate suits every Gaussian."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cus.splats.gaussians import Gaussians


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
    neighbourhood's spacing stays about that, and a walk towards it meets no spikes (Fig. 7 b of the paper).
    """

    def __init__(self, start: Gaussians, rates: LearningRates, max_stretch: float) -> None:
        self._start_means = start.means.clone()
        self._widths = start.scales.amax(dim=1, keepdim=True)
        self._start_log_scales = start.scales.log()
        self._max_log_stretch = torch.log(torch.tensor(max_stretch)).item()
        self._trained = {
            "means": torch.zeros_like(start.means),
            "scales": torch.zeros_like(start.scales),
            "quats": torch.nn.functional.normalize(start.quats, dim=1),
            "opacities": torch.logit(start.opacities),
            "sh0": start.sh[:, :1].clone(),
            "sh_rest": start.sh[:, 1:].clone(),
        }
        groups = []
        for name, value in self._trained.items():
            value.requires_grad_()
            if value.numel():
                groups.append({"params": [value], "lr": getattr(rates, name), "start_lr": getattr(rates, name)})
        self._optimizer = torch.optim.Adam(groups, eps=1e-15)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(means, quats, scales, opacities, sh), differentiable."""
        t = self._trained
        means = self._start_means + self._widths * t["means"]
        scales = torch.exp(self._start_log_scales + t["scales"])
        return means, t["quats"], scales, t["opacities"].sigmoid(), torch.cat([t["sh0"], t["sh_rest"]], dim=1)

    def step(self, rate_factor: float) -> None:
        """Move along the gradients at `rate_factor` times the starting rates, and drop the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["start_lr"] * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self._trained["scales"].clamp_(-self._max_log_stretch, self._max_log_stretch)

    @torch.no_grad()
    def prune(self, min_opacity: float) -> None:
        """Forget Gaussians that have become fainter, with their optimizer state; the last one always stays."""
        opacities = self._trained["opacities"].sigmoid()
        keep = opacities >= min(min_opacity, float(opacities.max()))
        if bool(keep.all()):
            return
        self._start_means, self._widths = self._start_means[keep], self._widths[keep]
        self._start_log_scales = self._start_log_scales[keep]
        groups = {id(group["params"][0]): group for group in self._optimizer.param_groups}
        for name, old in list(self._trained.items()):
            new = old.detach()[keep].requires_grad_()
            self._trained[name] = new
            if id(old) in groups:
                groups[id(old)]["params"] = [new]
                state = self._optimizer.state.pop(old, {})
                moments = {k: v[keep] if v.ndim else v for k, v in state.items()}
                if moments:
                    self._optimizer.state[new] = moments

    @torch.no_grad()
    def gaussians(self) -> Gaussians:
        """As they are now."""
        means, quats, scales, opacities, sh = (tensor.detach().clone() for tensor in self.tensors())
        limits = torch.finfo(opacities.dtype)
        return Gaussians(means, quats, scales, opacities.clamp(limits.tiny, 1 - limits.eps / 2), sh)
