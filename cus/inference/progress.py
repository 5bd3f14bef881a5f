"""How a stage tells how far it is."""

from typing import Protocol


class OnProgress(Protocol):
    """Called with steps done, steps in all, and where there is more to say than that, a few words."""

    def __call__(self, done: int, total: int, state: str = "", /) -> None: ...  # noqa: D102
