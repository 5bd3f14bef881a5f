"""Interfaces for reporting progress."""

from typing import Protocol


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
