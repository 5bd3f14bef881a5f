"""Checkpoints of a fit, so that it can resume."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cus.digests import tensors_digest
from cus.errors import InputError
from cus.files import replacing
from cus.splats.fit_start import Fit

# Checkpoints with another layout are refused.
_FORMAT = "closeupshot fit 2"
_REMEDY = (
    "free some space, or fix the folder, and run the same command again: it continues from the previous checkpoint, if "
    "there was one"
)


def fit_fingerprints(fit: Fit) -> dict[str, str]:
    """What identifies the fit of a checkpoint: a digest of the inputs, and the settings in words."""
    digest = hashlib.sha256()
    views, start = fit.views, fit.start
    tensors = [views.images, views.cameras.viewmats, views.cameras.Ks, views.pixel_weights, views.image_weights]
    given = start if isinstance(start, tuple) else start.tensors().values()
    tensors += [views.references, *given, *([] if views.depths is None else [views.depths])]
    tensors += [photograph for photograph in views.photographs if photograph is not None]
    tensors += [] if views.photograph_weights is None else [views.photograph_weights]
    settings, further = ("", []) if fit.source is None else fit.source.identity()
    for tensor in (*tensors, *further):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.numpy().reshape(-1).view(np.uint8).data)
    words = f"{fit.config!r}, seed={fit.seed}" + (f", {settings}" if settings else "")
    words += f", kept={fit.kept}" if fit.kept else ""
    return {"inputs": digest.hexdigest()[:16], "settings": words}


def write_checkpoint(path: Path, tensors: dict[str, Tensor], fingerprints: dict[str, str]) -> None:
    """Write a checkpoint. The earlier one stays until the new one is complete.

    Raises:
        InputError: The disk is full, or the path is not writable.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT} | fingerprints
    metadata["sha256"] = tensors_digest(content, metadata.values())
    if not path.parent.is_dir():
        raise InputError(f"the fit's checkpoint {path} could not be written: there is no folder {path.parent}")
    with replacing(path, _REMEDY, sweep=False) as part:
        part.write_bytes(save(content, metadata))


def read_checkpoint(path: Path, fingerprints: dict[str, str], device: torch.device | str) -> dict[str, Tensor] | None:
    """Read the checkpoint of a fit with the same inputs and settings; None if there is no file.

    Raises:
        InputError: The file belongs to other inputs or settings, or is not a checkpoint.
    """
    if not path.exists():
        return None
    remedy = "delete it to start from scratch, or name another checkpoint"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise InputError(f"{path} is not a checkpoint of this version's fit; {remedy}")
            for name, value in fingerprints.items():
                if metadata.get(name) != value:
                    got = f" ({metadata.get(name)}; expected {value})" if name == "settings" else ""
                    raise InputError(f"the checkpoint {path} belongs to a fit with other {name}{got}; {remedy}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"the checkpoint {path} cannot be read ({error}); {remedy}") from error
    if metadata.get("sha256") != tensors_digest(tensors, (_FORMAT, *fingerprints.values())):
        raise InputError(f"the checkpoint {path} is damaged: its checksum does not fit; {remedy}")
    return {name: tensor.to(device) for name, tensor in tensors.items()}
