"""Photographs from disk: decoding, EXIF, lens distortion, and one common size for a batch."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.pictures import Picture, decode, read_header
from cus.errors import InputError

# Large pictures are resampled in bands of so many pixels.
_BAND_PIXELS = 1_000_000


@dataclass(frozen=True)
class Photo:
    """A photograph on disk and what its header says.

    Attributes:
        path: the file.
        width: pixels, after the EXIF orientation is applied where `upright`.
        height: pixels, likewise.
        focal: focal length in pixels by EXIF, or None where EXIF has none.
        upright: whether EXIF's orientation turns the pixels; cameras of other programs mean the pixels as stored.
        notes: sentences about the photograph for the user, without its name.
    """

    path: Path
    width: int
    height: int
    focal: float | None
    upright: bool = True
    notes: tuple[str, ...] = ()

    def pixels(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB at full size. Raises InputError for a file that does not decode."""
        return self.picture().pixels

    def picture(self) -> Picture:
        """The pixels at full size, those that are transparent, and the photograph's notes; errors as `decode`."""
        picture = decode(self.path, self.upright)
        return replace(picture, notes=(*self.notes, *picture.notes))


@dataclass(frozen=True)
class PhotoSet:
    """Photographs at one common size, smaller ones padded at the right and the bottom.

    Attributes:
        images: [V, 3, H, W] float32 RGB in [0, 1], black in the padding.
        valid: [V, H, W] bool, False in the padding, where a pixel is transparent or masked, and where undistortion has
            no source pixel.
        scales: [V, 2] pixels of the batch a pixel of the file, in x and y.
        notes: what the user should know about the photographs.
    """

    images: Tensor
    valid: Tensor
    scales: Tensor
    notes: tuple[str, ...] = ()


def inspect_photo(path: Path | str, upright: bool = True) -> Photo:
    """Read a photograph's header.

    Args:
        path: the file.
        upright: turn the photograph as EXIF says; else its pixels stay as stored.

    Raises:
        InputError: as `read_header`.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; name the photographs in it, for example {path}/*.jpg")
    header = read_header(path)
    return Photo(path, *header.size(upright), header.focal, upright, header.notes)


def inspect_posed_photo(path: Path | str, size: tuple[int, int], upright: bool = False) -> Photo:
    """Read the header of a photograph whose camera is known.

    Cameras of COLMAP, nerfstudio, instant-ngp and their like are for the pixels as stored: these programs do not read
    EXIF's orientation. Where only the other way of reading has the camera's shape, it is taken, with a note.

    Args:
        path: the file.
        size: (width, height) that the camera is for; the file may be a scaled copy.
        upright: whether the camera is for the photograph turned upright.

    Raises:
        InputError: as `inspect_photo`.
    """
    photo = inspect_photo(path, upright)
    if same_shape((photo.width, photo.height), size):
        return photo
    other = inspect_photo(path, not upright)
    if not same_shape((other.width, other.height), size):
        return photo
    read = "upright, as EXIF says" if other.upright else "as stored, without EXIF's turn"
    note = f"it is read {read}: its camera is for {size[0]}x{size[1]} pixels"
    return replace(other, notes=(*other.notes, note))


def same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two (width, height) are scaled copies of each other, each rounded to whole pixels."""
    (width, height), (w, h) = size, other
    return abs(height - h * width / w) <= 1.5 or abs(width - w * height / h) <= 1.5


def grouped_notes(notes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """(name, sentence) of many photographs -> one line a sentence, with the names it holds for."""
    names: dict[str, list[str]] = {}
    for name, sentence in notes:
        names.setdefault(sentence, []).append(name)
    lines = []
    for sentence, about in names.items():
        shown = ", ".join(about[:3]) + (f" and {len(about) - 3} more" if len(about) > 3 else "")
        lines.append(f"{shown}: {sentence}")
    return tuple(lines)


def resize(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, C] -> [height, width, C]: by area when it shrinks, bicubic when it grows."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = width <= pixels.shape[1] and height <= pixels.shape[0]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def fit_size(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """The largest size of the same aspect ratio inside a box, at least 1x1; an aspect within a pixel fills the box."""
    scale = min(box_width / width, box_height / height)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    if abs(fitted[0] - box_width) <= 1 and abs(fitted[1] - box_height) <= 1:
        return box_width, box_height
    return fitted


def shrink(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """[h, w, 3] uint8 -> [height, width, 3] float32 in [0, 1], as `resize` but with little memory beside the pixels.

    Resampling is separable: each band of rows is made narrow in floating point, then all are made low.
    """
    h, w = pixels.shape[:2]
    if width > w or height > h:
        return np.clip(resize(pixels.astype(np.float32) / 255, width, height), 0, 1)
    rows = max(1, _BAND_PIXELS // w)
    narrow = np.empty((h, width, 3), np.float32)
    for top in range(0, h, rows):
        band = pixels[top : top + rows].astype(np.float32)
        narrow[top : top + rows] = resize(band, width, len(band))
    return np.clip(resize(narrow, width, height) / 255, 0, 1)


def to_batch(pictures: Iterable[np.ndarray], masks: Iterable[np.ndarray | None], width: int, height: int) -> PhotoSet:
    """Resample pictures [h, w, 3] uint8 into one batch of width x height, padding at the right and the bottom.

    Args:
        pictures: uint8 RGB, of any sizes.
        masks: for each picture [h, w] bool or None: its usable pixels.
        width: of the batch, in pixels.
        height: of the batch, in pixels.
    """
    return batch_of((Picture(p, m) for p, m in zip(pictures, masks, strict=True)), width, height)


def batch_of(pictures: Iterable[Picture], width: int, height: int, names: Sequence[str] = ()) -> PhotoSet:
    """As `to_batch`, taking one picture after the other, so that only one is held at full size.

    Args:
        pictures: of any sizes.
        width: of the batch, in pixels.
        height: of the batch, in pixels.
        names: of the pictures, for their notes; without names there are none.
    """
    images, valid, scales, notes = [], [], [], []
    for index, picture in enumerate(pictures):
        h, w = picture.pixels.shape[:2]
        inside = fit_size(w, h, width, height)
        padding = ((0, height - inside[1]), (0, width - inside[0]))
        images.append(np.pad(shrink(picture.pixels, *inside), (*padding, (0, 0))))
        usable = np.ones(inside[::-1], bool)
        if picture.mask is not None:
            usable = resize(picture.mask.astype(np.float32)[..., None], *inside).reshape(usable.shape) > 0.999
        valid.append(np.pad(usable, padding))
        scales.append((inside[0] / w, inside[1] / h))
        notes += [(names[index], note) for note in picture.notes] if names else []
        # The next one is decoded before the loop would let go of this one.
        del picture
    return PhotoSet(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack(valid)),
        torch.tensor(scales, dtype=torch.float32),
        grouped_notes(notes),
    )


def common_size(sizes: Sequence[tuple[int, int]], longest_side: int) -> tuple[int, int]:
    """A (width, height) that holds every (width, height) of `sizes` once its longest side is at most `longest_side`."""
    fitted = []
    for width, height in sizes:
        scale = min(1.0, longest_side / max(width, height))
        fitted.append((max(1, round(width * scale)), max(1, round(height * scale))))
    return max(w for w, _ in fitted), max(h for _, h in fitted)


def read_photos(photos: Sequence[Photo], longest_side: int) -> PhotoSet:
    """Decode photographs into one batch whose longest side is at most `longest_side` pixels.

    Photographs of other sizes or orientations keep their aspect and are padded; nothing is cropped.
    """
    width, height = common_size([(photo.width, photo.height) for photo in photos], longest_side)
    return batch_of((photo.picture() for photo in photos), width, height, [photo.path.name for photo in photos])


def undistort(
    pixels: np.ndarray, K: np.ndarray, distortion: np.ndarray, new_K: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Remove OpenCV lens distortion (k1 k2 p1 p2 [k3 ...]): ([h, w, 3], mask [h, w] bool or None).

    The straightened picture has the intrinsics `new_K`, by default K. The mask is False where it has no source pixel.
    `cv2` puts pixel centres at whole numbers, the project at half ones, so the principal point is moved for the call.
    """
    if not np.any(distortion):
        return pixels, None
    K_cv, new_K_cv = (matrix.astype(np.float64).copy() for matrix in (K, K if new_K is None else new_K))
    K_cv[:2, 2] -= 0.5
    new_K_cv[:2, 2] -= 0.5
    height, width = pixels.shape[:2]
    lens = distortion.astype(np.float64)
    maps = cv2.initUndistortRectifyMap(K_cv, lens, None, new_K_cv, (width, height), cv2.CV_32FC1)
    straight = cv2.remap(pixels, maps[0], maps[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
    mask = (maps[0] >= 0) & (maps[0] <= width - 1) & (maps[1] >= 0) & (maps[1] <= height - 1)
    return straight, mask


def filling_K(K: np.ndarray, distortion: np.ndarray, width: int, height: int) -> np.ndarray:
    """Intrinsics with which the straightened picture of the same size has a source pixel everywhere.

    The focal lengths grow by the smallest factor >= 1 that leaves no empty border; the principal point stays.

    Raises:
        InputError: no factor up to 4 is enough, so the coefficients cannot be those of this picture.
    """
    xs, ys = np.arange(width) + 0.5, np.arange(height) + 0.5
    border = np.concatenate(
        [np.stack([xs, np.full(width, y)], axis=1) for y in (0.5, height - 0.5)]
        + [np.stack([np.full(height, x), ys], axis=1) for x in (0.5, width - 0.5)]
    )
    rays = np.concatenate([(border - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(border), 1))], axis=1)

    def fills(factor: float) -> bool:
        bent = rays * [1 / factor, 1 / factor, 1]
        source = cv2.projectPoints(bent, np.zeros(3), np.zeros(3), K.astype(np.float64), distortion)[0][:, 0]
        return bool((source >= 0.5).all() and (source <= [width - 0.5, height - 0.5]).all())

    low, high = 1.0, 4.0
    if not np.any(distortion) or fills(low):
        return K
    if not fills(high):
        raise InputError(f"lens distortion {distortion.tolist()} cannot be removed from {width}x{height} pixels")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if fills(middle) else (middle, high)
    filled = K.astype(np.float64).copy()
    # A hair more, for the single precision of the maps.
    filled[:2, :2] *= high + 1e-4
    return filled


def cameras_of(viewmats: Tensor, Ks: Tensor, photos: PhotoSet) -> Cameras:
    """Cameras of a batch from those of the files: viewmats [V, 4, 4], Ks [V, 3, 3] in pixels of each file."""
    scaled = Ks.clone()
    scaled[:, :2] *= photos.scales[:, :, None].to(Ks)
    return Cameras(viewmats, scaled, photos.images.shape[-1], photos.images.shape[-2])
