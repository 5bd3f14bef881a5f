"""Checkpoint files: all layouts read into one flat dict of tensors, which stay in the file until used; and written.

Only one tensor is in memory at a time.
"""

import json
import math
import os
import pickle
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
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
WEIGHTS = "diffusion_pytorch_model"
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
SPARE_BYTES = 2**24  # space for configs, headers and the file system's own data
OnBytes = Callable[[int], None]


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


def stored_dtype(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype to write a tensor in: `dtype` for real numbers; its own for others, or if `dtype` is None."""
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype


def stored_bytes(tensors: Iterable[Tensor], dtype: torch.dtype | None) -> int:
    """Size of tensors in bytes once written, without headers."""
    return sum(tensor.numel() * stored_dtype(tensor, dtype).itemsize for tensor in tensors)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    on_bytes: OnBytes,
    exact: Collection[str] = (),
) -> None:
    """Write tensors in the safetensors format, one at a time: only one is in memory.

    The library's own writer needs all of a file's tensors in memory, in their final dtype.

    Args:
        path: file to write.
        tensors: tensors by name; those mapped from a file are read one by one.
        dtype: dtype of the real numbers, or None to keep each.
        on_bytes: called with the number of bytes after each tensor.
        exact: names of tensors that keep their dtype.

    Raises:
        InputError: a value is not finite, or exceeds the range of `dtype`.
    """
    types = {name: stored_dtype(tensor, None if name in exact else dtype) for name, tensor in tensors.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * types[name].itemsize
        header[name] = {"dtype": DTYPE_NAMES[types[name]], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            check_finite(name, tensor, types[name])
            values = tensor.detach().to(types[name]).contiguous().reshape(-1)
            file.write(values.view(torch.uint8).numpy().data)
            on_bytes(values.nbytes)


def check_finite(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Refuse a tensor with values that are not finite, or would not be in another dtype.

    Raises:
        InputError: names the tensor.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = (float(bound) for bound in tensor.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(
            f"{name} has values that are not finite numbers: the file is damaged or its training diverged; get it again"
        )
    largest = max(-low, high)
    if largest > torch.finfo(dtype).max:
        raise InputError(
            f"{name} reaches {largest:.3g}, more than {str(dtype).removeprefix('torch.')} can hold; "
            "choose --dtype bfloat16 or float32"
        )


def write_network(
    folder: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, shard_bytes: int, on_bytes: OnBytes
) -> None:
    """Write a network's tensors in diffusers' layout: one file, or shards of at most `shard_bytes` and their index.

    A tensor larger than a shard gets its own. Arguments and errors as for `write_safetensors`.
    """
    shards = shards_of(tensors, dtype, shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / f"{WEIGHTS}.safetensors", shards[0], dtype, on_bytes)
        return
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"{WEIGHTS}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard, dtype, on_bytes)
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": stored_bytes(tensors.values(), dtype)}, "weight_map": places}
    (folder / f"{WEIGHTS}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def shards_of(tensors: Mapping[str, Tensor], dtype: torch.dtype | None, shard_bytes: int) -> list[dict[str, Tensor]]:
    """Split tensors, in order, into shards of at most `shard_bytes`."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        more = stored_bytes([tensor], dtype)
        if shards[-1] and size + more > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += more
    return shards


def check_space(target: Path, size: int) -> None:
    """Refuse to start if `size` bytes cannot be written: no folder, no permission, or no space.

    Raises:
        InputError: gives the reason, or the space needed and free.
    """
    folder = target.resolve().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "may not be written to" if folder.is_dir() else "is a file"
        raise InputError(f"cannot write {target}: {folder} {reason}; name another target")
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise InputError(
            f"not enough room for {target}: {(size + SPARE_BYTES) / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are "
            "free; make room or name a target on another disk"
        )
