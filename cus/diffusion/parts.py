"""Checks a stored pipeline's networks without their values: configurations, number types, names and shapes.

Everything here is read from JSON and from the headers of safetensors files, and networks are built on the meta device:
whatever a configuration claims, nothing is allocated before the weights are known to have that size.
"""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cus.diffusion.context import PromptEmbeddings
from cus.diffusion.sampling import Sampling
from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError, shown
from cus.files import require_regular
from cus.hub.errors import first_line
from cus.hub.stored import StoredModel, explained, weight_files
from cus.models.autoencoder import Autoencoder
from cus.models.clip import ImageEncoder
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.models.unshuffle import UnshuffleAutoencoder

NETWORKS: dict[str, tuple[type[Any], ...]] = {
    "unet": (UNet,),
    "vae": (Autoencoder, UnshuffleAutoencoder),
    "image_encoder": (ImageEncoder,),
    "image_projector": (ImageProjector,),
    "prompt": (PromptEmbeddings,),
}
"""The classes allowed for each part of a pipeline."""
# Number types allowed for weights, in safetensors' names; others would be rounded or misread silently.
REAL = ("F64", "F32", "F16", "BF16")
# Limits, far above any real network, for options that control loops when a network is built.
_DEPTHS = ("num_res_blocks", "transformer_depth", "layers_per_block", "layers", "depth")
_DEEPEST, _LONGEST_LIST, _LARGEST = 1000, 100, 2**24


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as described in the header of a safetensors file.

    Attributes:
        dtype: number type in safetensors' notation, such as "F16".
        shape: size along each axis.
    """

    dtype: str
    shape: tuple[int, ...]


def tensors_in(path: Path) -> dict[str, StoredTensor]:
    """The tensors in the header of a safetensors file. Raises InputError if the file is not one, or is truncated."""
    require_regular(path)
    try:
        with safe_open(path, framework="pt") as opened:
            views = {name: opened.get_slice(name) for name in opened.keys()}
            return {name: StoredTensor(view.get_dtype(), tuple(view.get_shape())) for name, view in views.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}; get it again") from error


def check_real(path: Path, tensors: dict[str, StoredTensor]) -> None:
    """Refuse weights that are not real floating-point numbers. Raises InputError."""
    odd = [(name, tensor.dtype) for name, tensor in tensors.items() if tensor.dtype not in REAL]
    if odd:
        raise InputError(
            f"{path}: {len(odd)} of {len(tensors)} tensors are no real numbers of 16 to 64 bits, the first "
            f"{odd[0][0]} of type {odd[0][1]}; expected {', '.join(REAL)}: get the weights in one of these"
        )


def class_of(model: StoredModel, component: str) -> type[Any]:
    """The class that a model's index gives for a part. Raises InputError if it is not allowed there."""
    entry = model.index.get(component)
    named = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    for known in NETWORKS[component]:
        if named == known.__name__:
            return known
    names = " or ".join(known.__name__ for known in NETWORKS[component])
    raise InputError(f"the {component} of {model.source} is {named}; expected {names}: get the model again")


def empty_network(model: StoredModel, component: str) -> nn.Module:
    """Build a part on the meta device from its configuration.

    Raises:
        InputError: the configuration is missing or invalid.
    """
    network, where = class_of(model, component), f"the {component} of {model.source}"
    config = _known_options(network, model.config(component))
    for option, value in config.items():
        _check_option(where, option, value)
    try:
        with torch.device("meta"):
            return network(**config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError, LookupError, AttributeError) as error:
        raise InputError(
            f"{where} has a configuration that makes no network ({first_line(error)}); get it again"
        ) from error


def _check_option(where: str, option: str, value: Any) -> None:
    values = value if isinstance(value, list) else [value]
    limit = _DEEPEST if option in _DEPTHS else _LARGEST
    good = len(values) <= _LONGEST_LIST and all(
        item is None
        or isinstance(item, str | bool)
        or (isinstance(item, int | float) and abs(item) <= limit)  # comparisons with NaN are False
        for item in values
    )
    if not good:
        raise InputError(
            f"{where} has a configuration that makes no network ({option} is {shown(value)}); get it again"
        )


def check_parts(model: StoredModel, folder: Path, variant: str | None = None) -> dict[str, nn.Module]:
    """Check a model against its index and configurations before any weights are loaded.

    diffusers only warns about missing or unexpected tensors, and the network would run with random weights.

    Args:
        model: model with its index.
        folder: folder of its files.
        variant: variant of the weights, such as "fp16"; None: the standard one.

    Returns:
        The parts by name, on the meta device.

    Raises:
        InputError: a part missing from the index, weights that are damaged or not real numbers, an invalid
            configuration of a network or schedule, invalid sampling settings, or tensors that are missing, unknown or
            of a wrong shape; the message names the first.
    """
    if lost := [name for name in (*NETWORKS, "scheduler") if name not in model.components()]:
        raise InputError(f"the index of {model.source} names no {lost[0]}, which a pipeline needs; get the model again")
    if "sampling" in model.index:
        sampling_of(model)
    with explained(model.source):
        NoiseSchedule(**_known_options(NoiseSchedule, model.config("scheduler")))
    networks = {}
    for component in model.components():
        if component in NETWORKS:
            networks[component] = empty_network(model, component)
            stored: dict[str, StoredTensor] = {}
            for file in weight_files(folder, component, variant):
                tensors = tensors_in(file)
                check_real(file, tensors)
                stored |= tensors
            _check_shapes(folder / component, stored, networks[component])
    return networks


def sampling_of(model: StoredModel) -> Sampling:
    """A checkpoint's sampling settings, from its index alone. Raises InputError if the index lacks them."""
    with explained(model.source):
        return Sampling(**model.index["sampling"])


def _known_options(network: type[Any], config: dict[str, Any]) -> dict[str, Any]:
    """The options of a configuration that a class accepts; diffusers adds some of its own."""
    known = inspect.signature(network.__init__).parameters
    return {option: value for option, value in config.items() if option in known}


def _check_shapes(where: Path, stored: dict[str, StoredTensor], network: nn.Module) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    problem = f"the weights in {where} are not those of its config.json"
    if set(stored) != set(expected):
        missing, unknown = sorted(set(expected) - set(stored))[:3], sorted(set(stored) - set(expected))[:3]
        raise InputError(f"{problem}: missing {missing}, unknown {unknown}; get the model again")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise InputError(f"{problem}: {name} is {stored[name].shape}, must be {shape}; get the model again")


def check_finite(where: Any, tensors: dict[str, Tensor]) -> None:
    """Refuse weights with NaN or infinity: every frame would be black. Raises InputError with the first tensor."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} in {where} holds values that are not numbers; train or export it again")


def forget_origins(folder: Path) -> None:
    """Remove the local paths that a stored pipeline's parts were loaded from, from its configurations."""
    for path in (folder / "model_index.json", *(folder / name / "config.json" for name in NETWORKS)):
        if path.is_file():
            values = json.loads(path.read_text())
            if values.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
