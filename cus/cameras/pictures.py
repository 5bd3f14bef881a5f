"""Picture files decoded to 8-bit sRGB: any bit depth, alpha, colour profile and orientation, in bounded memory."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from cus.cameras import picture_kinds
from cus.cameras.colour_profiles import ToSRGB, to_srgb
from cus.cameras.exif import focal_length, orientation_of, read_exif, turned, turned_back
from cus.cameras.picture_kinds import open_heif
from cus.errors import InputError
from cus.files import require_regular

LARGEST_SIDE = 30_000
SMALLEST_SIDE = 32
# Decoding takes up to 7 bytes per pixel; phones take pictures with 200 million pixels.
LARGEST_PIXELS = 200_000_000
LARGEST_BYTES = 4 * 2**30
# Maximum number of decoded bytes of a TIFF that Pillow does not read.
_LARGEST_UNUSUAL = 2**30
# Rows are converted in bands of about this many pixels.
_BAND_PIXELS = 4_000_000
# Below this alpha (of 255) a pixel shows mostly what lies behind or beside it.
_VISIBLE = 250
_opening = threading.Lock()
Converted = tuple[np.ndarray, np.ndarray | None]
# Sharpness is compared at one size, the default size of photographs in a run.
LONGEST_SIDE = 1024


@dataclass(frozen=True)
class Header:
    """A picture file's properties before decoding.

    Attributes:
        width: width in pixels as stored.
        height: height in pixels as stored.
        orientation: EXIF orientation, 1 .. 8; 1 is upright.
        focal: focal length in pixels from EXIF, or None without one.
        notes: sentences about the picture for the user, without its name.
    """

    width: int
    height: int
    orientation: int
    focal: float | None
    notes: tuple[str, ...] = ()

    def size(self, upright: bool) -> tuple[int, int]:
        """(width, height) upright or as stored."""
        swapped = upright and self.orientation >= 5
        return (self.height, self.width) if swapped else (self.width, self.height)


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: [H, W, 3] uint8 sRGB, transparent parts on white.
        mask: [H, W] bool, False where a pixel is transparent, or None if no pixel is.
        notes: sentences about the picture for the user, without its name.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    notes: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Read a picture's header.

    Raises:
        InputError: not a regular file, not a supported picture, or a size outside 32 .. 30,000 pixels a side or above
            200 million pixels.
    """
    with _opened(path) as image:
        exif, notes = read_exif(image)
        orientation = orientation_of(exif)
        width, height = image.size
        if image.format == "TIFF":
            # Newer Pillow versions report the upright size of a TIFF.
            width, height = image.tag_v2[256], image.tag_v2[257]  # pyright: ignore[reportAttributeAccessIssue]
        focal, more = focal_length(exif, width, height)
        return Header(width, height, orientation, focal, (*notes, *more))


def decode(path: Path, upright: bool = True) -> Picture:
    """Decode a picture to 8-bit sRGB.

    16-bit values are divided by 257, 32-bit integers are taken as 8 or 16 bits by their range, and floating-point
    values must lie in [0, 1]. Colour profiles other than sRGB are converted. Only the first picture of an animation is
    read.

    Args:
        path: file of the picture.
        upright: apply EXIF's orientation; otherwise pixels stay as stored.

    Raises:
        InputError: as `read_header`; a damaged file, one without a visible pixel, or values that are not brightnesses.
    """
    with _opened(path) as image:
        exif, _ = read_exif(image)
        orientation = orientation_of(exif)
        notes = []
        if getattr(image, "is_animated", False):
            notes.append("the first of several pictures in the file is used")
        image.load()
        # Pillow rotates TIFFs itself, and forgets the orientation.
        is_turned = orientation != 1 and orientation_of(image.getexif()) == 1
        pixels, alpha = _channels(path, image, notes)
    if is_turned and not upright:
        pixels, alpha = (None if a is None else turned_back(a, orientation) for a in (pixels, alpha))
    elif upright and not is_turned:
        pixels, alpha = (None if a is None else turned(a, orientation) for a in (pixels, alpha))
    assert pixels is not None, "a picture has pixels"
    mask = None if alpha is None else np.ascontiguousarray(alpha >= _VISIBLE)
    if mask is not None and mask.all():
        mask = None
    if mask is not None:
        if not mask.any():
            raise InputError(f"{path} is transparent everywhere; remove its alpha channel or export it again")
        notes.append("transparent pixels are shown white and count for nothing")
    return Picture(np.ascontiguousarray(pixels), mask, tuple(notes))


def grey_preview(path: Path, longest_side: int) -> np.ndarray:
    """Quick grey preview [h, w] uint8, at least `longest_side` along its longest side if the picture is that large.

    Raises:
        InputError: as `decode`.
    """
    with _opened(path) as image:
        scale = longest_side / max(image.size)
        # JPEG is decoded at 1/2, 1/4 or 1/8 in its transform, never below the requested size.
        image.draft("L", (max(1, int(image.width * scale)), max(1, int(image.height * scale))))
        if image.mode in ("1", "L", "RGB", "CMYK", "YCbCr"):
            return np.asarray(image.convert("L"))
    return cv2.cvtColor(decode(path).pixels, cv2.COLOR_RGB2GRAY)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open picture of limited size; exceptions of a decoder while it is open become InputErrors."""
    with _open_file(path) as stream, warnings.catch_warnings():
        # Pillow warns about things that are refused or noted here.
        warnings.simplefilter("ignore")
        start = picture_kinds.check_kind(path, stream)
        image = _open(path, stream, start)
        try:
            _check_size(path, image)
            yield image
        except InputError:
            raise
        # Decoders fail on damaged files with all kinds of exceptions.
        except Exception as error:
            raise InputError(
                f"{path} is damaged and cannot be decoded ({_reason(error)}); copy or export it again"
            ) from error


def _open_file(path: Path) -> BinaryIO:
    if not os.path.lexists(path):
        raise InputError(f"no such photograph: {path}")
    size = require_regular(path)
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy or export the photograph again")
    if size > LARGEST_BYTES:
        raise InputError(f"{path} has {size >> 30} GiB; pictures of up to {LARGEST_BYTES >> 30} GiB are read")
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; change its permissions or copy it") from error


def _open(path: Path, stream: BinaryIO, start: bytes) -> Image.Image:
    try:
        if picture_kinds.is_heic(start):
            return open_heif(path, stream)
        image = _open_with_pillow(stream)
        if image.format == "TIFF" and _is_raw(image):
            raise InputError(picture_kinds.raw_message(path))
        return image
    except InputError:
        raise
    except Exception as error:
        unusual = _unusual_tiff(path, stream, start)
        if unusual is not None:
            return unusual
        raise InputError(
            f"{path} is not a picture that can be read ({_reason(error)}); give a JPEG, PNG, TIFF or WebP"
        ) from error


def _open_with_pillow(stream: BinaryIO) -> Image.Image:
    # Pillow's own limit is global and lower than ours, which is checked right after.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            # Builds of Pillow differ in the formats they read.
            Image.init()
            return Image.open(stream, formats=[f for f in picture_kinds.PILLOW_FORMATS if f in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _reason(error: Exception) -> str:
    words = str(error).strip().splitlines()
    # Pillow's message contains the stream's address in memory.
    return "unknown or damaged contents" if not words or "cannot identify" in words[0] else words[0]


def _is_raw(image: Any) -> bool:
    """Whether a TIFF is a camera raw file: a DNG, or a preview before sub-pictures."""
    tags = image.tag_v2
    return 50706 in tags or (tags.get(254, 0) == 1 and 330 in tags)


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    if not SMALLEST_SIDE <= min(width, height) <= max(width, height) <= LARGEST_SIDE:
        raise InputError(
            f"{path} is {width}x{height} pixels; each side must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels long"
        )
    if width * height > LARGEST_PIXELS:
        raise InputError(
            f"{path} is {width}x{height}, {width * height / 1e6:.0f} million pixels; up to {LARGEST_PIXELS // 10**6} "
            "million are read: shrink it first"
        )


def _channels(path: Path, image: Image.Image, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """[H, W, 3] uint8 and alpha [H, W] uint8 or None of a loaded picture, converted band by band."""
    convert = _converter(path, image, notes)
    rows = max(1, _BAND_PIXELS // image.width)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    alpha = None
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        colours, opaque = convert(image.crop((0, top, image.width, bottom)))
        if opaque is not None:
            alpha = np.empty(pixels.shape[:2], np.uint8) if alpha is None else alpha
            alpha[top:bottom] = opaque
            weights = opaque[..., None].astype(np.uint16)
            colours = ((colours * weights + 255 * (255 - weights) + 127) // 255).astype(np.uint8)
        pixels[top:bottom] = colours
    return pixels, alpha


def _converter(path: Path, image: Image.Image, notes: list[str]) -> Callable[[Image.Image], Converted]:
    """The function that converts a band of the picture to colours [h, w, 3] uint8 and alpha [h, w] uint8 or None."""
    colours = to_srgb(image, notes)
    if image.mode.startswith("I") or image.mode == "F":
        return _GreyLevels(path, image, colours, notes)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return lambda band: _with_alpha(band, colours)
    return lambda band: (colours(band), None)


def _with_alpha(band: Image.Image, colours: ToSRGB) -> Converted:
    band = band.convert("RGBA")
    return colours(band.convert("RGB")), np.asarray(band.getchannel("A"))


class _GreyLevels:
    """Converts bands with more than 8 bits per pixel. Raises InputError for values that are not brightnesses."""

    def __init__(self, path: Path, image: Image.Image, colours: ToSRGB, notes: list[str]) -> None:
        self.colours = colours
        self.hidden = image.info.get("transparency")
        # Pillow scales PNG and PGM values to 16 bits, whatever it calls the mode.
        if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
            self.scale = 1 / 257
        else:
            self.scale = _scale_to_bytes(path, np.asarray(image), notes)

    def __call__(self, band: Image.Image) -> Converted:
        values = np.asarray(band)
        opaque = None
        if isinstance(self.hidden, int):
            opaque = np.where(values == self.hidden, 0, 255).astype(np.uint8)
        return self.colours(Image.fromarray(_to_bytes(values, self.scale))), opaque


def _to_bytes(values: np.ndarray, scale: float) -> np.ndarray:
    return np.rint(values.astype(np.float32) * scale).astype(np.uint8)


def _scale_to_bytes(path: Path, values: np.ndarray, notes: list[str]) -> float:
    """Factor that maps 32-bit values to 0 .. 255, by their type and range."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{path} holds values that are not numbers or infinite; export it again with 8 or 16 bits")
    if np.issubdtype(values.dtype, np.floating):
        if low < 0 or high > 1:
            raise InputError(
                f"{path} holds floating-point values from {low:g} to {high:g}; expected 0 (black) to 1 (white): "
                "scale all photographs by the same factor, or export them with 8 or 16 bits"
            )
        return 255.0
    if low < 0 or high > 65535:
        raise InputError(
            f"{path} holds 32-bit values from {low:g} to {high:g}; expected 8 bits (0 to 255) or 16 (0 to 65535): "
            "export the photographs with 8 or 16 bits"
        )
    notes.append(f"its 32-bit values are taken as {8 if high <= 255 else 16} bits, by their range")
    return 1.0 if high <= 255 else 1 / 257


def _unusual_tiff(path: Path, stream: BinaryIO, start: bytes) -> Image.Image | None:
    """A TIFF that Pillow does not support, such as floating-point RGB, read by OpenCV as 8 bits; else None."""
    if start[:4] not in (b"II*\x00", b"MM\x00*"):
        return None
    try:
        orientation, values = _decode_with_opencv(stream, start)
    # For damaged files, Pillow's error is the one to report.
    except Exception:
        return None
    if values is None or values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype.itemsize == 1:
        return None
    values = cv2.cvtColor(values, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    scale = 1 / 257 if values.dtype == np.uint16 else _scale_to_bytes(path, values, [])
    image = Image.fromarray(_to_bytes(values, scale))
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return image


def _decode_with_opencv(stream: BinaryIO, start: bytes) -> tuple[Any, np.ndarray | None]:
    """Orientation and values [H, W, ...] of a TIFF, None if it is damaged or needs too much memory."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(start[:8])
    stream.seek(tags.next)
    tags.load(stream)
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if int(tags[256]) * int(tags[257]) * sum(bits) > 8 * _LARGEST_UNUSUAL:
        return 1, None
    stream.seek(0)
    values = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    return tags.get(ExifTags.Base.Orientation, 1), values


def sharpness(grey: np.ndarray) -> float:
    """Variance of the Laplacian of a picture [H, W] uint8, resampled to 1024 pixels along its longest side."""
    height, width = grey.shape
    scale = LONGEST_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return float(cv2.Laplacian(resized, cv2.CV_32F).var())
