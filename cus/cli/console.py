"""What the commands share: progress bars, one-line errors, exit codes."""

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cus.errors import InputError

if TYPE_CHECKING:
    from cus.inference.progress import OnProgress


def run_cli(command: Callable[[], None]) -> int:
    """Run a command and turn what went wrong into one line and an exit status."""
    # Threads that spin while they wait make torch several times slower as soon as another program wants the cores. Read
    # when the OpenMP runtime starts, that is with the first import of torch, which is below.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        command()
    except InputError as error:
        errors.print("[bold red]error:[/] ", end="")
        errors.print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return 0


def describe_duration(seconds: float) -> str:
    """`83.4` -> `1 min 23 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


class ConsoleProgress:
    """A progress bar a stage on a terminal; one line a stage where the output is a file."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "ConsoleProgress":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.bars.console.print(text)

    def start(self, label: str, reused: bool) -> "OnProgress":
        """Begin a stage; the returned function is called with (done, total) or (done, total, words)."""
        task = self.bars.add_task(label, total=1, state="reused" if reused else "")
        self.task = task

        def report(done: int, total: int, state: str = "", /) -> None:
            self.bars.update(task, completed=done, total=max(total, 1))
            if state:
                self.bars.update(task, state=state)

        return report

    def finish(self, label: str, seconds: float) -> None:
        """End the stage that was begun last."""
        if self.task is not None:
            total = self.bars.tasks[self.task].total or 1
            self.bars.update(self.task, completed=total)
            self.bars.stop_task(self.task)
        if not self.console.is_terminal:
            print(f"{label:<22} {describe_duration(seconds)}", file=sys.stderr, flush=True)
