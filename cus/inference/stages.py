"""The cache of a run's stages: what its folder holds of them is read, the rest is made and recorded there."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

import cus
from cus.inference.folder import RunFolder, State
from cus.inference.labels import STAGES
from cus.inference.progress import Progress
from cus.inference.results import Results
from cus.inference.settings import fingerprint

T = TypeVar("T")


@dataclass(frozen=True)
class _Kept(Generic[T]):
    key: str
    record: Callable[[T], State]
    read: Callable[[State], T]
    then: Callable[[T, State], None] | None


@dataclass
class StageCache:
    """The `each` of a run, see `cus.closeup.Each`.

    Attributes:
        folder: of the run, prepared.
        resume: take what the folder holds of stages that were made from the same.
        device: where tensors that are read belong.
        progress: is told of each stage.
        results: gets the notes and the seconds of each stage, and the names of those that were read.
    """

    folder: RunFolder
    resume: bool
    device: torch.device
    progress: Progress
    results: Results
    _kept: dict[str, _Kept[Any]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        made_from: Sequence[Any],
        record: Callable[[T], State],
        read: Callable[[State], T],
        then: Callable[[T, State], None] | None = None,
    ) -> None:
        """Keep what a stage makes; a stage that was not added is made whenever it is asked for.

        Args:
            name: of `STAGES`.
            made_from: JSON-like values that decide what the stage makes.
            record: turns what it makes into what the folder holds.
            read: turns that back.
            then: called with both once the stage is finished, to write what people look at.
        """
        self._kept[name] = _Kept(fingerprint([cus.__version__, name, *made_from]), record, read, then)

    def key(self, name: str) -> str:
        """A fingerprint of what a stage that was added is made from."""
        return self._kept[name].key

    def __call__(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """What `function(*arguments)` gives, read or made; when made, as it will be read."""
        if name not in self._kept:
            return function(*arguments)
        kept, label, results = self._kept[name], STAGES[name], self.results
        started = time.perf_counter()
        state = self.folder.load(name, kept.key) if self.resume else None
        if name in self.folder.damaged:
            results.notes.append(f"{label}: what the folder held of it was damaged, so it was done again")
        on_progress = self.progress.start(label, state is not None)
        if state is None:
            state = kept.record(function(*arguments, on_progress=on_progress))
            self.folder.save(name, kept.key, state)
        else:
            results.reused.append(name)
        results.notes.extend(state.notes)
        results.seconds[name] = time.perf_counter() - started
        self.progress.finish(label, results.seconds[name])
        state = State({key: tensor.to(self.device) for key, tensor in state.tensors.items()}, state.notes)
        value = kept.read(state)
        if kept.then is not None:
            kept.then(value, state)
        return value
