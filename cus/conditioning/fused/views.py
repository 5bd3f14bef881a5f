"""A reference as the fused warp uses it, and its position relative to a target."""

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

# A photograph whose aspect ratio differs from the view's is another picture; rounding to whole pixels is tolerated.
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class View:
    """A reference.

    Attributes:
        levels: its photograph at full size [3, Hi, Wi], float32 or uint8, and its halvings (`levels_of`).
        depths: [h, w] z-depths at the working size, 0 = none.
        inverse: [h, w] float64, 1 / z, 0 = none.
        confidences: [h, w] confidences of the depths.
        reliable: [h, w] bool, whether a pixel's depth is reliable.
        gain: [3] factors that bring its colours to the references' common exposure.
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
        """Photograph pixels per pixel of the working size, in x and y."""
        height, width = self.levels[0].shape[-2:]
        return width / self.camera.width, height / self.camera.height

    @cached_property
    def inverse_float(self) -> Tensor:
        """`inverse` in float32, for kernels."""
        return self.inverse.float().contiguous()

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """Slopes of 1 / z, from `inverse_slopes`."""
        return inverse_slopes(self.depths.double())

    @cached_property
    def packed(self) -> tuple[Tensor, Tensor, np.ndarray]:
        """For kernels: the flat photograph, all its halvings concatenated, and (start, height, width) of each."""
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
    """The maps between a reference's pixels and a target's.

    Attributes:
        M, v: [3, 3] and [3] float64; the reference's pixel p at depth z lands at z M p + v in the target.
        M_back, v_back: [3, 3] and [3] float64, the same from the target into the reference.
        center: [3] float64, the reference's camera centre in the target camera's axes.
        rays: [3, 3] float64 maps a target pixel (x, y, 1) to its ray at depth 1.
        gain: [3] float32 factors that bring the reference's colours to the target's exposure.
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
        """The placement of one reference relative to one target camera; `gain` defaults to 1."""
        M, v = (torch.tensor(part, dtype=torch.float64) for part in pixel_map(reference, target))
        M_back, v_back = (torch.tensor(part, dtype=torch.float64) for part in pixel_map(target, reference))
        target_from_reference = target.viewmats[0].double() @ torch.linalg.inv(reference.viewmats[0].double())
        rays = torch.linalg.inv(target.Ks[0].double())
        gain = torch.ones(3) if gain is None else gain.cpu().float()
        return Placement(M, v, M_back, v_back, target_from_reference[:3, 3].cpu(), rays.cpu(), gain)


def placements(views: Sequence[View], target: Cameras) -> list[Placement]:
    """The references' placements for one target, whose exposure follows the references near it.

    The logarithms of the references' exposures are averaged with the inverse squared distances between the cameras: at
    a reference the picture has its exposure, and along a path the exposure changes smoothly.
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
    """All references of a scene, with their photographs if given, else with the scene's own pictures.

    Raises:
        InputError: the photographs do not match the scene's views.
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
        # Allow one pixel of rounding on either side.
        slack = _ASPECT_TOLERANCE + 1 / min(h, w) + 1 / min(height, width)
        if abs((w / width) / (h / height) - 1) > slack:
            raise InputError(
                f"photograph {index} is {w}x{h} pixels, which is another shape than the scene's {width}x{height}; give "
                "the same views, uncropped"
            )
