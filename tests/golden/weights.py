"""Weights of the reference modules by rule, so that no weight file is needed: the name of a tensor seeds its values."""

import zlib

import numpy as np
import torch


def tensor(name: str, shape) -> torch.Tensor:
    """Values of the tensor `name`: matrices and kernels N(0, 1 / fan_in), 1-d weights 1 + 0.1 N, biases 0.1 N."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if len(shape) >= 2:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    return torch.from_numpy(values.astype(np.float32))


def state_dict(shapes: dict) -> dict[str, torch.Tensor]:
    """All tensors of `shapes`, a mapping from checkpoint name to shape (in each file's metadata, key `shapes`)."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}
