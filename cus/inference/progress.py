"""How stages tell how far they are."""

from typing import Protocol


class OnProgress(Protocol):
    """Called with steps done, steps in all, and where there is more to say than that, a few words."""

    def __call__(self, done: int, total: int, state: str = "", /) -> None: ...  # noqa: D102


class Progress(Protocol):
    """What shows a run to a person."""

    def start(self, label: str, reused: bool) -> OnProgress:
        """Begin a stage; the returned function is called with (done, total) or (done, total, words)."""
        ...

    def finish(self, label: str, seconds: float) -> None:
        """End the stage that was begun last."""
        ...
