"""Writes safetensors files that are equal byte for byte where their contents are."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata; checksums of equal contents are equal.

    safetensors' own writer orders tensors by type and name, but metadata at random.

    Args:
        tensors: contiguous tensors by name.
        path: file to write.
        metadata: texts by name.
    """
    save_file(dict(tensors), path, dict(metadata))
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        # The same characters in another order; shorter metadata is padded, as the format allows.
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(ordered) <= size
        file.seek(8)
        file.write(ordered.ljust(size))
