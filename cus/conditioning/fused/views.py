"""A reference as the fused warp uses it, and where it stands towards a target."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.fused.mesh import inverse_slopes
from cus.conditioning.fused.sampling import levels_of
from cus.conditioning.reliability import divide_reliability
from cus.conditioning.warp import pixel_map
from cus.errors import InputError
from cus.scene import SceneEstimate

# Photographs of another shape than the views are not the same pictures; rounding to whole pixels is no other shape.
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class View:
    """A reference.

    Attributes:
        levels: its photograph at its own size [3, Hi, Wi], float32 or uint8, and halves of it (`levels_of`).
        depths: [h, w] z-depths at the working size, 0 = none.
        inverse: [h, w] float64, 1 / z, 0 = none.
        confidences: [h, w].
        reliable: [h, w] bool.
        gain: [3] what its colours are multiplied with to be those of all references' common exposure.
        camera: one camera of h x w pixels.
    """

    levels: list[Tensor]
    depths: Tensor
    inverse: Tensor
    confidences: Tensor
    reliable: Tensor
    gain: Tensor
    camera: Cameras

    @property
    def photo_scale(self) -> tuple[float, float]:
        """Pixels of the photograph a pixel of the working size, in x and y."""
        height, width = self.levels[0].shape[-2:]
        return width / self.camera.width, height / self.camera.height

    @cached_property
    def inverse_float(self) -> Tensor:
        """`inverse` in float32, for kernels."""
        return self.inverse.float().contiguous()

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """Of 1 / z, see `inverse_slopes`."""
        return inverse_slopes(self.depths.double())

    @cached_property
    def packed(self) -> tuple[Tensor, Tensor, np.ndarray]:
        """For kernels: the photograph, flat; all its halves behind each other, flat; (start, height, width) of each."""
        first, *rest = self.levels
        starts = np.cumsum([0, *(level.numel() for level in rest)])
        shapes = [
            (0, *first.shape[-2:]),
            *((start, *level.shape[-2:]) for start, level in zip(starts[:-1], rest, strict=True)),
        ]
        flat = torch.cat([level.flatten() for level in rest]) if rest else first.new_zeros(1)
        return first.contiguous().view(-1), flat, np.array(shapes, dtype=np.int64)


@dataclass(frozen=True)
class Placement:
    """A reference's pixels in a target, and the target's in the reference.

    Attributes:
        M, v: float64 [3, 3] and [3]: the reference's pixel p at depth z lands at z M p + v in the target.
        M_back, v_back: likewise from the target into the reference.
        center: [3] float64, the reference's camera centre in the target camera's axes.
        rays: [3, 3] float64: a target pixel (x, y, 1) -> its ray at depth 1.
        gain: [3] float32, what the reference's colours are multiplied with to have the target's exposure.
    """

    M: Tensor
    v: Tensor
    M_back: Tensor
    v_back: Tensor
    center: Tensor
    rays: Tensor
    gain: Tensor

    @staticmethod
    def between(reference: Cameras, target: Cameras, gain: Tensor | None = None) -> "Placement":
        """Of one reference and one target camera; `gain` is 1 by default."""
        M, v = (torch.tensor(part, dtype=torch.float64) for part in pixel_map(reference, target))
        M_back, v_back = (torch.tensor(part, dtype=torch.float64) for part in pixel_map(target, reference))
        target_from_reference = target.viewmats[0].double() @ torch.linalg.inv(reference.viewmats[0].double())
        rays = torch.linalg.inv(target.Ks[0].double())
        gain = torch.ones(3) if gain is None else gain.cpu().float()
        return Placement(M, v, M_back, v_back, target_from_reference[:3, 3].cpu(), rays.cpu(), gain)


def placements(views: Sequence[View], target: Cameras) -> list[Placement]:
    """Where the references stand towards one target, whose exposure is that of the references near it.

    The logarithms of the references' exposures are averaged by the inverse square of the distances between the
    cameras: at a reference the picture has its exposure, and along a path it changes smoothly.
    """
    gains = torch.stack([view.gain for view in views]).double()
    distances = torch.cat([(view.camera.centers - target.centers).norm(dim=-1) for view in views]).double()
    shares = 1 / (distances.square() + 1e-12 * distances.square().mean() + 1e-30)
    exposure = (shares / shares.sum()) @ gains.log()
    return [
        Placement.between(view.camera, target, (gain.log() - exposure).exp())
        for view, gain in zip(views, gains, strict=True)
    ]


def views_of(scene: SceneEstimate, photographs: Sequence[Tensor] | None) -> list[View]:
    """All references of a scene, with their photographs where given, else the scene's own pictures.

    Raises:
        InputError: photographs that are not the scene's views.
    """
    _check_photographs(scene, photographs)
    reliable, _ = divide_reliability(scene)
    pictures = list(scene.images) if photographs is None else list(photographs)
    gains = scene.gains if scene.gains is not None else torch.ones(len(scene), 3)
    return [
        View(
            levels_of(pictures[index]),
            scene.depths[index],
            torch.where(scene.depths[index] > 0, 1 / scene.depths[index].double().clamp(min=1e-12), 0.0),
            scene.confidences[index],
            reliable[index],
            gains[index],
            scene.cameras[index],
        )
        for index in range(len(scene))
    ]


def _check_photographs(scene: SceneEstimate, photographs: Sequence[Tensor] | None) -> None:
    if photographs is None:
        return
    height, width = scene.images.shape[-2:]
    if len(photographs) != len(scene):
        raise InputError(f"expected a photograph for each of the {len(scene)} views, got {len(photographs)}")
    for index, photograph in enumerate(photographs):
        if photograph.ndim != 3 or len(photograph) != 3 or photograph.dtype not in (torch.float32, torch.uint8):
            raise InputError(
                f"photograph {index} must be [3, H, W] float32 in [0, 1] or uint8, got "
                f"{str(photograph.dtype).removeprefix('torch.')} {tuple(photograph.shape)}"
            )
        h, w = photograph.shape[-2:]
        # A pixel of rounding on either side is allowed.
        slack = _ASPECT_TOLERANCE + 1 / min(h, w) + 1 / min(height, width)
        if abs((w / width) / (h / height) - 1) > slack:
            raise InputError(
                f"photograph {index} is {w}x{h} pixels, which is another shape than the scene's {width}x{height}; give "
                "the same views, uncropped"
            )
