"""Finding a stored pipeline, and saying plainly what is wrong with one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from cus.errors import InputError

SHIPPED = ("mini",)
REMEDY = 'use "mini", a folder written by save_pretrained, or a model id of the Hugging Face Hub'


def checked_folder(source: str | Path, pipeline: str) -> str:
    """What to load for `source`: a shipped name's folder, a checked folder, or the Hub id as it is.

    Raises:
        InputError: a folder that is missing, incomplete, or holds another kind of pipeline.
    """
    name = str(source)
    folder = Path(str(files("cus") / "weights" / name)) if name in SHIPPED else Path(name)
    if not folder.exists():
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return name  # a Hub id
        raise InputError(f"there is no model at {folder}; {REMEDY}")
    index = _read_index(folder)
    if index.get("_class_name") != pipeline:
        raise InputError(
            f"{folder} holds a {index.get('_class_name', 'folder of another kind')}, not a {pipeline}; {REMEDY}"
        )
    for component, entry in index.items():
        if component.startswith("_") or not isinstance(entry, list) or entry[0] is None:
            continue
        part = folder / component
        wanted = "scheduler_config.json" if component == "scheduler" else "config.json"
        if not (part / wanted).is_file() or (component != "scheduler" and not any(part.glob("*.safetensors"))):
            raise InputError(
                f"the model in {folder} is incomplete: {part} lacks {wanted} or *.safetensors; get it again"
            )
    return str(folder)


@contextmanager
def explained(source: Any) -> Iterator[None]:
    """Turn the many errors of loading into one InputError that names the model."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(f"cannot get the model {source} from the Hub: {_first_line(error)}; {REMEDY}") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"cannot load the model {source}: {_first_line(error)}; if damaged, get it again") from error


def check_weights(folder: Path, pipeline: Any) -> None:
    """Refuse a pipeline whose files lack tensors that its networks have, or hold others.

    diffusers only warns, and the network would run with random weights in the gaps.

    Raises:
        InputError: with the first names that differ.
    """
    for component, module in pipeline.components.items():
        files = sorted((folder / component).glob("*.safetensors"))
        if not isinstance(module, nn.Module) or not files:
            continue
        stored: set[str] = set()
        for file in files:
            with safe_open(file, framework="pt") as opened:
                stored.update(opened.keys())
        wanted = set(module.state_dict())
        if stored != wanted:
            missing, unknown = sorted(wanted - stored)[:3], sorted(stored - wanted)[:3]
            raise InputError(
                f"the weights in {folder / component} are not those of its config.json: missing {missing}, "
                f"unknown {unknown}; get the model again"
            )


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{folder} is no model: it has no model_index.json; {REMEDY}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {_first_line(error)}; copy the model again") from error
    if not isinstance(index, dict):
        raise InputError(f"{path} is not a model index; copy the model again")
    return index


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
