"""The names of a run's stages, and interfaces for reporting their progress."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

STAGES = {
    "scene": "Cameras and depth",
    "conditioning": "Conditioning images",
    "coarse": "Frames, first pass",
    "structure": "Global structure",
    "frames": "Frames, final pass",
    "cloud": "Point cloud",
    "splat": "Gaussian scene",
    "enlarged": "Super-resolution",
    "report": "Report",
}


class OnProgress(Protocol):
    """Called with (steps done, total steps) and, optionally, additional text."""

    def __call__(self, done: int, total: int, state: str = "", /) -> None: ...  # noqa: D102


class Progress(Protocol):
    """Shows a run's progress to the user."""

    def start(self, label: str, reused: bool) -> OnProgress:
        """Start a stage; the returned function is called with (done, total) or (done, total, text)."""
        ...

    def finish(self, label: str, seconds: float) -> None:
        """End the most recently started stage."""
        ...


@contextmanager
def timed_stage(progress: Progress, label: str, name: str, seconds: dict[str, float]) -> Iterator[OnProgress]:
    """Show a stage under its label; its time goes to `seconds` under its name."""
    started = time.perf_counter()
    yield progress.start(label, False)
    seconds[name] = time.perf_counter() - started
    progress.finish(label, seconds[name])
