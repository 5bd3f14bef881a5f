"""LoRA adapters of the U-Net: small matrices beside its linear layers, in diffusers' file format. The file for peft."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.import_utils import is_peft_available
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cus.errors import InputError
from cus.models.unet import UNet

FILE = "pytorch_lora_weights.safetensors"
PREFIX = "unet"
NAME = "default"
# The projections of every attention, to text and image tokens too.
TARGETS = ("to_q", "to_k", "to_v", "to_out", "to_k_image", "to_v_image")


def require_peft() -> None:
    """Raises InputError where peft is not installed."""
    if not is_peft_available():
        raise InputError('LoRA needs the package peft, which is not installed: pip install "closeupshot[lora]"')


def add_lora(unet: UNet, rank: int, alpha: float, targets: Sequence[str], dropout: float = 0.0) -> None:
    """Give a U-Net a new adapter, which changes nothing yet; it alone learns from now on.

    Args:
        unet: without an adapter.
        rank: of the adapter's matrices.
        alpha: what they add is multiplied by `alpha / rank`.
        targets: last names of the layers that get one.
        dropout: probability in front of them.

    Raises:
        InputError: peft is not installed, or no layer has such a name.
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


def save_lora(unet: UNet, folder: Path) -> None:
    """Write the adapter as diffusers does: `pytorch_lora_weights.safetensors`, names beginning with "unet."."""
    from peft import get_peft_model_state_dict

    config = unet.peft_config[NAME].to_dict()  # pyright: ignore[reportAttributeAccessIssue]
    told = {f"{PREFIX}.{key}": list(value) if isinstance(value, set) else value for key, value in config.items()}
    state = get_peft_model_state_dict(unet, adapter_name=NAME)
    tensors = {f"{PREFIX}.{key}": value.detach().float().cpu().contiguous() for key, value in state.items()}
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(told, indent=2, sort_keys=True)}
    save_file(tensors, folder / FILE, metadata=metadata)


def find_lora(path: Path | str) -> Path:
    """The file of an adapter: itself, or the one in a folder or in a run's export.

    Raises:
        InputError: there is none, or it holds no adapter of a U-Net.
    """
    given = Path(path)
    places = (given, given / FILE, given / "export" / FILE) if given.is_dir() else (given,)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"no LoRA at {path}: name {FILE}, or the folder that holds it")
    try:
        with safe_open(found, framework="pt") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"cannot read the LoRA {found}: {error}; fetch or train it again") from error
    if not any(name.startswith(f"{PREFIX}.") and "lora" in name for name in names):
        shown = f" (it begins with {names[0]})" if names else ""
        raise InputError(f"{found} is no LoRA of a U-Net: it has no weights named {PREFIX}.*lora*{shown}")
    return found


def load_lora(unet: UNet, path: Path | str, name: str = NAME) -> None:
    """Give a U-Net the adapter of a file, of this project or of diffusers.

    Args:
        unet: the network.
        path: see `find_lora`.
        name: of the adapter.

    Raises:
        InputError: peft is not installed, there is no adapter, or it is of another network.
    """
    require_peft()
    file = find_lora(path)
    try:
        unet.load_lora_adapter(
            str(file.parent), prefix=PREFIX, weight_name=file.name, adapter_name=name, use_safetensors=True
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(f"the LoRA {file} does not fit this U-Net: {str(error).splitlines()[0]}") from error
