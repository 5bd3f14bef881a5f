"""Photographs from disk: decoding, EXIF, lens distortion, and one common size for a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import focal_from_35mm
from cus.errors import InputError

LARGEST_SIDE = 30_000
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Photo:
    """A photograph on disk and what its header says.

    Attributes:
        path: the file.
        width: pixels, after the EXIF orientation is applied.
        height: pixels, likewise.
        focal: focal length in pixels by EXIF, or None where EXIF has none.
    """

    path: Path
    width: int
    height: int
    focal: float | None

    def pixels(self) -> np.ndarray:
        """[H, W, 3] uint8 RGB, turned upright. Raises InputError for a file that does not decode."""
        try:
            with Image.open(self.path) as image:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{self.path} is damaged and cannot be decoded ({error}); export it again") from error


@dataclass(frozen=True)
class PhotoSet:
    """Photographs at one common size, smaller ones padded at the right and the bottom.

    Attributes:
        images: [V, 3, H, W] float32 RGB in [0, 1], black in the padding.
        valid: [V, H, W] bool, False in the padding and where undistortion has no source pixel.
        scales: [V, 2] pixels of the batch a pixel of the file, in x and y.
    """

    images: Tensor
    valid: Tensor
    scales: Tensor


def _exif_focal(image: Image.Image, width: int, height: int) -> float | None:
    exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
    focal_35mm = float(exif.get(ExifTags.Base.FocalLengthIn35mmFilm) or 0)
    return focal_from_35mm(focal_35mm, width, height) if focal_35mm > 0 else None


def inspect_photo(path: Path | str) -> Photo:
    """Read a photograph's header.

    Raises:
        InputError: no such file, a folder, not a picture, or a size outside 32 .. 30,000 pixels a side.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such photograph: {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the photographs in it, for example {path}/*.jpg")
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = image.size[::-1] if turned else image.size
            focal = _exif_focal(image, width, height)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{path} is not a picture that can be read ({error}); give a JPEG, PNG, TIFF or WebP"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large to read safely ({error}); shrink it first") from error
    if not SMALLEST_SIDE <= min(width, height) <= max(width, height) <= LARGEST_SIDE:
        raise InputError(
            f"{path} is {width}x{height} pixels; each side must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels long"
        )
    return Photo(path, width, height, focal)


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


def to_batch(pictures: Sequence[np.ndarray], masks: Sequence[np.ndarray | None], width: int, height: int) -> PhotoSet:
    """Resample pictures [h, w, 3] uint8 into one batch of width x height, padding at the right and the bottom.

    Args:
        pictures: uint8 RGB, of any sizes.
        masks: for each picture [h, w] bool or None: its usable pixels.
        width: of the batch, in pixels.
        height: of the batch, in pixels.
    """
    images = np.zeros((len(pictures), height, width, 3), np.float32)
    valid = np.zeros((len(pictures), height, width), bool)
    scales = np.zeros((len(pictures), 2), np.float32)
    for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        w, h = fit_size(picture.shape[1], picture.shape[0], width, height)
        images[index, :h, :w] = np.clip(resize(picture.astype(np.float32) / 255, w, h), 0, 1)
        usable = np.ones(picture.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
        valid[index, :h, :w] = resize(usable[..., None], w, h).reshape(h, w) > 0.999
        scales[index] = w / picture.shape[1], h / picture.shape[0]
    return PhotoSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(valid), torch.from_numpy(scales)
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
    pictures = [photo.pixels() for photo in photos]
    return to_batch(pictures, [None] * len(pictures), width, height)


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
