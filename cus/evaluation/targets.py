"""The ground truth of a case: a full-resolution crop of a held-out photograph, shrunk to the model's size.

Also the part of it that the references can show, where a picture can be wrong rather than invented, and the references
at larger sizes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.cameras.photos import PhotoSet, large_pictures
from cus.conditioning import divide_reliability, hierarchical_warp
from cus.datasets.photo_windows import PhotoWindow, read_window
from cus.errors import InputError
from cus.evaluation.protocol import Case, index_of, window_of
from cus.scene import SceneEstimate

SMALLEST_TARGET = 64  # minimum longest side in pixels; smaller pictures are not worth scoring
BORDER = 2


@dataclass(frozen=True)
class Target:
    """The ground truth of a case.

    Attributes:
        picture: [3, h, w] float32 RGB in [0, 1], undistorted, averaged by area from the photograph's own pixels.
        camera: one camera of h x w pixels with the crop's exact intrinsics.
        valid: [h, w] bool, False where the undistorted photograph has no pixels (corners of a distorted lens) or its
            mask is black.
        note: reason why the picture is smaller than requested, or None.
    """

    picture: Tensor
    camera: Cameras
    valid: Tensor
    note: str | None


def _crop_of(posed: PosedPhotos, case: Case, longest_side: int) -> PhotoWindow:
    if longest_side < SMALLEST_TARGET:
        raise ValueError(f"longest_side must be at least {SMALLEST_TARGET}, got {longest_side}")
    full_width, full_height = posed.sizes[index_of(posed, case.target)]
    left, top, _, _ = window_of(case.center, case.zoom)
    width, height = max(1, round(full_width / case.zoom)), max(1, round(full_height / case.zoom))
    x, y = min(round(left * full_width), full_width - width), min(round(top * full_height), full_height - height)
    if max(width, height) < SMALLEST_TARGET:
        raise InputError(
            f"{case.target} has {full_width}x{full_height} pixels, its x{case.zoom:g} crop {width}x{height}: too few "
            f"to score (at least {SMALLEST_TARGET} a side); use the photographs at their full resolution"
        )
    out_width, out_height = frame_size(full_width, full_height, longest_side)
    if out_width > width or out_height > height:
        out_width, out_height = width, height
    return PhotoWindow(x, y, width, height, out_width, out_height)


def frame_size(width: int, height: int, longest_side: int) -> tuple[int, int]:
    """Width and height of a photograph shrunk to `longest_side`, for references and targets."""
    scale = longest_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def read_target(posed: PosedPhotos, case: Case, longest_side: int) -> Target:
    """Read the held-out photograph and crop it to the case.

    Args:
        posed: photographs of the scene.
        case: the photograph and the part of it to read.
        longest_side: longest side of the model's frames in pixels.

    Raises:
        InputError: a photograph that is missing, damaged or of the wrong size, or a crop with too few pixels.
    """
    crop = _crop_of(posed, case, longest_side)
    window = read_window(posed, index_of(posed, case.target), crop)
    note = None
    size = crop.out_width, crop.out_height
    if max(size) < longest_side:
        note = (
            f"scored at {size[0]}x{size[1]}: the x{case.zoom:g} crop of {case.target} has no more pixels than that "
            f"({longest_side} along the longest side were asked for)"
        )
    return Target(window.picture, window.camera, window.valid, note)


def references_at(posed: PosedPhotos, photos: PhotoSet, longest_side: int, used: Iterable[int]) -> list[Tensor]:
    """References at a higher resolution than the model's, as the source of colours.

    Args:
        posed: photographs of the batch `photos`.
        photos: the photographs as read at the model's size.
        longest_side: maximum longest side in pixels; nothing is enlarged.
        used: indices of the photographs to read.

    Returns:
        One [3, h, w] uint8 picture for each.
    """
    height, width = photos.images.shape[-2:]
    own, indices = posed.at_file_size(), list(used)
    pictures = (own.straight_picture(index).pixels for index in indices)
    return large_pictures(pictures, photos.scales[indices], width, height, longest_side)


def covisible(scene: SceneEstimate, camera: Cameras, border: int = BORDER) -> Tensor:
    """The pixels of a target that the references see, according to their depths.

    A pixel is covisible if the hierarchical warp (Algorithm 1) covers it from *reliable* depths alone: the top 90 % of
    each reference by confidence, minus the depth edges (Section III-B), with background behind them suppressed (Eq. 5).
    Its coarse levels reach slightly too far, so `border` pixels are removed along every hole, but not at the picture's
    own border. The mask depends on the estimator's depths: it is the same for all rows of one case, and may differ
    between runs with different estimators.

    Args:
        scene: references with cameras and depths.
        camera: one target camera in the same world.
        border: number of pixels to remove along holes.

    Returns:
        [h, w] bool on the scene's device; all False if the references see nothing of the target.
    """
    if len(camera) != 1:
        raise ValueError(f"expected one target camera, got {len(camera)}")
    if border < 0:
        raise ValueError(f"border must not be negative, got {border}")
    reliable, _ = divide_reliability(scene)
    shape = (camera.height, camera.width)
    if not bool(reliable.any()):
        return torch.zeros(shape, dtype=torch.bool, device=scene.images.device)
    known = replace(scene, depths=scene.depths * reliable, confidences=scene.confidences * reliable)
    try:
        mask = hierarchical_warp(known, camera).masks[0]
    except InputError:  # "the target sees nothing of the scene" is a valid result here
        return torch.zeros(shape, dtype=torch.bool, device=scene.images.device)
    if border == 0:
        return mask
    holes = (~mask).float()[None, None]
    return F.max_pool2d(holes, 2 * border + 1, stride=1, padding=border)[0, 0] < 0.5
