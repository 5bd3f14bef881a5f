"""HEIC pictures, as taken by iPhones, through pillow-heif (the extra `heic`)."""

from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from cus.cameras.picture_kinds import heic_message
from cus.errors import InputError


def open_heif(path: Path, stream: BinaryIO) -> Image.Image:
    """Open a HEIC picture, upright by its own header. Raises InputError if pillow-heif is not installed."""
    if find_spec("pillow_heif") is None:
        raise InputError(heic_message(path))
    from pillow_heif import HeifImageFile

    return HeifImageFile(stream, str(path))
