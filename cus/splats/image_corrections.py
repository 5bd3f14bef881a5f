"""What a fit may correct in its images: their exposure, and the poses of their cameras."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.parameters import adam_tensors, restore_adam


class _PerImage:
    """Small parameters of every image, learned with the scene.

    Attributes:
        name: their name in checkpoints.
    """

    name: ClassVar[str]

    def __init__(self, count: int, shape: tuple[int, ...], rate: float, device: torch.device | str) -> None:
        # One tensor per image: Adam ignores tensors without a gradient, whereas a row of a single tensor would drift
        # on.
        self._values = [torch.zeros(shape, device=device, requires_grad=True) for _ in range(count)]
        self._rate, self._named = rate, {str(image): value for image, value in enumerate(self._values)}
        self._optimizer = torch.optim.Adam(self._values, lr=rate, eps=1e-15)

    def step(self, rate_factor: float) -> None:
        """Move the parameters that have a gradient; the step size is `rate_factor` times the initial one."""
        self._optimizer.param_groups[0]["lr"] = self._rate * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs."""
        moments = adam_tensors(self._optimizer, self._named)
        own = {self.name: torch.stack(self._values).detach()}
        return own | {f"adam.{name}": value for name, value in moments.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for value, stored in zip(self._values, state[self.name], strict=True):
            value.copy_(stored)
        moments = {k.removeprefix("adam."): v for k, v in state.items() if k.startswith("adam.")}
        restore_adam(self._optimizer, self._named, moments)


class Exposure(_PerImage):
    """Affine colour transforms, one per image, applied to the scene's render before it is compared.

    c' = A c + b, with A [3, 3] and b [3] regularised towards the identity, because a transform could also explain away
    what the scene should learn. References have the identity: without this gauge the scene could take on any tint.
    """

    name = "deltas"

    def __init__(self, fixed: Tensor, rate: float, weight: float) -> None:
        """`fixed` [M] bool: images with constant colours; `rate`: Adam's step size; `weight`: of the regularisation."""
        super().__init__(len(fixed), (3, 4), rate, fixed.device)
        self._fixed, self._weight = fixed.tolist(), weight

    def seen(self, image: int, render: Tensor) -> Tensor:
        """The render [3, H, W] in the colours of image number `image`."""
        if self._fixed[image]:
            return render
        delta = self._values[image]
        return render + torch.einsum("ij,jhw->ihw", delta[:, :3], render) + delta[:, 3, None, None]

    def penalty(self, image: int) -> Tensor:
        """Weighted distance of an image's transform from the identity."""
        return self._weight * self._values[image].square().sum()

    @torch.no_grad()
    def transforms(self) -> Tensor:
        """[M, 3, 4]: A and b of every image."""
        return torch.eye(3, 4, device=self._values[0].device) + torch.stack(self._values)


class CameraRefinement(_PerImage):
    """One rigid motion per camera, applied on the left: viewmat' = exp(twist) viewmat, in the camera's own axes.

    A twist [6] is a rotation vector in radians and a translation in units of the scene's mean depth, so that both move
    a picture by similar amounts. The first reference is fixed: without this gauge, cameras and scene could drift
    together.
    """

    name = "twists"

    def __init__(self, count: int, gauge: int, unit: float, rate: float, device: torch.device | str = "cpu") -> None:
        """`gauge`: index of the fixed camera; `unit`: mean depth in scene units; `rate`: Adam's step size."""
        super().__init__(count, (6,), rate, device)
        self._gauge, self._unit = gauge, unit

    def viewmat(self, image: int, viewmat: Tensor) -> Tensor:
        """The refined world-to-camera matrix of a camera: [1, 4, 4] -> [1, 4, 4], differentiable."""
        if image == self._gauge:
            return viewmat
        return torch.linalg.matrix_exp(self._matrix(self._values[image])) @ viewmat

    @torch.no_grad()
    def refined(self, cameras: Cameras) -> Cameras:
        """The cameras with their current refinement."""
        viewmats = torch.cat([self.viewmat(i, cameras.viewmats[i : i + 1]) for i in range(len(cameras))])
        return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs."""
        return super().state() | {"unit": torch.tensor(self._unit, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._unit = float(state["unit"])
        super().restore(state)

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
