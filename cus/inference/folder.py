"""The folder of a run: what is finished in it, what can be reused, and writing that never leaves half a file."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cus.digests import tensors_digest
from cus.errors import InputError
from cus.files import read_json
from cus.output_folder import LEAST_FREE_BYTES, OutputFolder

__all__ = ["LEAST_FREE_BYTES", "MADE_BY_A_RUN", "REFINED", "RunFolder", "State"]

# Cameras that a fit has moved.
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
# What may be written, as patterns; a file of the user's under such a name is refused before slow work.
_PLANNED = (
    "frames/[0-9][0-9][0-9][0-9].png",
    "conditioning/[0-9][0-9][0-9][0-9].png",
    *(f"depth/*_{kind}" for kind in ("depth.npy", "depth.png", "confidence.npy", "confidence.png")),
    *("state/*.safetensors", "state/*.checkpoint", "renders/*.png", "close_ups/*.png"),
    *(name for name in MADE_BY_A_RUN if "." in name),
)


@dataclass(frozen=True)
class State:
    """What a stage leaves for the next ones and for a resumed run.

    Attributes:
        tensors: by name.
        notes: what the user should know about them.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


class RunFolder(OutputFolder):
    """An output folder. A finished stage leaves `state/<stage>.safetensors`, marked with what it was made from.

    An earlier run in the folder stays whole until this one has finished its first stage. Then all that this one has
    not made itself is removed: at once where it replaces the earlier run, and where it resumes it, all but the states
    of stages that may yet be reused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a run")
        self.produced: dict[str, None] = {}
        self.damaged: list[str] = []
        self._overwrite = False
        self._begun = False  # whether the folder is this run's
        self._stale = False  # whether it holds a stage that was made from something else

    def prepare(self, *, resume: bool, overwrite: bool, inputs: Iterable[Path] = (), also: Sequence[str] = ()) -> None:
        """Lock the folder and make it ready; `close` gives it back.

        Args:
            resume: go on with an earlier run.
            overwrite: replace an earlier run, from the first finished stage on.
            inputs: what the run reads.
            also: names of further files that it writes.

        Raises:
            InputError: it cannot be written, holds an earlier run unasked, holds files of the user's in the way, an
                input lies among its files, or another process works in it.
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
        """Whether `run.json` may say how far this run is.

        Not where an earlier run is still whole: a finished one of which nothing was done again, or one of other inputs
        or settings before anything has taken its place.
        """
        if self._begun:
            return True
        try:
            finished = read_json(self.path / "run.json").get("status") == "finished"
        except InputError:  # none, or a damaged one
            finished = False
        return not (finished or self._stale)

    def load(self, stage: str, fingerprint: str) -> State | None:
        """What a finished stage left, or None where it left nothing, or was made from something else.

        A state that was made from the same and is damaged is named in `damaged`.
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
        """What a finished stage left, whatever it was made from, or None where it left nothing that can be read."""
        return _read_state(self.path / self._state(stage))[0]

    def fingerprint_of(self, stage: str) -> str | None:
        """Of what a finished stage was made from, or None where there is none that can be read."""
        return _read_state(self.path / self._state(stage))[1]

    def save(self, stage: str, fingerprint: str, state: State) -> None:
        """Record a finished stage."""
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        metadata = {"fingerprint": fingerprint, "notes": json.dumps(state.notes)}
        metadata["sha256"] = tensors_digest(contiguous, metadata.values())
        self.write(self._state(stage), lambda part: save_file(contiguous, part, metadata))
        if not self._begun:
            self._begun = True
            self.drop_earlier(states=self._overwrite)

    def checkpoint(self, stage: str, fingerprint: str, *, keep: bool) -> Path:
        """Where a stage may keep its half-finished work; earlier ones of other inputs, or all, are removed."""
        name = f"state/{stage}-{fingerprint}.checkpoint"
        earlier = [n for n in self.made if n.startswith(f"state/{stage}-") and n.endswith(".checkpoint")]
        self.remove(n for n in earlier if not (keep and n == name))
        return self.claim(name)

    def discard(self, path: Path) -> None:
        """Remove a checkpoint that has served."""
        name = path.relative_to(self.path).as_posix()
        self.produced.pop(name, None)
        self.remove([name])

    def claim(self, name: str) -> Path:
        """See `OutputFolder.claim`; the file counts as this run's."""
        path = super().claim(name)
        self.produced[name] = None
        return path

    def write_json(self, name: str, content: dict[str, Any]) -> Path:
        """Write a JSON file."""
        return self.write(name, lambda part: part.write_text(json.dumps(content, indent=1, default=str)))

    def clear(self, name: str) -> None:
        """Empty a sub-folder of the files that a run has made in it."""
        below = self.below(name)
        for file in below:
            self.produced.pop(file, None)
        self.remove(below)

    def drop_earlier(self, *, states: bool) -> None:
        """Remove what an earlier run has left and this one has not made; with `states`, what it could reuse, too."""
        # What speaks of the run goes first: nothing is left then that tells of files that are gone.
        order = {"run.json": 0, "report.html": 1, "fit.json": 0}
        rest = [n for n in self.made if n not in self.produced and not n.endswith("/")]
        gone = [n for n in rest if states or not n.startswith("state/")]
        self.remove(sorted(gone, key=lambda n: (order.get(n, 2), n)))

    def files(self) -> list[str]:
        """What a run has left here, relative paths, folders with their number of files."""
        found = []
        for name in MADE_BY_A_RUN:
            count = sum(1 for n in self.below(name) if self.is_ours(n) and not n.endswith("/"))
            if count and name != "state":
                found.append(f"{name}/ ({count} files)")
            elif self.is_ours(name):
                found.append(name)
        return found

    def _state(self, stage: str) -> str:
        """Where a stage's record lies, relative to the folder."""
        return f"state/{stage}.safetensors"


def _read_state(path: Path) -> tuple[State | None, str | None]:
    """A state and what it was made from; (None, None) where there is none, or it is not as it was written."""
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
