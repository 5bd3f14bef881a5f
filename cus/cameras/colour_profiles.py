"""Conversion of colours to sRGB: pictures with colour profiles, CMYK and Lab pictures."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

ToSRGB = Callable[[Image.Image], np.ndarray]
"""Converts a band of a picture, without alpha, to [h, w, 3] uint8 sRGB."""
# Profiles of sRGB itself differ by rounding; conversions that change colours by no more are skipped.
_SAME = 3
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}


def to_srgb(image: Image.Image, notes: list[str]) -> ToSRGB:
    """The converter for bands of a picture; assumptions and conversions are added to `notes`."""
    transform, mode = _embedded(image, notes)
    if transform is None and image.mode == "LAB":
        transform, mode = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _srgb(), "LAB", "RGB"), "LAB"
    if transform is None:
        if image.mode == "CMYK":
            notes.append("its CMYK colours are converted without a colour profile")
        return lambda band: np.asarray(band.convert("RGB"))
    chosen, name = transform, mode

    def convert(band: Image.Image) -> np.ndarray:
        band = band if band.mode == name else band.convert(name)
        converted = ImageCms.applyTransform(band, chosen)
        assert converted is not None, "only a conversion in place returns nothing"
        return np.asarray(converted)

    return convert


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _embedded(image: Image.Image, notes: list[str]) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The conversion by the picture's own profile and the mode it works on; None without a profile or for sRGB."""
    data = image.info.get("icc_profile")
    if not data:
        return None, ""
    try:
        profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES[profile.profile.xcolor_space]
        is_grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        natural = {"CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "L" if is_grey else "RGB")
        if mode != natural:
            raise ValueError(f"a profile for {mode} in a picture of {natural}")
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(profile, _srgb(), mode, "RGB", intent, flags)
        name = (ImageCms.getProfileDescription(profile).strip() or "unnamed").splitlines()[0][:60]
    # Damaged profiles fail in many ways, but the pixels are still usable.
    except Exception:
        notes.append("its colour profile is damaged or of another kind; its colours are taken as sRGB")
        return None, ""
    if _is_identity(transform, mode):
        return None, ""
    notes.append(f"its colours are converted from {name} to sRGB")
    return transform, mode


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a conversion changes every colour of a grid by at most rounding."""
    if mode not in ("RGB", "L"):
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    if mode == "L":
        probe = np.repeat(levels[None], 1, axis=0)
        expected = np.repeat(probe[..., None], 3, axis=2)
    else:
        probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        expected = probe
    converted = ImageCms.applyTransform(Image.fromarray(probe), transform)
    return bool(np.abs(np.asarray(converted).astype(int) - expected).max() <= _SAME)
