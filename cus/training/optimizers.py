"""The optimizers available for a run."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cus.errors import InputError
from cus.training.loop_settings import LoopSettings


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: LoopSettings, device: torch.device
) -> torch.optim.Optimizer:
    """Make AdamW for the parameters, or groups of them, in the variant `settings.optimizer`.

    Raises:
        InputError: nothing to train, or 8-bit moments without bitsandbytes or a GPU.
    """
    groups: list[Any] = list(parameters)
    if not groups:
        raise InputError("nothing is trained: no part of the model has weights that learn")
    # The fused optimizer creates no tensors in a step; the other implementation copies all moments.
    options: dict[str, Any] = {"fused": True} if device.type == "cuda" else {}
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    if settings.optimizer == "adamw8bit":
        if device.type != "cuda":
            raise InputError(f"loop.optimizer=adamw8bit needs a CUDA GPU, and this runs on {device}; take adamw")
        try:
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                "loop.optimizer=adamw8bit is set, but bitsandbytes is not installed: pip install bitsandbytes"
            ) from error
        kind, options = AdamW8bit, {}
    options |= {"lr": settings.learning_rate, "betas": (0.9, settings.beta2), "weight_decay": settings.weight_decay}
    return kind(groups, **options)
