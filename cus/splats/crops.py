"""Crops of photographs at full resolution: detail beyond the size of the images, at the cost of an image."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats.fit_views import Views

# A photograph whose width and height are less than this many times an image's adds hardly any detail.
_LARGER = 1.5
# Steps of a low-discrepancy sequence of points in the square, from the plastic number (Roberts 2018).
_STEPS = 0.7548776662466927, 0.5698402909980532
# means, quats, scales, opacities, sh, as `rasterization` takes them.
SceneTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Supervision:
    """What one step compares a render with.

    Attributes:
        camera: One camera of h x w pixels.
        target: RGB in [0, 1] [3, h, w].
        weights: W_pixel [h, w] (Eq. 9).
        depths: z-depths [h, w], 0 = none, or None.
    """

    camera: Cameras
    target: Tensor
    weights: Tensor
    depths: Tensor | None


def whole(views: Views, image: int) -> Supervision:
    """Supervision by a whole image."""
    depths = None if views.depths is None else views.depths[image]
    return Supervision(views.cameras[image], views.images[image], views.pixel_weights[image], depths)


class Crops:
    """Windows of the photographs of a fit, each with the width and height of the images in pixels.

    The scales take turns: the photograph's own pixels, means of 2 x 2, 4 x 4, ... of them, while the window is smaller
    than the whole, which the image shows. So detail and everything between it and the whole are seen equally often,
    although each halving of the scale needs four times as many windows. At each scale the window centres follow a
    low-discrepancy sequence of points, which leaves fewer gaps than independent draws, among the pixels that have a
    confidence; at the border the window is moved inside.

    Attributes:
        images: Indices of the images that have crops.
        drawn: [M] int64, number of crops drawn from each image; the next ones depend on nothing else.
    """

    def __init__(self, views: Views, width: int, height: int, generator: torch.Generator) -> None:
        """`views`: images and photographs; `width`, `height`: crop size in pixels; `generator`: draws start points."""
        self._views, self._size = views, (width, height)
        self._factors = {i: _factors(p, width, height) for i, p in enumerate(views.photographs) if p is not None}
        counts = (views.crop_weights > 0).flatten(1).any(dim=1).tolist()
        self.images = [image for image, factors in self._factors.items() if factors and counts[image]]
        self._begin = {image: torch.rand(2, generator=generator).tolist() for image in self.images}
        self.drawn = torch.zeros(len(views), dtype=torch.int64)

    def draw(self, image: int) -> Supervision:
        """Draw the next window of an image that is in `images`."""
        photograph, cameras = self._views.photographs[image], self._views.cameras
        assert photograph is not None
        turn, factors = int(self.drawn[image]), self._factors[image]
        self.drawn[image] += 1
        factor = factors[turn % len(factors)]
        height, width = photograph.shape[1:]
        across, down = (min(side * factor, limit) for side, limit in zip(self._size, (width, height), strict=True))
        x, y = ((begin + turn * step) % 1 for begin, step in zip(self._begin[image], _STEPS, strict=True))
        column, row = self._middle(image, x, y)
        column, row = column * width, row * height
        left = min(max(round(column - across / 2), 0), width - across)
        top = min(max(round(row - down / 2), 0), height - down)
        window = photograph[:, top : top + down, left : left + across]
        size = max(1, round(across / factor)), max(1, round(down / factor))
        camera = cameras[image].resized(width, height).cropped(left, top, across, down).resized(*size)
        return Supervision(camera, self._shrunk(window, size), *self._maps(image, (left, top, across, down), size))

    def _middle(self, image: int, x: float, y: float) -> tuple[float, float]:
        """Map (x, y) in [0, 1) to a position among the pixels with a confidence; the identity if all have one."""
        usable = self._views.crop_weights[image] > 0
        height, width = usable.shape
        below = usable.sum(dim=1).cumsum(dim=0).tolist()
        row = bisect_right(below, y * below[-1])
        before = below[row - 1] if row else 0
        columns = usable[row].nonzero()[:, 0].tolist()
        place = x * len(columns)
        return (columns[int(place)] + place % 1) / width, (row + (y * below[-1] - before) / len(columns)) / height

    def _shrunk(self, window: Tensor, size: tuple[int, int]) -> Tensor:
        """Shrink [3, h, w] uint8 to [3, height, width] in [0, 1], by area, on the images' device."""
        planes = [cv2.resize(np.ascontiguousarray(p), size, interpolation=cv2.INTER_AREA) for p in window.numpy()]
        return torch.from_numpy(np.stack(planes)).to(self._views.images.device).float() / 255

    def _maps(
        self, image: int, window: tuple[int, int, int, int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Weights and depths of the pixels of a crop, from the image's nearest pixels."""
        views, photograph = self._views, self._views.photographs[image]
        assert photograph is not None
        own, indices = views.images.shape[:-3:-1], []
        for axis, full in enumerate((photograph.shape[2], photograph.shape[1])):
            places = window[axis] + (torch.arange(size[axis]) + 0.5) * (window[axis + 2] / size[axis])
            indices.append((places * (own[axis] / full)).long().to(views.images.device))
        columns, rows = indices[0][None], indices[1][:, None]
        depths = None if views.depths is None else views.depths[image][rows, columns]
        return views.crop_weights[image][rows, columns], depths


def _factors(photograph: Tensor, width: int, height: int) -> list[int]:
    """1, 2, 4, ...: photograph pixels per crop pixel, while the crop shows notably less than the whole."""
    factors, factor = [], 1
    while photograph.shape[1] * photograph.shape[2] >= _LARGER * width * height * factor**2:
        factors.append(factor)
        factor *= 2
    return factors


class ViewSource(Protocol):
    """Generates supervision from the current scene; only its counts change between steps.

    Attributes:
        weight: weight of a view's loss relative to that of the image of the same step.
        counts: statistics of its draws so far, a tensor on the CPU that a checkpoint keeps.
    """

    weight: float
    counts: Tensor

    def draw(self, scene: SceneTensors, generator: torch.Generator) -> Supervision | None:
        """A view to compare the scene with, or None if none was found that shows enough.

        Args:
            scene: the current Gaussians; no gradient flows into them.
            generator: generator of every random draw, on the CPU.
        """
        ...

    def identity(self) -> tuple[str, list[Tensor]]:
        """Its part of a checkpoint's identity besides the fit's own inputs: settings in words, and tensors."""
        ...
