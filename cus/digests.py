"""Checksums of tensors: what is on disk shows whether it is still what was written."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def tensors_digest(tensors: Mapping[str, Tensor], words: Iterable[str] = ()) -> str:
    """SHA-256 in hex of the names, types, shapes and values of CPU tensors, and of words said of them."""
    digest = hashlib.sha256(json.dumps(list(words)).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
