"""The cache of a run's stages: what is saved, what is loaded again, and what is told of it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cus.cameras import PhotoSet
from cus.inference.folder import RunFolder, State
from cus.inference.photographs import Batch, Inputs
from cus.inference.recorded import frames_from, frames_state
from cus.inference.stages import Results, StageCache


class Told:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, bool]] = []

    def start(self, label: str, reused: bool) -> Any:
        self.started.append((label, reused))
        return lambda done, total, state="": None

    def finish(self, label: str, seconds: float) -> None:
        pass


def cache_in(path: Path, resume: bool = False, made_from: str = "a") -> StageCache:
    folder = RunFolder(path)
    folder.prepare(resume=resume, overwrite=False)
    pictures = PhotoSet(torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool), torch.ones(2, 2))
    results = Results(Inputs((), None), Batch(pictures, None, torch.ones(2), torch.full((2, 2), 4.0)))
    cache = StageCache(folder, resume, torch.device("cpu"), Told(), results)
    cache.add("frames", (made_from,), frames_state, frames_from)
    return cache


def halves(size: int, on_progress: Any = None) -> Tensor:
    assert on_progress is not None
    return torch.full((size, 3, 4, 4), 0.5)


def refuse(*_: Any, **__: Any) -> Tensor:
    raise AssertionError("the stage is in the folder")


def test_a_stage_is_computed_once_and_loaded_by_a_resumed_run(tmp_path):
    first = cache_in(tmp_path)
    made = first("frames", halves, 2)
    first.folder.close()
    again = cache_in(tmp_path, resume=True)
    assert torch.equal(again("frames", refuse, 2), made)
    assert (first.results.reused, again.results.reused) == ([], ["frames"])
    assert again.progress.started == [("Frames, final pass", True)]  # type: ignore[attr-defined]
    again.folder.close()


def test_a_stage_of_other_inputs_is_computed_anew(tmp_path):
    first = cache_in(tmp_path)
    first("frames", halves, 2)
    first.folder.close()
    other = cache_in(tmp_path, resume=True, made_from="b")
    assert (
        len(other("frames", halves, 3)) == 3
        and other.results.reused == []
        and other.key("frames") != first.key("frames")
    )
    other.folder.close()


def test_what_was_not_added_is_computed_without_a_trace(tmp_path):
    cache = cache_in(tmp_path)
    assert cache("agreement", lambda value: value + 1, 2) == 3
    assert cache.results.seconds == {} and not (tmp_path / "state").exists()
    cache.folder.close()


def test_the_files_of_a_stage_are_written_from_what_was_saved(tmp_path):
    cache, seen = cache_in(tmp_path), []

    def then(value: Tensor, state: State) -> None:
        seen.append((value, state))

    cache.add("coarse", (), lambda frames: State({"frames": frames.half()}, ("a note",)), frames_from, then)
    value = cache("coarse", halves, 1)
    assert value.dtype == torch.float16 and seen[0][0] is value and cache.results.notes == ["a note"]
    assert cache.results.seconds["coarse"] >= 0 and (tmp_path / "state" / "coarse.safetensors").is_file()
    cache.folder.close()
