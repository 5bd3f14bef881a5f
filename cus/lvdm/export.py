"""Exports a model folder to one file with the names that ViewCrafter's own loader expects."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cus.diffusion.parts import check_real, empty_network, tensors_in
from cus.diffusion.pipeline import CloseUpShotPipeline
from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.files import check_target, lies_in, read_json, replacing
from cus.hub.stored import explained, open_model
from cus.lvdm.assembling import part_of, refuse
from cus.lvdm.config import schedule_buffers
from cus.lvdm.conversion import Converted, OnStage, silent
from cus.lvdm.names import EMA_PREFIX, SCHEDULE_BUFFERS
from cus.lvdm.weight_files import (
    OnBytes,
    check_finite,
    check_space,
    load_lvdm_checkpoint,
    stored_bytes,
    write_safetensors,
)
from cus.models.autoencoder import Autoencoder

COMPONENTS = ("unet", "vae", "image_encoder", "image_projector")
STAGE = "Checkpoint"


def export_checkpoint(
    folder: str | Path,
    target: str | Path,
    dtype: torch.dtype | None = None,
    complete_from: str | Path | None = None,
    overwrite: bool = False,
    on_stage: OnStage | None = None,
) -> Converted:
    """Write a model folder as a checkpoint in ViewCrafter's layout: `{"state_dict": ...}`, or safetensors.

    The inverse of `convert_checkpoint`, bit for bit if `dtype` is None. Folders do not contain the text tower: without
    `complete_from` it is missing; the noise schedule is written as the buffers derived from it.

    Args:
        folder: model folder written by `convert_checkpoint` or `save_pretrained`.
        target: `.ckpt` or `.safetensors` file; it appears when it is complete.
        dtype: type of the weights; None keeps them as stored.
        complete_from: checkpoint that provides tensors that the folder lacks; shapes of all others must match.
        overwrite: whether to replace an existing file.
        on_stage: callback for progress.

    Raises:
        InputError: the folder is not a complete model; the target exists, has another suffix, or is not writable.
    """
    folder, target, report = Path(folder), Path(target), on_stage or silent
    if target.suffix not in (".ckpt", ".safetensors"):
        raise InputError(f"{target} must end in .ckpt or .safetensors")
    check_target(target, overwrite=overwrite, inputs=[] if complete_from is None else [complete_from])
    if target.exists() and lies_in(target, folder):
        raise InputError(f"{target} is part of the model {folder}, which is to be read; name another file")
    networks = _networks(folder)
    tensors = {name: tensor for network in networks for name, tensor in part_of(network).exported().items()}
    parameters = sum(tensor.numel() for tensor in tensors.values())
    tables = schedule_buffers(_schedule(folder))
    tensors |= tables
    notes = _notes(networks)
    if complete_from is None:
        notes.append("the text tower is left out; --complete-from takes it from the checkpoint the folder came from")
    else:
        tensors = _completed(tensors, Path(complete_from))
    pickled = target.suffix == ".ckpt"
    check_space(target, (1 + (pickled and dtype is not None)) * stored_bytes(tensors.values(), dtype))
    with replacing(
        target, "nothing of it was kept: free some space, or choose another place", parents=True
    ) as temporary:
        write = _write_pickled if pickled else write_safetensors
        write(temporary, tensors, dtype, _counter(report, stored_bytes(tensors.values(), dtype)), tables)
    return Converted(target, parameters, target.stat().st_size, notes)


def _write_pickled(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, on_bytes: OnBytes, exact: Collection[str]
) -> None:
    """Like `write_safetensors`, in PyTorch's format, whose writer needs every tensor in its final dtype.

    Mapped from a file, tensors need no memory, so a dtype conversion goes through a temporary mapped file.
    """
    if dtype is None:
        for name, tensor in tensors.items():
            check_finite(name, tensor, tensor.dtype)
        _save(path, tensors)
        on_bytes(stored_bytes(tensors.values(), None))
        return
    between = path.with_name(f"{path.name}.tensors")
    try:
        write_safetensors(between, tensors, dtype, on_bytes, exact)
        _save(path, load_file(between))
    finally:
        between.unlink(missing_ok=True)


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    torch.save({"state_dict": dict(tensors)}, path)


def _counter(report: OnStage, total: int) -> OnBytes:
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        report(STAGE, done, total)

    return count


def _networks(folder: Path) -> list[nn.Module]:
    """The networks of a folder that checkpoints contain, with tensors mapped from its files."""
    index = _config(folder, "model_index.json")
    if index.get("_class_name") != CloseUpShotPipeline.__name__:
        raise InputError(
            f"{folder} holds a {index.get('_class_name', 'folder of another kind')}, not a "
            f"{CloseUpShotPipeline.__name__}; name a folder that cus-convert or save_pretrained wrote"
        )
    model = open_model(folder)
    networks = []
    for name in COMPONENTS:
        network = empty_network(model, name)
        tensors: dict[str, Tensor] = {}
        try:
            for file in sorted((folder / name).glob("*.safetensors")):
                check_real(file, tensors_in(file))
                tensors |= load_file(file)
            network.load_state_dict(tensors, strict=True, assign=True)
        except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the weights in {folder / name} are not those of its config: {reason}") from error
        networks.append(network)
    return networks


def _schedule(folder: Path) -> NoiseSchedule:
    config = _config(folder / "scheduler", "scheduler_config.json")
    with explained(folder):
        made: Any = NoiseSchedule.from_config(config)
    return made


def _config(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / name, "name a whole model folder")


def _notes(networks: list[nn.Module]) -> list[str]:
    skips = any(isinstance(network, Autoencoder) and network.skip_convs is not None for network in networks)
    return ["the decoder's skip convolutions are left out: ViewCrafter has none"] if skips else []


def _completed(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """Add the tensors of `source` that are missing in `tensors`; common ones must have equal shapes."""
    original = load_lvdm_checkpoint(source)
    differences = [
        f"{source} has no {name}" for name in tensors if name not in original and name not in SCHEDULE_BUFFERS
    ]
    differences += [
        f"{name} is {list(original[name].shape)} in {source}, {list(tensor.shape)} in the folder"
        for name, tensor in tensors.items()
        if name in original and original[name].shape != tensor.shape
    ]
    refuse(differences, "Name the checkpoint that the folder came from.")
    rest = {
        name: tensor for name, tensor in original.items() if name not in tensors and not name.startswith(EMA_PREFIX)
    }
    return dict(tensors) | rest
