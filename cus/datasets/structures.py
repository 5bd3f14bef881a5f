"""Structure images of clips (Section III-D): a folder of safetensors files beside the clips, under the same names.

A file holds `structure`, uint8 [T, 3, H, W], what the clip's global point cloud shows to its cameras; and, of models
whose first stage is an autoencoder, `posterior`, float16 [T, 2C, h, w], the scaled mean and standard deviation of its
latents. A clip without a file has no structure image.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cus.datasets.clips import open_tensors
from cus.errors import InputError

FORMAT = "cus-structure-1"
RECORD = "coarse.json"
"""Which weights the structure images of a folder are of."""


def save_structure(path: Path, images: Tensor, posterior: Tensor | None) -> None:
    """Write the images [T, 3, H, W] in [0, 1] of a clip, and their latents' posterior where there is one."""
    tensors = {"structure": (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().contiguous()}
    if posterior is not None:
        tensors["posterior"] = posterior
    save_file(tensors, path, {"format": FORMAT})


def is_structure(path: Path) -> bool:
    """Whether a file holds structure images, and is not cut off."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_structure(folder: Path, name: str) -> Tensor | None:
    """Images [T, 3, H, W] in [0, 1] of the clip of a file's name; None where it has none."""
    with open_structure(folder, name) as file:
        return None if file is None else file.get_tensor("structure").float() / 255


@contextlib.contextmanager
def open_structure(folder: Path | None, name: str) -> Iterator[Any]:
    """The file of a clip's structure images, opened to read parts of it; None where it has none, or without a folder.

    Raises:
        InputError: the file is damaged or something else.
    """
    if folder is None or not (folder / name).is_file():
        yield None
        return
    with open_tensors(folder / name, FORMAT, "file of structure images") as file:
        yield file


def require_structures(folder: Path) -> None:
    """Raises InputError where no structure images were made in a folder."""
    if not (folder / RECORD).is_file():
        raise InputError(f"{folder} has no structure images; make them with data/make_coarse.py out={folder}")
