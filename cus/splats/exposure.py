"""A colour transform per image: generated frames drift in brightness and tint, the scene does not."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cus.splats.optimizer_state import adam_tensors, restore_adam


class Exposure:
    """Affine colour transforms, one per image, applied to the scene's render before it is compared.

    c' = A c + b, with A [3, 3] and b [3] regularised towards the identity, because a transform could also explain away
    what the scene should learn. References have the identity: without this gauge the scene could take on any tint.
    """

    def __init__(self, fixed: Tensor, rate: float, weight: float) -> None:
        """`fixed` [M] bool: images with constant colours; `rate`: Adam's step size; `weight`: of the regularisation."""
        self._fixed = fixed.tolist()
        self._rate, self._weight = rate, weight
        # One tensor per image: Adam ignores tensors without a gradient, whereas a row of a single tensor would drift
        # on.
        self._deltas = [torch.zeros(3, 4, device=fixed.device, requires_grad=True) for _ in self._fixed]
        self._optimizer = torch.optim.Adam(self._deltas, lr=rate, eps=1e-15)

    def seen(self, image: int, render: Tensor) -> Tensor:
        """The render [3, H, W] in the colours of image number `image`."""
        if self._fixed[image]:
            return render
        delta = self._deltas[image]
        return render + torch.einsum("ij,jhw->ihw", delta[:, :3], render) + delta[:, 3, None, None]

    def penalty(self, image: int) -> Tensor:
        """Weighted distance of an image's transform from the identity."""
        return self._weight * self._deltas[image].square().sum()

    def step(self, rate_factor: float) -> None:
        """Move the transforms that have a gradient; the step size is `rate_factor` times the initial one."""
        self._optimizer.param_groups[0]["lr"] = self._rate * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def transforms(self) -> Tensor:
        """[M, 3, 4]: A and b of every image."""
        return torch.eye(3, 4, device=self._deltas[0].device) + torch.stack(self._deltas)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs."""
        moments = adam_tensors(self._optimizer, self._named())
        deltas = torch.stack(self._deltas).detach()
        return {"deltas": deltas} | {f"adam.{name}": value for name, value in moments.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for delta, value in zip(self._deltas, state["deltas"], strict=True):
            delta.copy_(value)
        moments = {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        restore_adam(self._optimizer, self._named(), moments)

    def _named(self) -> dict[str, Tensor]:
        return {str(i): delta for i, delta in enumerate(self._deltas)}
