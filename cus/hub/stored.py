"""Finds stored pipelines and LoRAs, and explains what is wrong with them.

A model is "mini" (ships with the package), a folder written by `save_pretrained`, or a Hub id, "org/name" or
"org/name@revision". All three pass the same checks; from a Hub repository only the JSON and safetensors files that its
index names are fetched, never pickles or code.
"""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

from cus.errors import InputError
from cus.files import read_json
from cus.hub.errors import INDEX, LORA, HubAccess, first_line
from cus.hub.fetch import HubModel, OnFetched, open_hub, parse_id

SHIPPED = ("mini",)
REMEDY = 'use "mini", a folder written by save_pretrained, or a model id of the Hugging Face Hub'
PIPELINE = "CloseUpShotPipeline"
CLASSES = (
    "cus.models.unet.UNet",
    "cus.models.autoencoder.Autoencoder",
    "cus.models.unshuffle.UnshuffleAutoencoder",
    "cus.models.clip.ImageEncoder",
    "cus.models.projector.ImageProjector",
    "cus.diffusion.context.PromptEmbeddings",
    "cus.diffusion.schedule.NoiseSchedule",
)
_WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.(?P<variant>\w+))?(?P<shard>-\d{5}-of-\d{5})?\.safetensors")
_SHARDS = re.compile(r"diffusion_pytorch_model\.safetensors\.index(?:\.(?P<variant>\w+))?\.json")


@dataclass(frozen=True)
class StoredModel:
    """A model with a checked index; its weights may not have been fetched yet.

    Attributes:
        source: name as written by the user.
        folder: folder of its files, present or future.
        index: parsed `model_index.json`.
        hub: commit that it comes from; None for a folder.
    """

    source: str
    folder: Path
    index: dict[str, Any]
    hub: HubModel | None

    @property
    def name(self) -> str:
        """Its name in records: a Hub model with its commit, a folder as the user wrote it."""
        return self.source if self.hub is None else f"{self.hub.id}@{self.hub.commit}"

    def components(self) -> list[str]:
        """Names of the pipeline's parts."""
        return [name for name, entry in self.index.items() if _is_component(name, entry)]

    def config(self, component: str) -> dict[str, Any]:
        """Configuration of a part. Raises InputError if there is none."""
        if component not in self.components():
            raise InputError(f"{self.source} has no {component}; it has {', '.join(self.components())}")
        return self.read(_config_path(component))

    def read(self, path: str) -> dict[str, Any]:
        """Parse a JSON file of the model. Raises InputError if it is missing or unreadable."""
        return _read_json(self.folder / path if self.hub is None else self.hub.file(path))

    def variants(self, names: Collection[str]) -> tuple[str | None, ...]:
        """The variants of the weights among these paths; None, the standard one, comes first."""
        found = {v for name in self.components() for v in _variants(_names_in(name, names))}
        return tuple(sorted(found, key=lambda variant: variant or ""))

    def weight_names(self, names: Collection[str], variants: Collection[str | None]) -> set[str]:
        """The paths of weights, or indices of their shards, in one of the variants."""
        return {
            f"{component}/{name}"
            for component in self.components()
            for name in _names_in(component, names)
            if any(
                (match := pattern.fullmatch(name)) and match["variant"] in variants for pattern in (_WEIGHTS, _SHARDS)
            )
        }

    def complete(self, variant: str | None = None, on_progress: OnFetched | None = None) -> Path:
        """The folder with everything that loading needs; `on_progress` as for `HubModel.fetch`.

        Raises:
            InputError: parts or the variant are missing, or cannot be fetched.
        """
        if self.hub is None:
            needed_files(self, _names_below(self.folder), variant)
        elif self.hub.files is None:
            needed_files(self, self.hub.cached(), variant, "the Hub was not asked for what the cache lacks: connect")
            self.hub.tell_unreachable()
        else:
            self.hub.fetch(needed_files(self, set(self.hub.files), variant), on_progress)
        return self.folder


def open_model(source: str | Path, pipeline: str = PIPELINE, access: HubAccess | None = None) -> StoredModel:
    """Find a model and read its index; nothing else of a Hub model is fetched.

    Args:
        source: a shipped name, a folder, or a Hub id.
        pipeline: required class name of the pipeline.
        access: options of Hub requests.

    Raises:
        InputError: no such model, or one of another kind.
    """
    name = str(source)
    folder = local_folder(name)
    hub = None
    if folder.is_file():
        raise InputError(f"{folder} is a file, and a model is a folder: cus-convert {folder} FOLDER makes one of it")
    if not folder.exists():
        access = access or HubAccess()
        found = None if isinstance(source, Path) else parse_id(name, access.revision)
        if found is None:
            raise InputError(f"there is no model at {folder}; {REMEDY}")
        hub = open_hub(found[0], replace(access, revision=found[1]))
        folder = hub.folder
    if not (folder / INDEX).exists():
        raise InputError(f"{folder} is no model: it has no {INDEX}; {REMEDY}")
    index = _read_json(folder / INDEX)
    where = name if hub else folder
    if index.get("_class_name") != pipeline:
        raise InputError(
            f"{where} holds a {index.get('_class_name', 'folder of another kind')}, not a {pipeline}; {REMEDY}"
        )
    _check_components(index, where)
    return StoredModel(name, folder, index, hub)


def local_folder(name: str) -> Path:
    """The local folder of a name that is not a Hub id: that of a shipped model, or the path itself."""
    return Path(str(files("cus") / "weights" / name)) if name in SHIPPED else Path(name)


def checked_folder(
    source: str | Path, pipeline: str = PIPELINE, variant: str | None = None, access: HubAccess | None = None
) -> str:
    """The complete local folder of `source`; a Hub model is fetched.

    Raises:
        InputError: a model that is missing, incomplete, of another kind, or cannot be fetched.
    """
    return str(open_model(source, pipeline, access).complete(variant))


def needed_files(
    model: StoredModel, names: Collection[str], variant: str | None, remedy: str = "get it again"
) -> list[str]:
    """Paths of all files that loading reads.

    Like diffusers, takes the standard weights for a part without the variant if another part has the variant.

    Args:
        model: model with its index.
        names: paths of the existing files.
        variant: such as "fp16"; None: the standard one.
        remedy: remedy for a missing file, for the message.

    Raises:
        InputError: files are missing, or no part has the variant.
    """
    found = [INDEX]
    parts = {name: _names_in(name, names) for name in model.components()}
    weighty = {name: part for name, part in parts.items() if name != "scheduler"}
    known = {variant for part in weighty.values() for variant in _variants(part)}
    if weighty and variant not in known and (variant is not None or known):
        there = ", ".join(sorted(name or "the standard one" for name in known))
        asked = "weights in the standard variant" if variant is None else f"variant {variant!r}"
        raise InputError(f"the model {model.source} has no {asked}; there is {there or 'none'}")
    for name, part in parts.items():
        config = _config_path(name)
        weights = []
        if name in weighty:
            own = variant if variant in _variants(part) else None
            weights = _weights(model, name, part, own)
        if config not in names or (name in weighty and not weights):
            lacks = config if config not in names else f"{name}/*.safetensors"
            raise InputError(f"the model {model.source} is incomplete: {model.folder} lacks {lacks}; {remedy}")
        if lost := [f"{name}/{file}" for file in weights if file not in part]:
            raise InputError(f"the model {model.source} is incomplete: {model.folder} lacks {lost[0]}; {remedy}")
        found += [config, *(f"{name}/{file}" for file in weights)]
    return found


def weight_files(folder: Path, component: str, variant: str | None = None) -> list[Path]:
    """The safetensors files of a part in a checked folder; empty if it has no weights."""
    part = folder / component
    names = _names_below(part)
    own = variant if variant in _variants(names) else None
    model = StoredModel(str(folder), folder, {}, None)
    return [part / name for name in _weights(model, component, names, own) if name.endswith(".safetensors")]


@contextmanager
def explained(source: Any) -> Iterator[None]:
    """Turn the many errors of loading into one InputError that names the model."""
    try:
        yield
    except (HfHubHTTPError, HFValidationError) as error:
        raise InputError(f"cannot get the model {source} from the Hub: {first_line(error)}; {REMEDY}") from error
    except (
        SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError,
        AssertionError, ImportError, MemoryError,
    ) as error:  # fmt: skip
        raise InputError(f"cannot load the model {source}: {first_line(error)}; if damaged, get it again") from error


def _is_component(name: str, entry: Any) -> bool:
    return not name.startswith("_") and isinstance(entry, list) and len(entry) == 2 and entry[0] is not None


def _check_components(index: dict[str, Any], where: Any) -> None:
    """Loading imports the classes that the index names, so allow only those of the pipeline's own parts."""
    for name, entry in index.items():
        if not _is_component(name, entry):
            continue
        if not name.isidentifier() or not all(isinstance(part, str) for part in entry):
            raise InputError(f"the index of {where} is damaged at {name!r}; {REMEDY}")
        if ".".join(entry) not in CLASSES:
            asked = ".".join(entry)[:80]
            raise InputError(f"{where} asks for {asked} as its {name}, which is not loaded; {REMEDY}")


def _config_path(component: str) -> str:
    return f"{component}/{'scheduler_config' if component == 'scheduler' else 'config'}.json"


def _names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _names_in(component: str, names: Collection[str]) -> set[str]:
    """The rest of the paths below the component's folder."""
    return {name[len(component) + 1 :] for name in names if name.startswith(f"{component}/")}


def _variants(names: Collection[str]) -> set[str | None]:
    """The variants in a part's files; None is the standard one."""
    return {match["variant"] for name in names if (match := _WEIGHTS.fullmatch(name))}


def _weights(model: StoredModel, component: str, names: Collection[str], variant: str | None) -> list[str]:
    """Names of a part's weights in a variant. An index of shards takes precedence, as in diffusers."""
    middle = "" if variant is None else f".{variant}"
    index = f"diffusion_pytorch_model.safetensors.index{middle}.json"
    single = f"diffusion_pytorch_model{middle}.safetensors"
    if index not in names:
        return [single] if single in names else []
    shards = model.read(f"{component}/{index}").get("weight_map")
    listed = sorted(set(shards.values())) if isinstance(shards, dict) else []
    # Shards are read from the index's folder; a path would lead elsewhere.
    if not listed or not all(isinstance(shard, str) and _WEIGHTS.fullmatch(shard) for shard in listed):
        raise InputError(f"{component}/{index} of the model {model.source} is damaged; get it again")
    return [index, *listed]


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, "copy the model again")


@dataclass(frozen=True)
class StoredLora:
    """A LoRA with a local file.

    Attributes:
        source: name as written by the user.
        file: safetensors file in diffusers' format.
        hub: commit that it comes from; None for a folder or file.
    """

    source: str
    file: Path
    hub: HubModel | None = None

    @property
    def name(self) -> str:
        """Its name in records: a Hub LoRA with its commit, a folder as the user wrote it."""
        return self.source if self.hub is None else f"{self.hub.id}@{self.hub.commit}"


def open_lora(source: str | Path, access: HubAccess | None = None) -> StoredLora:
    """Find a LoRA; one of the Hub is fetched.

    Args:
        source: a file, a folder that holds pytorch_lora_weights.safetensors, a run of train/unet.py, or a Hub id,
            "org/name" or "org/name@revision".
        access: how the Hub is asked.

    Raises:
        InputError: there is none, or it cannot be fetched.
    """
    given = Path(source)
    places = (given, given / LORA, given / "export" / LORA) if given.is_dir() else (given,)
    if (found := next((place for place in places if place.is_file()), None)) is not None:
        return StoredLora(str(source), found)
    access = access or HubAccess()
    repository = None if isinstance(source, Path) or given.exists() else parse_id(source, access.revision)
    if repository is None:
        raise InputError(f"no LoRA at {source}: name {LORA}, the folder that holds it, or a model id of the Hub")
    hub = open_hub(repository[0], replace(access, revision=repository[1]), LORA)
    return StoredLora(str(source), hub.folder / LORA, hub)
