"""Windows of posed photographs at full resolution, with exact cameras."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.cameras.photos import resize
from cus.errors import InputError


@dataclass(frozen=True)
class PhotoWindow:
    """A window of a photograph in whole pixels, and the size in pixels to which it is shrunk."""

    x: int
    y: int
    width: int
    height: int
    out_width: int
    out_height: int


@dataclass(frozen=True)
class WindowPicture:
    """The picture of a window.

    Attributes:
        picture: [3, h, w] float32 RGB in [0, 1], undistorted, averaged by area from the photograph's own pixels.
        camera: one camera of h x w pixels with the window's exact intrinsics.
        valid: [h, w] bool, False where the undistorted photograph has no pixels (corners of a distorted lens) or its
            mask is black.
    """

    picture: Tensor
    camera: Cameras
    valid: Tensor


def read_window(posed: PosedPhotos, index: int, window: PhotoWindow) -> WindowPicture:
    """Cut a window out of a photograph.

    Args:
        posed: photographs of the scene, with cameras at their file sizes.
        index: index of the photograph.
        window: window inside the photograph.

    Raises:
        InputError: a photograph that is missing, damaged or of another size than its camera's.
    """
    straight = posed.straight_picture(index)
    pixels, mask = straight.pixels, straight.mask
    width, height = posed.sizes[index]
    if pixels.shape[:2] != (height, width):
        raise InputError(
            f"{posed.paths[index]} is {pixels.shape[1]}x{pixels.shape[0]} pixels, but its camera is for "
            f"{width}x{height}"
        )
    rows, columns = slice(window.y, window.y + window.height), slice(window.x, window.x + window.width)
    size = window.out_width, window.out_height
    part = resize(np.ascontiguousarray(pixels[rows, columns]).astype(np.float32) / 255, *size)
    valid = torch.ones(window.out_height, window.out_width, dtype=torch.bool)
    if mask is not None:
        valid = torch.from_numpy(resize(mask[rows, columns].astype(np.float32), *size) > 0.999)
    full = Cameras(posed.viewmats[index : index + 1], posed.Ks[index : index + 1], width, height)
    camera = full.cropped(window.x, window.y, window.width, window.height).resized(*size)
    picture = torch.from_numpy(part.clip(0, 1)).permute(2, 0, 1).contiguous()
    return WindowPicture(picture, camera, valid)
