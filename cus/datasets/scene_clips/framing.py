"""Photographs of a scene cropped to the frames of its clips."""

import math
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.datasets.photo_windows import PhotoWindow, read_window
from cus.errors import InputError

# Photographs slightly smaller than the frames are enlarged: DL3DV's images_4 are 960x540, frames often 1024x576.
MOST_ENLARGED = 1.25


@dataclass(frozen=True)
class Framed:
    """Photographs at the frame size.

    Attributes:
        images: [V, 3, H, W] float32 RGB in [0, 1].
        valid: [V, H, W] bool, False where a photograph has no pixel or is masked.
        cameras: V cameras of H x W pixels.
    """

    images: Tensor
    valid: Tensor
    cameras: Cameras


def in_order(posed: PosedPhotos) -> PosedPhotos:
    """The photographs sorted by name, numbers by value: usually the order in which they were taken.

    Raises:
        InputError: a photograph is listed twice.
    """

    def key(name: str) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]

    names = posed.names
    return posed.select(sorted(range(len(posed)), key=lambda index: key(names[index])))


def segments_of(photographs: int, length: int, most: int) -> list[range]:
    """Segments of `length` consecutive photographs, each starting where the previous one ends; at most `most`."""
    if photographs <= length:
        return [range(photographs)]
    starts = range(0, photographs - length + 1, length - 1)
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(int))
    return [range(starts[i], starts[i] + length) for i in chosen]


def pixels_a_frame(size: tuple[int, int], width: int, height: int) -> float:
    """Photograph pixels per pixel of a frame that shows as much of it as the frame's aspect ratio allows."""
    return min(size[0] / width, size[1] / height)


def require_pixels(posed: PosedPhotos, width: int, height: int) -> None:
    """Refuse photographs that are much smaller than frames of width x height pixels. Raises InputError."""
    for own in posed.sizes:
        if pixels_a_frame(own, width, height) * MOST_ENLARGED < 1:
            raise InputError(
                f"the photographs have {own[0]}x{own[1]} pixels, too few for frames of {width}x{height}: use larger "
                "ones, or set recipe.width and recipe.height"
            )


def read_framed(posed: PosedPhotos, width: int, height: int) -> Framed:
    """Photographs shrunk and centre-cropped to width x height pixels.

    Raises:
        InputError: photographs that are missing, damaged, or much smaller than that.
    """
    require_pixels(posed, width, height)
    scale = 1 / pixels_a_frame(posed.sizes[0], width, height)
    whole = tuple(math.ceil(side * scale - 1e-6) for side in posed.sizes[0])
    photos, cameras = posed.read(*whole)
    x, y = (whole[0] - width) // 2, (whole[1] - height) // 2
    rows, columns = slice(y, y + height), slice(x, x + width)
    images, valid = photos.images[..., rows, columns], photos.valid[..., rows, columns]
    return Framed(images.contiguous(), valid.contiguous(), cameras.cropped(x, y, width, height))


def framed_cameras(posed: PosedPhotos, width: int, height: int) -> Cameras:
    """The cameras of `read_framed`, without reading photographs."""
    parts = []
    for index, size in enumerate(posed.sizes):
        step = pixels_a_frame(size, width, height)
        across, down = width * step, height * step
        camera = Cameras(posed.viewmats[index : index + 1], posed.Ks[index : index + 1], *size)
        window = camera.cropped((size[0] - across) / 2, (size[1] - down) / 2, width, height)
        Ks = window.Ks / window.Ks.new_tensor([step, step, 1.0])[:, None]
        parts.append(Cameras(window.viewmats, Ks, width, height))
    return Cameras.cat(parts)


def read_crops(posed: PosedPhotos, indices: list[int], zoom: float, target: Tensor, size: tuple[int, int]) -> Framed:
    """Windows of several photographs around the same point, from full-resolution pixels.

    Args:
        posed: photographs of the scene, with cameras at their file sizes.
        indices: indices of the photographs, all of one size.
        zoom: factor by which the window is narrower than the widest one of its aspect ratio.
        target: [3] world point at the centre of each window; a window that extends outside is moved inside.
        size: (width, height) in pixels to which the windows are shrunk.

    Raises:
        InputError: photographs that cannot be read.
    """
    parts = []
    for index in indices:
        own = posed.sizes[index]
        whole = Cameras(posed.viewmats[index : index + 1], posed.Ks[index : index + 1], *own)
        middle = whole.project(target[None])[0][0, 0].tolist()
        step = pixels_a_frame(own, *size) / zoom
        across = max(1, round(size[0] * step)), max(1, round(size[1] * step))
        x, y = (
            min(max(round(at - side / 2), 0), full - side) for at, full, side in zip(middle, own, across, strict=True)
        )
        parts.append(read_window(posed, index, PhotoWindow(x, y, *across, *size)))
    return Framed(
        torch.stack([part.picture for part in parts]),
        torch.stack([part.valid for part in parts]),
        Cameras.cat([part.camera for part in parts]),
    )
