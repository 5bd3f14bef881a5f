"""The frame around every command: parses its options, and handles everything that may go wrong inside."""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from cus.cli import failures
from cus.runtime import Interrupts, exit_soon, exit_status, interruption

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.cli.reading import Common

MEMORY_ADVICE = "give it smaller or fewer pictures, or close other programs"


class CommandOptions(Protocol):
    """A dataclass of a command's options."""

    @property
    def common(self) -> "Common": ...  # noqa: D102


T = TypeVar("T", bound=CommandOptions)


def run_command(
    name: str,
    options: type[T],
    work: Callable[[T, "ConsoleProgress"], int | None],
    argv: Sequence[str] | None,
    *,
    epilog: str,
    memory_advice: str = MEMORY_ADVICE,
    over: Callable[[T], T] | None = None,
) -> int:
    """Read the options, do the work, and turn any failure into one line and an exit status.

    Args:
        name: name of the command.
        options: dataclass of the options (`cus.options`).
        work: does the work for the options and returns the exit status; None is 0.
        argv: arguments; None takes those of the process, which then ends with the command.
        epilog: examples and notes at the end of the help.
        over: returns the defaults that the arguments override, e.g. those of a config file named in them; None: the
            defaults of the fields. It receives the parsed options; switches in its result count as not given.
        memory_advice: what to do if memory runs out, in terms of the command's options.

    Returns:
        0 done, 1 a bug of ours, 2 an error that the user can fix, 3 finished but not to be trusted, 130 interrupted,
        143 terminated, 141 the reader of the output is gone.
    """

    def run() -> int | None:
        from cus.cli.reading import read

        asked = read(options, given, name, epilog)
        if over is not None:
            asked = read(options, given, name, epilog, over(asked))
        from cus.cli.console import ConsoleProgress

        progress = ConsoleProgress(quiet=asked.common.quiet, as_json=asked.common.json, started=started)
        if not asked.common.offline:
            return work(asked, progress)
        from cus.hub.errors import offline

        with offline():
            return work(asked, progress)

    # Not the start of the process, which may have been a shell that this command replaced.
    started = time.perf_counter()
    given = sys.argv[1:] if argv is None else argv
    telling = Telling(name, memory_advice, as_json="--json" in given, debug=debug_asked(given))
    return guarded(run, telling, final=argv is None)


@dataclass(frozen=True)
class Telling:
    """How a command reports what ended it.

    Attributes:
        name: name of the command.
        memory_advice: what to do if memory runs out.
        as_json: whether to report it also as a line of JSON on standard output.
        debug: whether to show the traceback.
    """

    name: str
    memory_advice: str = MEMORY_ADVICE
    as_json: bool = False
    debug: bool = False


def debug_asked(arguments: Sequence[str]) -> bool:
    """Whether to show tracebacks."""
    return "--debug" in arguments or os.environ.get("CUS_DEBUG", "0") not in ("", "0")


def guarded(work: Callable[[], int | None], telling: Telling, *, final: bool) -> int:
    """Call `work` and return its exit status (`run_command`). With `final` the process is about to end."""
    _open_streams()
    interrupts = Interrupts(final=final)
    with interrupts:
        try:
            status = _outcome(work, interrupts, telling)
            _flush()
        except BrokenPipeError:
            _close_streams()
            status = failures.BROKEN_PIPE
        except OSError as error:
            # An error of the final output itself, e.g. if the output is a file on a full disk.
            _close_streams()
            status = failures.INPUT if error.errno is not None else failures.OUR_BUG
        except KeyboardInterrupt as error:
            status = exit_status(error)
    if final and status >= 128:
        # Work of other threads is no longer needed.
        exit_soon(status)
    return status


def _outcome(work: Callable[[], int | None], interrupts: Interrupts, telling: Telling) -> int:
    # Threads that spin while they wait make torch several times slower as soon as another program needs the cores. The
    # setting is read when the OpenMP runtime starts, i.e. at the first import of torch, which is inside.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return work() or failures.DONE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else failures.DONE
    except BrokenPipeError:
        raise
    except BaseException as error:
        if interrupts.received is not None and not isinstance(error, KeyboardInterrupt):
            # A library has turned the interrupt into its own error.
            error = interruption(interrupts.received)
        return _tell(error, telling)


def _tell(error: BaseException, telling: Telling) -> int:
    """Report what ended the command; returns its exit status."""
    from cus.cli.console import make_console, printable

    if isinstance(error, KeyboardInterrupt):
        status, lead, message = exit_status(error), "interrupted", "; ".join(getattr(error, "__notes__", []))
    elif (explained := failures.explain(error, telling.memory_advice)) is not None:
        status, lead, message = failures.INPUT, "error", explained
    else:
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        status, lead = failures.OUR_BUG, "internal error"
        message = f"{said}; {failures.record(error, telling.name)}; please report it"
    if telling.debug:
        traceback.print_exception(error, file=sys.stderr)
    console = make_console()
    style = "yellow" if status >= 128 else "bold red"
    console.print(f"{lead}:" if message else lead, style=style, end=" " if message else "\n", markup=False, emoji=False)
    if message:
        console.print(printable(message), markup=False, emoji=False)
    if telling.as_json:
        print(json.dumps({"event": "end", "status": status, "error": message or lead}), flush=True)
    return status


def _open_streams() -> None:
    """Open streams that were closed when the process started."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it lives as long as the process


def _flush() -> None:
    """Flush here: at its exit the interpreter would report a broken pipe in its own lines."""
    sys.stdout.flush()
    sys.stderr.flush()


def _close_streams() -> None:
    """Discard buffered output of streams that cannot be written to."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
