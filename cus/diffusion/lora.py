"""LoRA adapters of the U-Net's linear layers, in diffusers' file format. All use of peft is in this file."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.import_utils import is_peft_available
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cus.diffusion.parts import check_finite
from cus.errors import InputError
from cus.hub.errors import LORA, HubAccess
from cus.hub.stored import StoredLora, open_lora
from cus.models.unet import UNet
from cus.tensor_files import save_tensors

FILE = LORA
PREFIX = "unet"
NAME = "default"
_NAME = re.compile(rf"{PREFIX}\.(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
# Number types in safetensors' notation.
_FORMATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# The projections of every attention, including those to text and image tokens.
TARGETS = ("to_q", "to_k", "to_v", "to_out", "to_k_image", "to_v_image")


def require_peft() -> None:
    """Raise InputError if peft is not installed."""
    if not is_peft_available():
        raise InputError('LoRA needs the package peft, which is not installed: pip install "closeupshot[lora]"')


def add_lora(unet: UNet, rank: int, alpha: float, targets: Sequence[str], dropout: float = 0.0) -> None:
    """Add a new adapter, at first without effect, to a U-Net; from now on only the adapter is trained.

    Args:
        unet: network without an adapter.
        rank: rank of the adapter's matrices.
        alpha: the adapter's output is multiplied by `alpha / rank`.
        targets: last name components of the layers to adapt.
        dropout: dropout probability before the adapters.

    Raises:
        InputError: peft is not installed, or no layer has one of the names.
    """
    require_peft()
    from peft import LoraConfig

    layers = {name.rsplit(".", 1)[-1] for name, layer in unet.named_modules() if isinstance(layer, torch.nn.Linear)}
    if unknown := sorted(set(targets) - layers):
        raise InputError(
            f"lora.targets has {', '.join(unknown)}; linear layers of the U-Net: {', '.join(sorted(layers))}"
        )
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=dropout), NAME)  # pyright: ignore


def adapt_all(unet: Any, rank: int) -> list[nn.Parameter]:
    """Add an adapter, at first without effect, to every linear and 2D convolution layer of a U-Net, and turn it on.

    Args:
        unet: a `UNet`, or one of diffusers.
        rank: rank of the adapter's matrices.

    Returns:
        Its parameters; all others are frozen.

    Raises:
        InputError: peft is not installed.
    """
    require_peft()
    from peft import LoraConfig

    kinds = nn.Linear | nn.Conv2d
    names = [name for name, layer in unet.named_modules() if isinstance(layer, kinds)]
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), NAME)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def save_lora(unet: UNet, folder: Path) -> None:
    """Write the adapter in diffusers' format: `pytorch_lora_weights.safetensors`, names beginning with "unet."."""
    from peft import get_peft_model_state_dict

    config = unet.peft_config[NAME].to_dict()  # pyright: ignore[reportAttributeAccessIssue]
    told = {f"{PREFIX}.{key}": list(value) if isinstance(value, set) else value for key, value in config.items()}
    state = get_peft_model_state_dict(unet, adapter_name=NAME)
    tensors = {f"{PREFIX}.{key}": value.detach().float().cpu().contiguous() for key, value in state.items()}
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(told, indent=2, sort_keys=True)}
    save_tensors(tensors, folder / FILE, metadata)


@dataclass(frozen=True)
class LoraFacts:
    """The contents of a LoRA's file.

    Attributes:
        layers: name in the U-Net -> (rank, inputs, outputs).
        parameters: number of parameters.
        precisions: number types, such as float32.
        settings: rank, alpha etc., as peft stores them; empty if the file lacks them.
    """

    layers: dict[str, tuple[int, int, int]]
    parameters: int
    precisions: list[str]
    settings: dict[str, Any]


def find_lora(source: Path | str, access: HubAccess | None = None) -> StoredLora:
    """Find a LoRA of a U-Net: a file, a folder, a run of train/unet.py, or a Hub id, whose file is fetched.

    Raises:
        InputError: there is none, it cannot be fetched, or it is not an adapter of a U-Net in diffusers' format.
    """
    found = open_lora(source, access)
    lora_facts(found.file)
    return found


def lora_facts(file: Path) -> LoraFacts:
    """Names, shapes and settings of a LoRA's file. Raises InputError if it is not in diffusers' format."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            precisions = {_FORMATS.get(kind := str(part.get_dtype()), kind) for part in slices.values()}
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read the LoRA {file}: {error}; fetch or train it again") from error
    if not any(name.startswith(f"{PREFIX}.") and "lora" in name for name in shapes):
        shown = f" (it begins with {next(iter(shapes))})" if shapes else ""
        raise InputError(f"{file} is no LoRA of a U-Net: it has no weights named {PREFIX}.*lora*{shown}")
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise InputError(
                f"{file} is no LoRA in diffusers' form: it has {name}, where names are like "
                f"{PREFIX}.LAYER.lora_A.weight; save it with diffusers' or peft's own functions"
            )
        pairs.setdefault(match["layer"], {})[match["side"]] = shape
    layers = {}
    for layer, sides in pairs.items():
        down, up = sides.get("A", ()), sides.get("B", ())
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise InputError(
                f"{file} is damaged: the matrices of {layer} are {list(down) or 'missing'} and {list(up) or 'missing'},"
                " not [rank, inputs] and [outputs, rank]; fetch or train it again"
            )
        layers[layer] = (down[0], down[1], up[0])
    count = sum(rank * (inputs + outputs) for rank, inputs, outputs in layers.values())
    try:
        told = json.loads(metadata.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    except ValueError:
        raise InputError(f"{file} is damaged: its settings are no JSON; fetch or train it again") from None
    settings = {name.removeprefix(f"{PREFIX}."): value for name, value in told.items()}
    return LoraFacts(layers, count, sorted(precisions), settings)


def check_lora(unet: nn.Module, lora: StoredLora, model: str) -> None:
    """Refuse a LoRA of another network, layer by layer.

    Args:
        unet: U-Net to check against; only its shapes matter, so it may be on the meta device.
        lora: LoRA found by `find_lora`.
        model: name of the U-Net's model, for the message.

    Raises:
        InputError: a layer that the U-Net lacks, or has in another shape.
    """
    wrong = []
    for layer, (_, inputs, outputs) in lora_facts(lora.file).layers.items():
        try:
            own = unet.get_submodule(layer)
        except AttributeError:
            wrong.append(f"there is no {layer}")
            continue
        weight = getattr(getattr(own, "base_layer", own), "weight", None)
        if not isinstance(weight, Tensor) or tuple(weight.shape) != (outputs, inputs):
            shape = list(weight.shape) if isinstance(weight, Tensor) else "no matrix"
            wrong.append(f"{layer} is {shape}, and the LoRA changes [{outputs}, {inputs}]")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(
            f"the LoRA {lora.source} does not fit the U-Net of {model}: {'; '.join(wrong[:3])}{more}; it was trained "
            "for another model, which its card or its run's config.yaml names"
        )


def load_lora(unet: UNet, lora: StoredLora, name: str = NAME, model: str = "the pipeline") -> None:
    """Add the adapter from a file of this project or of diffusers to a U-Net, in the U-Net's precision.

    Args:
        unet: network to adapt.
        lora: LoRA found by `find_lora`.
        name: name of the adapter.
        model: name of the U-Net's model, for messages.

    Raises:
        InputError: peft is not installed, the adapter belongs to another network or is damaged, or the name is taken.
    """
    require_peft()
    check_lora(unet, lora, model)
    dtype = unet.dtype
    try:
        unet.load_lora_adapter(
            str(lora.file.parent),
            prefix=PREFIX,
            weight_name=lora.file.name,
            adapter_name=name,
            use_safetensors=True,
            local_files_only=True,
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot load the LoRA {lora.source}: {str(error).splitlines()[0]}") from error
    added: dict[str, Tensor] = {
        key: value for key, value in unet.named_parameters() if f".{name}." in key and "lora_" in key
    }
    try:
        check_finite(lora.file, added)
    except InputError:
        unet.delete_adapters(name)
        raise
    for parameter in added.values():
        parameter.data = parameter.data.to(dtype)
