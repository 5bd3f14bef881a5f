"""What a fit may correct in its images: their exposure, and the poses of their cameras."""

from collections.abc import Mapping

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.parameters import adam_tensors, restore_adam


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


class CameraRefinement:
    """One rigid motion per camera, applied on the left: viewmat' = exp(twist) viewmat, in the camera's own axes.

    A twist [6] is a rotation vector in radians and a translation in units of the scene's mean depth, so that both move
    a picture by similar amounts. The first reference is fixed: without this gauge, cameras and scene could drift
    together.
    """

    def __init__(self, count: int, gauge: int, unit: float, rate: float, device: torch.device | str = "cpu") -> None:
        """`gauge`: index of the fixed camera; `unit`: mean depth in scene units; `rate`: Adam's step size."""
        self._gauge, self._unit, self._rate = gauge, unit, rate
        self._twists = [torch.zeros(6, device=device, requires_grad=True) for _ in range(count)]
        self._optimizer = torch.optim.Adam(self._twists, lr=rate, eps=1e-15)

    def viewmat(self, image: int, viewmat: Tensor) -> Tensor:
        """The refined world-to-camera matrix of a camera: [1, 4, 4] -> [1, 4, 4], differentiable."""
        if image == self._gauge:
            return viewmat
        return torch.linalg.matrix_exp(self._matrix(self._twists[image])) @ viewmat

    def step(self, rate_factor: float) -> None:
        """Move the cameras that have a gradient; the step size is `rate_factor` times the initial one."""
        self._optimizer.param_groups[0]["lr"] = self._rate * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def refined(self, cameras: Cameras) -> Cameras:
        """The cameras with their current refinement."""
        viewmats = torch.cat([self.viewmat(i, cameras.viewmats[i : i + 1]) for i in range(len(cameras))])
        return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs."""
        moments = adam_tensors(self._optimizer, self._named())
        own = {"twists": torch.stack(self._twists).detach(), "unit": torch.tensor(self._unit, dtype=torch.float64)}
        return own | {f"adam.{name}": value for name, value in moments.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._unit = float(state["unit"])
        for twist, value in zip(self._twists, state["twists"], strict=True):
            twist.copy_(value)
        moments = {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        restore_adam(self._optimizer, self._named(), moments)

    def _named(self) -> dict[str, Tensor]:
        return {str(i): twist for i, twist in enumerate(self._twists)}

    def _matrix(self, twist: Tensor) -> Tensor:
        """The element [4, 4] of se(3) that a twist [6] represents."""
        x, y, z = twist[:3]
        zero = torch.zeros_like(x)
        rotation = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
        top = torch.cat([rotation, self._unit * twist[3:, None]], dim=1)
        return torch.cat([top, torch.zeros_like(top[:1])])


def mean_depth(points: Tensor, cameras: Cameras) -> float:
    """Harmonic mean depth in scene units of the points that the cameras see; 1 if none sees any.

    Harmonic, because a point's shift in the picture is proportional to its inverse depth: a far background must not
    dominate.
    """
    inverse, count = 0.0, 0
    for i in range(len(cameras)):
        pixels, depths = cameras[i].project(points)
        size = pixels.new_tensor([cameras.width, cameras.height])
        inside = (depths[0] > 0) & ((pixels[0] >= 0) & (pixels[0] < size)).all(dim=1)
        inverse, count = inverse + float((1 / depths[0][inside]).sum()), count + int(inside.sum())
    return count / inverse if inverse > 0 else 1.0
