"""The folder of a run: finished stages, reuse of earlier results, and atomic writes."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from cus.errors import InputError
from cus.files import read_json
from cus.output_folder import LEAST_FREE_BYTES, OutputFolder
from cus.tensor_files import save_tensors, tensors_digest

__all__ = ["LEAST_FREE_BYTES", "MADE_BY_A_RUN", "REFINED", "RunFolder", "State"]

# Cameras optimised by a fit.
REFINED = "refined_cameras.json"
MADE_BY_A_RUN = (
    "photos",
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
    "refine.json",
    "close_ups",
    "walk.mp4",
)
# Patterns of the files that may be written; a user's file with such a name is refused before slow work.
_PLANNED = (
    "frames/[0-9][0-9][0-9][0-9].png",
    "conditioning/[0-9][0-9][0-9][0-9].png",
    *(f"depth/*_{kind}" for kind in ("depth.npy", "depth.png", "confidence.npy", "confidence.png")),
    *("state/*.safetensors", "state/*.checkpoint", "renders/*.png", "close_ups/*.png"),
    *(name for name in MADE_BY_A_RUN if "." in name),
)


@dataclass(frozen=True)
class State:
    """The saved result of a stage, for later stages and for resuming.

    Attributes:
        tensors: tensors by name.
        notes: messages for the user about them.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


class RunFolder(OutputFolder):
    """An output folder. A finished stage leaves `state/<stage>.safetensors`, marked with the fingerprint of its inputs.

    An earlier run in the folder stays complete until this one has finished its first stage. Then everything that this
    run
    has not made is removed: at once if it replaces the earlier run; if it resumes it, all but the states of stages that
    may still be reused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a run")
        self.produced: dict[str, None] = {}
        self.damaged: list[str] = []
        self._overwrite = False
        self._begun = False  # whether this run has taken over the folder
        self._stale = False  # whether the folder holds a stage made from other inputs

    def prepare(self, *, resume: bool, overwrite: bool, inputs: Iterable[Path] = (), also: Sequence[str] = ()) -> None:
        """Lock the folder and prepare it; `close` releases it.

        Args:
            resume: whether to continue an earlier run.
            overwrite: whether to replace an earlier run, from the first finished stage on.
            inputs: files that the run reads.
            also: names of additional files that it writes.

        Raises:
            InputError: the folder cannot be written, holds an earlier run without `resume` or `overwrite`, or has files
                of the user's in the way; an input is one of its files; or another process is using it.
        """
        self.open((*_PLANNED, *also), inputs)
        earlier = self.holds()
        if earlier and not (resume or overwrite):
            self.close()
            raise InputError(
                f"{self.path} already holds a run ({', '.join(earlier[:3])}, ...): "
                "--resume continues it, --overwrite replaces it, --out names another folder"
            )
        self._overwrite = self._stale = overwrite
        self._begun = not earlier

    def speaks_of_this_run(self) -> bool:
        """Whether `run.json` may describe the progress of this run.

        False while an earlier run is still complete: a finished one of which nothing was redone, or one with other
        inputs or settings before anything has replaced it.
        """
        if self._begun:
            return True
        try:
            finished = read_json(self.path / "run.json").get("status") == "finished"
        except InputError:  # missing or damaged
            finished = False
        return not (finished or self._stale)

    def load(self, stage: str, fingerprint: str) -> State | None:
        """The saved result of a stage, or None if there is none or it was made from other inputs.

        A damaged state with the same fingerprint is added to `damaged`.
        """
        path = self.path / self._state(stage)
        if not path.exists():
            return None
        state, found = _read_state(path)
        if state is None:
            self.damaged.append(stage)
            return None
        if found != fingerprint:
            self._stale = True
            return None
        self.produced[self._state(stage)] = None
        return state

    def recorded(self, stage: str) -> State | None:
        """The saved result of a stage, whatever its inputs, or None if there is none that can be read."""
        return _read_state(self.path / self._state(stage))[0]

    def fingerprint_of(self, stage: str) -> str | None:
        """The fingerprint of a stage's inputs, or None if there is no readable state."""
        return _read_state(self.path / self._state(stage))[1]

    def save(self, stage: str, fingerprint: str, state: State) -> None:
        """Save a finished stage."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        metadata = {"fingerprint": fingerprint, "notes": json.dumps(state.notes)}
        metadata["sha256"] = tensors_digest(contiguous, metadata.values())
        self.write(self._state(stage), lambda part: save_tensors(contiguous, part, metadata))
        if not self._begun:
            self._begun = True
            self.drop_earlier(states=self._overwrite)

    def checkpoint(self, stage: str, fingerprint: str, *, keep: bool) -> Path:
        """Path for a stage's unfinished work; removes earlier ones with other inputs, or all."""
        name = f"state/{stage}-{fingerprint}.checkpoint"
        earlier = [n for n in self.made if n.startswith(f"state/{stage}-") and n.endswith(".checkpoint")]
        self.remove(n for n in earlier if not (keep and n == name))
        return self.claim(name)

    def discard(self, path: Path) -> None:
        """Remove a checkpoint that is no longer needed."""
        name = path.relative_to(self.path).as_posix()
        self.produced.pop(name, None)
        self.remove([name])

    def claim(self, name: str) -> Path:
        """Reserve a file's path in the folder (`OutputFolder.claim`); the file counts as this run's."""
        path = super().claim(name)
        self.produced[name] = None
        return path

    def write_json(self, name: str, content: dict[str, Any]) -> Path:
        """Write a JSON file."""
        return self.write(name, lambda part: part.write_text(json.dumps(content, indent=1, default=str)))

    def clear(self, name: str) -> None:
        """Remove the files that a run made in a sub-folder."""
        below = self.below(name)
        for file in below:
            self.produced.pop(file, None)
        self.remove(below)

    def drop_earlier(self, *, states: bool) -> None:
        """Remove the files of an earlier run that this one has not made; with `states`, also those it could reuse."""
        # Files that describe the run come first, so that none describes files that are gone.
        order = {"run.json": 0, "report.html": 1, "fit.json": 0}
        rest = [n for n in self.made if n not in self.produced and not n.endswith("/")]
        gone = [n for n in rest if states or not n.startswith("state/")]
        self.remove(sorted(gone, key=lambda n: (order.get(n, 2), n)))

    def files(self) -> list[str]:
        """A run's files here: relative paths, and folders with their number of files."""
        found = []
        for name in MADE_BY_A_RUN:
            count = sum(1 for n in self.below(name) if self.is_ours(n) and not n.endswith("/"))
            if count and name != "state":
                found.append(f"{name}/ ({count} files)")
            elif self.is_ours(name):
                found.append(name)
        return found

    def _state(self, stage: str) -> str:
        """Path of a stage's state, relative to the folder."""
        return f"state/{stage}.safetensors"


def _read_state(path: Path) -> tuple[State | None, str | None]:
    """A state and the fingerprint of its inputs; (None, None) if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        fingerprint, notes = metadata["fingerprint"], metadata["notes"]
        if metadata.get("sha256") != tensors_digest(tensors, (fingerprint, notes)):
            return None, None
        return State(tensors, tuple(json.loads(notes))), fingerprint
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None, None
