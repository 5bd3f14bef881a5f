"""Structure images of clips (Section III-D): a folder of safetensors files with the same names as the clips.

A file holds `structure`, uint8 [T, 3, H, W], renders of the clip's global point cloud from its cameras; and, for models
with an autoencoder as first stage, `posterior`, float16 [T, 2C, h, w], the scaled mean and standard deviation of the
latents. A clip without a file has no structure image.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cus.datasets.clips import open_tensors
from cus.errors import InputError
from cus.tensor_files import from_bytes, save_tensors, to_bytes

FORMAT = "cus-structure-1"
RECORD = "coarse.json"
"""Identifies the weights that made the structure images in a folder."""


def save_structure(path: Path, images: Tensor, posterior: Tensor | None) -> None:
    """Write the images [T, 3, H, W] in [0, 1] of a clip, and their latents' posterior, if any."""
    tensors = {"structure": to_bytes(images).cpu().contiguous()}
    if posterior is not None:
        tensors["posterior"] = posterior
    save_tensors(tensors, path, {"format": FORMAT})


def is_structure(path: Path) -> bool:
    """Whether a file holds structure images and is not truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_structure(folder: Path, name: str) -> Tensor | None:
    """Images [T, 3, H, W] in [0, 1] of the clip with this file name; None without any."""
    with open_structure(folder, name) as file:
        return None if file is None else from_bytes(file.get_tensor("structure"))


@contextlib.contextmanager
def open_structure(folder: Path | None, name: str) -> Iterator[Any]:
    """Open a clip's file of structure images for reading parts of it; None without a file or folder.

    Raises:
        InputError: the file is damaged or something else.
    """
    if folder is None or not (folder / name).is_file():
        yield None
        return
    with open_tensors(folder / name, FORMAT, "file of structure images") as file:
        yield file


def require_structures(folder: Path) -> None:
    """Raise InputError if a folder has no structure images."""
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder} has no structure images; make them with data/make_coarse.py out={folder}")
