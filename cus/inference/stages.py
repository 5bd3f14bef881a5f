"""The results of a run's stages, and their cache: finished ones are loaded from its folder, the others are
computed and saved there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

import cus
from cus.cameras import Cameras
from cus.conditioning import Conditioning
from cus.inference.fitting import Splat
from cus.inference.folder import RunFolder, State
from cus.inference.photographs import Batch, Inputs
from cus.inference.progress import STAGES, Progress
from cus.inference.settings import fingerprint
from cus.inference.verdict import Verdict
from cus.scene import SceneEstimate

__all__ = ["STAGES", "Results"]
T = TypeVar("T")


@dataclass
class Results:
    """The results of a run so far; None for stages not reached yet. `antialiased` says how the scene was fitted.

    `verdict` is the expected quality of the close-up, `plain_crop` [H, W, 3] uint8 the photograph's own picture of it.
    `loading` is the time in seconds before the first stage, `seconds` that of each stage.
    """

    inputs: Inputs
    batch: Batch
    scene: SceneEstimate | None = None
    cameras: Cameras | None = None
    conditioning: Conditioning | None = None
    frames: Tensor | None = None
    splat: Splat | None = None
    antialiased: bool = True
    verdict: Verdict | None = None
    plain_crop: np.ndarray | None = None
    loading: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def keep(self, views: Sequence[int]) -> None:
        """Keep only these photographs: those that the scene estimate could place."""
        if len(views) < len(self.inputs.photos):
            self.inputs, self.batch = self.inputs.select(views), self.batch.select(views)


@dataclass(frozen=True)
class _Kept(Generic[T]):
    key: str
    record: Callable[[T], State]
    read: Callable[[State], T]
    then: Callable[[T, State], None] | None


@dataclass
class StageCache:
    """The `each` (`cus.closeup.Each`) of a run.

    Attributes:
        folder: folder of the run, prepared.
        resume: whether to reuse finished stages whose inputs are the same.
        device: device of loaded tensors.
        progress: shows each stage.
        results: collects the notes and seconds of each stage, and the names of the reused ones.
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
        """Cache the result of a stage. A stage that is not added is computed whenever it is requested.

        Args:
            name: name of the stage in `STAGES`.
            made_from: JSON-like values that determine the result.
            record: converts the result for saving.
            read: restores the result from a saved one.
            then: called with both when the stage is finished, to write files for users.
        """
        self._kept[name] = _Kept(fingerprint([cus.__version__, name, *made_from]), record, read, then)

    def key(self, name: str) -> str:
        """Fingerprint of the inputs of an added stage."""
        return self._kept[name].key

    def __call__(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """The result of `function(*arguments)`: loaded, or computed and returned as if loaded."""
        if name not in self._kept:
            return function(*arguments)
        kept, label, results = self._kept[name], STAGES[name], self.results
        started = time.perf_counter()
        state = self.folder.load(name, kept.key) if self.resume else None
        if name in self.folder.damaged:
            results.notes.append(f"{label}: its saved result was damaged, so it was computed again")
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
