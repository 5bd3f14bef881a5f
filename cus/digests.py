"""Checksums of tensors, to detect changed files."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def tensors_digest(tensors: Mapping[str, Tensor], words: Iterable[str] = ()) -> str:
    """SHA-256 in hex of the names, types, shapes and values of CPU tensors, and of additional words."""
    digest = hashlib.sha256(json.dumps(list(words)).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
