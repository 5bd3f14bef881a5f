"""Clips in WebDataset's tar files, read in place: a window of a clip costs only its own bytes.

A member `KEY.safetensors` is a clip and `KEY.json` its entry in the manifest. Members are not compressed, so slices are
read directly at their offset in the tar file; the path of a clip in a tar file is that of the tar file followed by the
member's name.
"""

import functools
import json
import mmap
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.errors import InputError

SUFFIX = ".tar"
_REMEDY = "copy it again, or make it again with data/make_shards.py"
_DTYPES = {
    "U8": np.uint8,
    "BOOL": np.bool_,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}


def members(shard: Path, suffix: str) -> list[Path]:
    """Paths of a tar file's members that end in `suffix`, in order. Raises InputError for a damaged file."""
    return [shard / name for name in _places(shard) if name.endswith(suffix)]


def is_member(path: Path) -> bool:
    """Whether a path leads into a tar file."""
    return path.parent.suffix == SUFFIX and path.parent.is_file()


class MemberTensors:
    """A safetensors file inside a tar file, with the methods of `safetensors.safe_open` that training data need.

    Args:
        path: path of the tar file followed by the member's name.

    Raises:
        ValueError: no such member, or it is not a safetensors file.
    """

    def __init__(self, path: Path) -> None:
        places = _places(path.parent)
        if path.name not in places:
            raise ValueError(f"{path.parent} has no member {path.name}")
        start, size = places[path.name]
        with path.parent.open("rb") as file:
            # Map the whole file, because a map must begin at a page.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(self._map[start : start + 8], "little")
        if length > size - 8:
            raise ValueError("its header is longer than the file")
        self._header: dict[str, Any] = json.loads(self._map[start + 8 : start + 8 + length])
        self._metadata = self._header.pop("__metadata__", {})
        self._data, self._end = start + 8 + length, start + size

    def __enter__(self) -> "MemberTensors":
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def metadata(self) -> dict[str, str]:
        """The string metadata of the file."""
        return self._metadata

    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._header)

    def get_slice(self, name: str) -> "TensorSlice":
        """A tensor that can be read in parts."""
        if name not in self._header:
            raise ValueError(f"it has no tensor {name}")
        entry = self._header[name]
        first, last = (self._data + offset for offset in entry["data_offsets"])
        if last > self._end:
            raise ValueError(f"its tensor {name} ends beyond the file")
        return TensorSlice(self._map, first, tuple(entry["shape"]), np.dtype(_DTYPES[entry["dtype"]]))

    def get_tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        return self.get_slice(name)[...]


@dataclass(frozen=True)
class TensorSlice:
    """A tensor in a mapped file; indexing copies."""

    data: mmap.mmap
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def get_shape(self) -> list[int]:
        """Its shape, as in safetensors' own slices."""
        return list(self.shape)

    def __getitem__(self, index: Any) -> Tensor:
        values = np.ndarray(self.shape, self.dtype, self.data, self.offset)
        return torch.from_numpy(np.array(values[index]))


def _places(shard: Path) -> dict[str, tuple[int, int]]:
    found = os.stat(shard)
    return _index(shard, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _index(shard: Path, size: int, changed: int) -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of each member."""
    try:
        with tarfile.open(shard, "r:") as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"cannot read {shard}: {error}; {_REMEDY}") from error
    if any(offset + length > size for offset, length in places.values()):
        raise InputError(f"{shard} is cut off; {_REMEDY}")
    return places
