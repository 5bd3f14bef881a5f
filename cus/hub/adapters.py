"""Finds a stored LoRA: a file, a folder, a training run, or a repository on the Hub."""

from dataclasses import dataclass, replace
from pathlib import Path

from cus.errors import InputError
from cus.hub.errors import LORA, HubAccess
from cus.hub.fetch import HubModel, open_hub, parse_id


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
