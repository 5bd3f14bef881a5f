"""Orientation and focal length from EXIF; implausible fields are ignored with a note."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from cus.cameras.conversions import focal_from_35mm

# EXIF's FocalPlaneResolutionUnit in millimetres.
_UNITS = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
# Plausible 35 mm equivalents, from the widest fisheye to the longest telescope, in mm.
FOCAL_RANGE_35MM = (4.0, 2000.0)
# Rounding a size to whole pixels changes its aspect ratio by less than this.
_SHAPE_TOLERANCE = 0.02


def read_exif(image: Image.Image) -> tuple[Image.Exif, list[str]]:
    """EXIF of an open picture, empty if it cannot be parsed, and notes."""
    try:
        if image.format == "PNG" and "exif" not in image.info and not _png_has_exif(image):
            # Pillow's PNG reader would decode all pixels to look for EXIF behind them.
            return Image.Image.getexif(image), []
        return image.getexif(), []
    # Damaged EXIF fails in many ways, but the pixels are still usable.
    except Exception:
        return Image.Exif(), ["its EXIF data are damaged and not used"]


def _png_has_exif(image: Any) -> bool:
    """Whether a PNG has an eXIf chunk anywhere; the stream's position is restored."""
    stream = image.fp
    place = stream.tell()
    try:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            if head[4:] == b"eXIf":
                return True
            stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
        return False
    finally:
        stream.seek(place)


def orientation_of(exif: Image.Exif) -> int:
    """EXIF's orientation, 1 .. 8; 1 (upright) if missing or invalid."""
    value = exif.get(ExifTags.Base.Orientation, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn [H, W, ...] pixels stored with an EXIF orientation upright (a view)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def turned_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `turned`."""
    return turned(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def focal_length(exif: Image.Exif, width: int, height: int) -> tuple[float | None, list[str]]:
    """Focal length in pixels of a picture of `width` x `height` (in either order), and notes.

    From FocalLengthIn35mmFilm by the diagonal (CIPA DCG-001), which includes a digital zoom; else from FocalLength and
    the resolution of the focal plane, which do not, scaled from the size that the camera wrote to the picture's own.
    """
    try:
        fields = _Fields(exif.get_ifd(ExifTags.IFD.Exif))
    except Exception:
        return None, ["its EXIF data are damaged and not used"]
    focal_35mm = fields.positive(ExifTags.Base.FocalLengthIn35mmFilm)
    focal = focal_from_35mm(focal_35mm, width, height) if focal_35mm else None
    scale = _scale(fields, width, height)
    if scale is None:
        cropped = "it was cropped after it was taken, by EXIF's size, so that EXIF's focal length is not used"
        return None, [*fields.notes, cropped]
    if focal is None:
        focal = _focal_from_plane(fields, scale)
    if focal is None:
        return None, fields.notes
    low, high = (focal_from_35mm(mm, width, height) for mm in FOCAL_RANGE_35MM)
    if not low <= focal <= high:
        return None, [*fields.notes, "EXIF's focal length cannot be meant (under 4 or over 2000 mm) and is not used"]
    return focal, fields.notes


class _Fields:
    """EXIF fields as positive numbers; other values leave a note."""

    def __init__(self, values: Mapping[int, Any]) -> None:
        self.values = values
        self.notes: list[str] = []

    def positive(self, tag: ExifTags.Base) -> float | None:
        """A field's value; None if missing, zero (EXIF's word for unknown) or not a positive finite number."""
        value = self.values.get(tag)
        if isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        if value is None:
            return None
        try:
            number = math.nan if isinstance(value, (str, bytes, tuple)) else float(value)
        except (TypeError, ValueError, ArithmeticError):
            number = math.nan
        if number == 0:
            return None
        if not (math.isfinite(number) and number > 0):
            self.notes.append(f"EXIF's {tag.name} is not a positive number and is not used")
            return None
        return number


def _scale(fields: _Fields, width: int, height: int) -> float | None:
    """Pixels of the picture per pixel of the camera's original; None if it was cropped (different aspect ratio)."""
    written = [fields.positive(tag) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    if written[0] is None or written[1] is None:
        return 1.0
    # The picture may have been rotated since.
    short, long = sorted((written[0], written[1]))
    scale, other = max(width, height) / long, min(width, height) / short
    return scale if abs(scale / other - 1) <= _SHAPE_TOLERANCE else None


def _focal_from_plane(fields: _Fields, scale: float) -> float | None:
    focal_mm = fields.positive(ExifTags.Base.FocalLength)
    resolution = fields.positive(ExifTags.Base.FocalPlaneXResolution)
    if focal_mm is None or resolution is None:
        return None
    # Inches are EXIF's default.
    unit = fields.positive(ExifTags.Base.FocalPlaneResolutionUnit) or 2
    if unit not in _UNITS:
        fields.notes.append("EXIF's FocalPlaneResolutionUnit is unknown, so that its focal length is not used")
        return None
    zoom = fields.positive(ExifTags.Base.DigitalZoomRatio) or 1.0
    if zoom > 1:
        fields.notes.append("its focal length is EXIF's times the digital zoom")
    return focal_mm * resolution / _UNITS[int(unit)] * scale * max(1.0, zoom)
