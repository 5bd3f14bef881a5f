"""A colour transform an image: generated frames drift in brightness and tint, the scene does not."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cus.splats.optimizer_state import adam_tensors, restore_adam


class Exposure:
    """Affine colour transforms, one an image: what the scene renders is seen through it before it is compared.

    c' = A c + b, with A [3, 3] and b [3] pulled to the identity, because a transform could also explain away what the
    scene should learn. Those of the references are the identity: without such a gauge the scene could take on any tint.
    """

    def __init__(self, fixed: Tensor, rate: float, weight: float) -> None:
        """`fixed` [M] bool: images whose colours hold; `rate`: Adam's step size; `weight`: of the pull."""
        self._fixed = fixed.tolist()
        self._rate, self._weight = rate, weight
        # One tensor an image: Adam leaves alone what has no gradient, where a row of one tensor would drift on.
        self._deltas = [torch.zeros(3, 4, device=fixed.device, requires_grad=True) for _ in self._fixed]
        self._optimizer = torch.optim.Adam(self._deltas, lr=rate, eps=1e-15)

    def seen(self, image: int, render: Tensor) -> Tensor:
        """The render [3, H, W] as image number `image` would show it."""
        if self._fixed[image]:
            return render
        delta = self._deltas[image]
        return render + torch.einsum("ij,jhw->ihw", delta[:, :3], render) + delta[:, 3, None, None]

    def penalty(self, image: int) -> Tensor:
        """How far from the identity an image's transform is, weighted."""
        return self._weight * self._deltas[image].square().sum()

    def step(self, rate_factor: float) -> None:
        """Move the transforms that have a gradient."""
        self._optimizer.param_groups[0]["lr"] = self._rate * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def transforms(self) -> Tensor:
        """[M, 3, 4]: A and b of every image."""
        return torch.eye(3, 4, device=self._deltas[0].device) + torch.stack(self._deltas)

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs."""
        moments = adam_tensors(self._optimizer, self._named())
        deltas = torch.stack(self._deltas).detach()
        return {"deltas": deltas} | {f"adam.{name}": value for name, value in moments.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        for delta, value in zip(self._deltas, state["deltas"], strict=True):
            delta.copy_(value)
        moments = {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        restore_adam(self._optimizer, self._named(), moments)

    def _named(self) -> dict[str, Tensor]:
        return {str(i): delta for i, delta in enumerate(self._deltas)}
