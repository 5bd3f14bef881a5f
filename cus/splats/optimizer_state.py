"""The moments of an Adam optimizer as named tensors, for checkpoints."""

from collections.abc import Mapping

import torch
from torch import Tensor


def adam_tensors(optimizer: torch.optim.Adam, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adam's moments of each named parameter, under `<name>.<quantity>`; none for a parameter it has never moved."""
    return {
        f"{name}.{quantity}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def restore_adam(optimizer: torch.optim.Adam, parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Restore each named parameter's moments from `adam_tensors`."""
    for name, parameter in parameters.items():
        start = f"{name}."
        found = {key.removeprefix(start): value.clone() for key, value in tensors.items() if key.startswith(start)}
        if found:
            # Step counts stay on the CPU, where Adam keeps them.
            optimizer.state[parameter] = {k: v.to(parameter.device) if v.ndim else v for k, v in found.items()}
