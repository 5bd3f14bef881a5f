"""Safetensors files that are equal byte for byte where their contents are, checksums, and pictures as bytes."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata; checksums of equal contents are equal.

    safetensors' own writer orders tensors by type and name, but metadata at random, and makes files that only their
    owner can read.

    Args:
        tensors: tensors by name.
        path: file to write.
        metadata: texts by name.
    """
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(metadata))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    # The same characters in another order; shorter metadata is padded, as the format allows.
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(ordered) <= size
    with path.open("wb") as file:
        file.write(data[:8] + ordered.ljust(size))
        file.write(memoryview(data)[8 + size :])


def to_bytes(values: Tensor) -> Tensor:
    """Values in [0, 1], such as pictures, as whole numbers 0 .. 255, uint8; values outside are clamped."""
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def from_bytes(values: Tensor) -> Tensor:
    """Float32 in [0, 1] from `to_bytes`."""
    return values.float() / 255


def tensors_digest(tensors: Mapping[str, Tensor], words: Iterable[str] = ()) -> str:
    """SHA-256 in hex of the names, types, shapes and values of CPU tensors, and of additional words."""
    digest = hashlib.sha256(json.dumps(list(words)).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
