"""The folder of a run: what is finished in it, what can be reused, and writing that never leaves half a file."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cus.errors import InputError

# Cameras that a fit has moved.
REFINED = "refined_cameras.json"
MADE_BY_A_RUN = (
    "frames",
    "conditioning",
    "depth",
    "state",
    "video.mp4",
    "conditioning.mp4",
    "splat.mp4",
    "transforms.json",
    "points.ply",
    "splat.ply",
    REFINED,
    "report.html",
    "run.json",
    "fit.json",
    "renders",
)
LEAST_FREE_BYTES = 300 * 2**20


@dataclass(frozen=True)
class State:
    """What a stage leaves for the next ones and for a resumed run.

    Attributes:
        tensors: by name.
        notes: what the user should know about them.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


class RunFolder:
    """An output folder. A finished stage leaves `state/<stage>.safetensors`, marked with what it was made from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder ready. Raises InputError where it cannot be written or an earlier run would be lost."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder with --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError(
                f"cannot write to {self.path} ({error.strerror}); choose another folder with --out"
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < LEAST_FREE_BYTES:
            raise InputError(
                f"only {free >> 20} MiB are free at {self.path}; a run needs {LEAST_FREE_BYTES >> 20} MiB: "
                "free some space or choose another folder with --out"
            )
        earlier = [name for name in MADE_BY_A_RUN if (self.path / name).exists()]
        if earlier and not (resume or overwrite):
            raise InputError(
                f"{self.path} already holds a run ({', '.join(earlier[:3])}, ...): "
                "--resume continues it, --overwrite replaces it, --out names another folder"
            )
        if overwrite:
            for name in earlier:
                remove(self.path / name)

    def load(self, stage: str, fingerprint: str) -> State | None:
        """What a finished stage left, or None where it left nothing, or was made from something else."""
        return self.recorded(stage) if self.fingerprint_of(stage) == fingerprint else None

    def recorded(self, stage: str) -> State | None:
        """What a finished stage left, whatever it was made from, or None where it left nothing that can be read."""
        try:
            with safe_open(self.path / self._state(stage), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                return State(tensors, tuple(json.loads(metadata["notes"])))
        except (SafetensorError, OSError, KeyError):
            return None

    def fingerprint_of(self, stage: str) -> str | None:
        """Of what a finished stage was made from, or None where there is none that can be read."""
        try:
            with safe_open(self.path / self._state(stage), framework="pt") as file:
                return (file.metadata() or {}).get("fingerprint")
        except (SafetensorError, OSError):
            return None

    def save(self, stage: str, fingerprint: str, state: State) -> None:
        """Record a finished stage."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        metadata = {"fingerprint": fingerprint, "notes": json.dumps(state.notes)}
        self.write(self._state(stage), lambda part: save_file(contiguous, part, metadata))

    def checkpoint(self, stage: str, fingerprint: str, *, keep: bool) -> Path:
        """Where a stage may keep its half-finished work; earlier ones of other inputs, or all, are removed."""
        path = self.path / "state" / f"{stage}-{fingerprint}.checkpoint"
        path.parent.mkdir(exist_ok=True)
        for earlier in path.parent.glob(f"{stage}-*.checkpoint"):
            if not (keep and earlier == path):
                earlier.unlink()
        return path

    def write(self, path: Path | str, writer: Callable[[Path], Any]) -> Path:
        """Write a file through `writer(temporary path)`; it appears under its name only when complete."""
        path = self.path / path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays the last: many writers choose their format by it.
        part = path.with_name(f".part-{path.name}")
        try:
            with full_disk_explained(path):
                writer(part)
                os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def write_json(self, path: Path | str, content: dict[str, Any]) -> Path:
        """Write a JSON file."""
        return self.write(path, lambda part: part.write_text(json.dumps(content, indent=1, default=str)))

    def clear(self, name: str) -> Path:
        """An empty sub-folder `name`."""
        remove(self.path / name)
        (self.path / name).mkdir(parents=True)
        return self.path / name

    def files(self) -> list[str]:
        """What a run has left here, relative paths, folders with their number of files."""
        found = []
        for name in MADE_BY_A_RUN:
            path = self.path / name
            if path.is_dir() and name != "state":
                found.append(f"{name}/ ({sum(1 for _ in path.iterdir())} files)")
            elif path.is_file():
                found.append(name)
        return found

    def _state(self, stage: str) -> Path:
        """Where a stage's record lies, relative to the folder."""
        return Path("state") / f"{stage}.safetensors"


def remove(path: Path) -> None:
    """Delete a file or a folder with its content; a missing one is fine."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def full_disk_explained(path: Path) -> Iterator[None]:
    """Turn the operating system's word for a full disk into what the user can do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full:
            raise
        raise InputError(
            f"the disk is full: {path} could not be written. What was finished is kept: free some space and "
            "run the same command with --resume"
        ) from error
