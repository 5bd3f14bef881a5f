"""Reads checkpoint files of all layouts into one flat dict of tensors, which stay in the file until used."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cus.errors import InputError

DEEPSPEED_PREFIX = "_forward_module."
OLDER_NAME, NEWER_NAME = "framestride_embed.", "fps_embedding."
LFS_POINTER = b"version https://git-lfs"
ZIP_START = b"PK\x03\x04"


def load_lvdm_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a `.ckpt` (as data only, no code in it is run) or `.safetensors` file into one flat, normalised state dict.

    The tensors are memory-mapped: only what the system caches is in memory.

    Raises:
        InputError: the file is missing, cannot be read as tensors, or is not a checkpoint of a known form.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; expected a .ckpt or .safetensors file")
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if start == LFS_POINTER:
        raise InputError(f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`")
    checkpoint = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path, start)
    if not isinstance(checkpoint, Mapping):
        raise InputError(f"{path} holds a {type(checkpoint).__name__}; expected a dict of tensors")
    try:
        return normalized_state_dict(checkpoint)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"cannot read {path} as a checkpoint of plain tensors: {error}; if the file was cut off, get it again"
        ) from error


def _pickled(path: Path, start: bytes) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"cannot read {path} as a checkpoint of plain tensors: it contains other objects, which could run code, so "
            f"nothing was loaded ({_reason(error)}). If you trust its source, write only "
            'its tensors to a new file, torch.save({"state_dict": ...}), and convert that'
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError) as error:
        if start.startswith(ZIP_START):
            remedy = "the file is damaged or was cut off; get it again"
        else:
            remedy = "it is not a file of PyTorch 1.6 or later; if torch can read it, save it again with torch.save"
        raise InputError(f"cannot read {path} as a checkpoint of plain tensors: {remedy} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Torch's message without its advice on how to disable the check."""
    if named := re.search(r"GLOBAL:? ([\w.]+)", str(error)):
        return f"it wants {named[1]}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].strip()


def normalized_state_dict(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Normalise the published forms of checkpoints to one flat state dict.

    Accepts a bare state dict, `{"state_dict": ...}` or DeepSpeed's `{"module": ...}`, whose names have a prefix;
    renames `framestride_embed` of older files to `fps_embedding`.

    Raises:
        InputError: there are no tensors, a DeepSpeed key lacks the prefix, or a tensor exists under both names.
    """
    if isinstance(checkpoint.get("module"), Mapping):
        tensors = checkpoint["module"]
        odd = [name for name in tensors if not name.startswith(DEEPSPEED_PREFIX)]
        if odd:
            raise InputError(
                f"DeepSpeed checkpoint: {odd[0]!r} does not start with {DEEPSPEED_PREFIX!r}, as every name should"
            )
        tensors = {name.removeprefix(DEEPSPEED_PREFIX): tensor for name, tensor in tensors.items()}
    else:
        tensors = checkpoint.get("state_dict", checkpoint)
    if not isinstance(tensors, Mapping):
        raise InputError(f"its state_dict is a {type(tensors).__name__}; expected a dict of tensors")
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(name, str) and isinstance(tensor, Tensor):
            newer = name.replace(OLDER_NAME, NEWER_NAME)
            if newer in renamed:
                raise InputError(f"the checkpoint holds {newer!r} twice, under the older name of {name!r} too")
            renamed[newer] = tensor
    if not renamed:
        raise InputError(f"no tensors in the checkpoint; its top-level keys are {sorted(map(str, checkpoint))[:8]}")
    return renamed
