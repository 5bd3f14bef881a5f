"""Depth networks from transformers: a folder with `config.json` and `model.safetensors`, read strictly."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from cus.errors import InputError
from cus.hub.weights import CONFIG


def check_config(path: Path, kind: str, title: str) -> dict[str, Any]:
    """Read and check the configuration next to weights.

    Args:
        path: path of the weights.
        kind: required `model_type`.
        title: name of the network, for messages.

    Raises:
        InputError: it is missing, cannot be read, or belongs to another network.
    """
    file = path.parent / CONFIG
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"{title} needs {CONFIG} next to {path.name}, but {path.parent} has none; download the whole repository"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); get it again") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != kind:
        raise InputError(f"{file} is of a model of type {found!r}, and {title} is {kind!r}; name other weights")
    return config


def load_pretrained(kind: Any, path: Path, title: str) -> nn.Module:
    """Load a network from transformers in float32, in evaluation mode on the CPU; all tensors must match.

    Args:
        kind: class of the network.
        path: path of its weights, `model.safetensors`.
        title: name of the network, for messages.

    Raises:
        InputError: damaged files, or tensors that are missing, unknown or have wrong shapes.
    """
    from transformers.utils import logging

    # Its progress bar would break into the command's own.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, found = kind.from_pretrained(path.parent, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path.parent} cannot be read as {title} ({reason}); get it again") from error
    finally:
        if shown:
            logging.enable_progress_bar()
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[trouble]:
            names = sorted(str(name) for name in found[trouble])[:3]
            raise InputError(
                f"{path} does not hold the weights of {title}: {trouble.removesuffix('_keys')} {names}; get it again"
            )
    return model.float().eval().requires_grad_(False)
