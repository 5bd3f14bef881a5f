"""The gsplat backend (CUDA): the only file that imports gsplat, and only on use."""

import importlib.util
from typing import Any

import torch
from torch import Tensor

from cus.errors import InputError


def gsplat_available() -> bool:
    """Whether gsplat is installed and a CUDA device is available."""
    return torch.cuda.is_available() and importlib.util.find_spec("gsplat") is not None


def rasterize_gsplat(**arguments: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Call `gsplat.rasterization` with the arguments of `cus.splats.rasterization`, which are the same.

    Raises:
        InputError: gsplat is missing or the tensors are not on a CUDA device.
    """
    device = arguments["means"].device
    if device.type != "cuda":
        raise InputError(f"backend 'gsplat' needs tensors on a CUDA device, got {device}; use backend='torch' there")
    try:
        import gsplat  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError("gsplat is not installed; pip install 'closeupshot[gpu]' or use backend='torch'") from error
    return gsplat.rasterization(**arguments)
