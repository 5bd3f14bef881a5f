"""Console output of the commands: stages with progress, notes, and the last line; for people, or as lines of JSON."""

import json
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from cus.inference.progress import STAGES

if TYPE_CHECKING:
    from cus.inference.progress import OnProgress

# Interval between two lines on one stage if the output is not a terminal; it grows with the stage's duration.
_SECONDS_A_LINE, _SHARE_OF_ELAPSED = 10.0, 0.05
_LEAST_DONE = 0.02
# Progress reported within the first seconds of a stage was made before, by a run that is now resumed.
_AT_ONCE = 1.0
LOADING = "Loading"


class _Console(Console):
    """A console that leaves broken pipes to the command."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(*, quiet: bool = False) -> Console:
    """A console on standard error without markup, wrapping, or colours for numbers and paths."""
    return _Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False, quiet=quiet)


def printable(text: str) -> str:
    """The text with control characters, which may occur in file names, written as escapes."""
    return "".join(c.encode("unicode_escape").decode() if _is_control(c) else c for c in text)


def _is_control(character: str) -> bool:
    category = unicodedata.category(character)
    return character != "\n" and (category[0] == "C" or category in ("Zl", "Zp"))


def describe_duration(seconds: float) -> str:
    """`83.4` -> `1 min 23 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def describe_size(size: int) -> str:
    """`31_457_280` -> `31 MB`, in units of 1000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 10 * factor else 1}f} {unit}"
    return f"{size} bytes"


class ConsoleProgress:
    """One progress bar per stage on a terminal; lines if the output is a file.

    Args:
        quiet: print nothing on standard error.
        as_json: print all stages and the end as JSON on standard output.
        started: start of the command on the clock of `time.perf_counter`; None: now.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False, started: float | None = None) -> None:
        self.console = make_console(quiet=quiet)
        self.as_json = as_json
        self.started = time.perf_counter() if started is None else started
        self.notes: list[str] = []
        self.bars = Progress(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.lines = None if quiet or self.console.is_terminal else _StageLines(self.console)

    def __enter__(self) -> "ConsoleProgress":
        self.bars.start()
        if self.lines is not None:
            self.lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()
        if self.lines is not None:
            self.lines.stop()

    def say(self, text: str, lead: str = "", style: str = "") -> None:
        """Print a line above the bars: `lead` in its own style, then the plain text."""
        self.bars.console.print(Text.assemble((printable(lead), style), printable(text)))

    def alarm(self, text: str, lead: str) -> None:
        """Print a warning in red, even with --quiet."""
        console = make_console() if self.console.quiet else self.bars.console
        console.print(Text.assemble((printable(lead), "bold red"), printable(text)))

    def note(self, text: str) -> None:
        """Print a note for the user, which is also in the last line of JSON."""
        self.notes.append(text)
        self.say(text, "note: ")

    def start(self, label: str, reused: bool) -> "OnProgress":
        """Start a stage; the returned function is called with (done, total) or (done, total, text)."""
        task = self.bars.add_task(printable(label), total=None, state="reused" if reused else "")
        self.tasks[label] = task
        if self.lines is not None:
            self.lines.begin(label)

        def report(done: int, total: int, state: str = "", /) -> None:
            self.bars.update(task, completed=done, total=max(total, 1))
            if state:
                self.bars.update(task, state=printable(state))
            if self.lines is not None:
                self.lines.update(done / max(total, 1))

        return report

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Show everything before the work, since the start of the command: imports, input checks, reading."""
        self.start(LOADING, False)
        yield
        self.finish(LOADING, time.perf_counter() - self.started)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hide the bars inside, so that the user can be asked something."""
        self.bars.stop()
        try:
            yield
        finally:
            self.bars.start()

    def finish(self, label: str, seconds: float) -> None:
        """End the stage with this name."""
        task = self.tasks.pop(label, None)
        if task is not None:
            total = self.bars.tasks[task].total or 1
            self.bars.update(task, completed=total, total=total)
            self.bars.stop_task(task)
        if self.lines is not None:
            self.lines.end(label, seconds)
        self.emit("stage", stage=_key(label), label=label, seconds=round(seconds, 3))

    def done(self, text: str, *, status: int = 0, **facts: Any) -> None:
        """Print the last line, with the time since the start of the command; JSON also contains `facts`.

        With a nonzero `status` it says "Finished": the output is complete, and the caller says what is wrong with it.
        """
        seconds = time.perf_counter() - self.started
        lead, style = ("Done", "green") if status == 0 else ("Finished", "red")
        self.say(f" in {describe_duration(seconds)}: {text}", lead, style)
        self.emit("end", status=status, seconds=round(seconds, 3), **facts, notes=self.notes)

    def emit(self, event: str, **content: Any) -> None:
        """Print a line of JSON if requested."""
        if self.as_json:
            print(json.dumps({"event": event, **content}, default=str), flush=True)


def _key(label: str) -> str:
    """A stage's name in JSON."""
    keys = {shown: name for name, shown in STAGES.items()}
    return keys.get(label, label.lower().replace(" ", "_"))


class _StageLines:
    """Reports on a long stage at intervals, even if it is silent, and on every stage at its end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.label = ""
        self.share = self.resumed = 0.0
        self.began = self.told = time.monotonic()

    def start(self) -> None:
        threading.Thread(target=self._tell_now_and_then, name="cus-progress", daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def begin(self, label: str) -> None:
        with self.lock:
            self.label, self.share, self.resumed = label, 0.0, 0.0
            if label == LOADING:
                self._print(label, "...")
            self.began = self.told = time.monotonic()

    def update(self, share: float) -> None:
        self.share = share
        if time.monotonic() - self.began < _AT_ONCE:
            self.resumed = share

    def end(self, label: str, seconds: float) -> None:
        with self.lock:
            self._print(label, describe_duration(seconds))
            self.label = ""

    def _tell_now_and_then(self) -> None:
        while not self.stopped.wait(1.0):
            with self.lock:
                now = time.monotonic()
                if self.label and now - self.told >= max(_SECONDS_A_LINE, _SHARE_OF_ELAPSED * (now - self.began)):
                    self.told = now
                    try:
                        self._print(self.label, _so_far(round(now - self.began), self.share, self.resumed))
                    except OSError:
                        # The main thread gets the same error and ends the command.
                        return

    def _print(self, label: str, text: str) -> None:
        self.console.print(f"{printable(label):<22} {text}")


def _so_far(seconds: int, share: float, resumed: float = 0.0) -> str:
    """`40 %, 1 min 3 s so far, about 1 min 35 s left`; `resumed` is the fraction done in an earlier run."""
    text = f"{_whole(seconds)} so far"
    done = share - resumed
    if share >= 1 or done < _LEAST_DONE * (1 - resumed):
        return f"... {text}"
    return f"{100 * share:.0f} %, {text}, about {_whole(round(seconds * (1 - share) / done))} left"


def _whole(seconds: int) -> str:
    return f"{seconds} s" if seconds < 60 else describe_duration(seconds)
