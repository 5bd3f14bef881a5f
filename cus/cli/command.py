"""The frame around every command: its parser, and one way out for whatever happens inside."""

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
    """The dataclass of a command's options."""

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
    """Read the options, work, and turn whatever happens into one line and an exit status.

    Args:
        name: of the command.
        options: the dataclass that the arguments are read into, see `cus.options`.
        work: does what the options ask for, and returns the exit status; None is 0.
        argv: the arguments; None takes those of the process, which then ends with the command.
        epilog: examples and notes, which end the help.
        over: what the arguments stand over, such as a config file that they name; None: the defaults of the fields. It
            gets the options as they are over the defaults; switches of what it returns are as if not given.
        memory_advice: what to do, in the command's options, where memory runs out.

    Returns:
        0 done, 1 a bug of ours, 2 what the user can mend, 3 finished but not to be trusted, 130 interrupted, 143
        terminated, 141 nobody reads the output.
    """

    def run() -> int | None:
        from cus.cli.reading import read

        asked = read(options, given, name, epilog)
        if over is not None:
            asked = read(options, given, name, epilog, over(asked))
        from cus.cli.console import ConsoleProgress

        return work(asked, ConsoleProgress(quiet=asked.common.quiet, as_json=asked.common.json, started=started))

    # Not since the process was started, which may have been a shell that this command replaced.
    started = time.perf_counter()
    given = sys.argv[1:] if argv is None else argv
    telling = Telling(name, memory_advice, as_json="--json" in given, debug=debug_asked(given))
    return guarded(run, telling, final=argv is None)


@dataclass(frozen=True)
class Telling:
    """How a command says what ended it.

    Attributes:
        name: of the command.
        memory_advice: what to do where memory runs out.
        as_json: also as a line of JSON on standard output.
        debug: also the traceback.
    """

    name: str
    memory_advice: str = MEMORY_ADVICE
    as_json: bool = False
    debug: bool = False


def debug_asked(arguments: Sequence[str]) -> bool:
    """Whether tracebacks are to be shown."""
    return "--debug" in arguments or os.environ.get("CUS_DEBUG", "0") not in ("", "0")


def guarded(work: Callable[[], int | None], telling: Telling, *, final: bool) -> int:
    """Call `work` and return its exit status, see `run_command`. With `final` the process is about to end."""
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
            # Of the last words themselves, as where the output is a file on a full disk.
            _close_streams()
            status = failures.INPUT if error.errno is not None else failures.OUR_BUG
        except KeyboardInterrupt as error:
            status = exit_status(error)
    if final and status >= 128:
        # Work of other threads that nobody waits for any more.
        exit_soon(status)
    return status


def _outcome(work: Callable[[], int | None], interrupts: Interrupts, telling: Telling) -> int:
    # Threads that spin while they wait make torch several times slower as soon as another program wants the cores. Read
    # when the OpenMP runtime starts, that is with the first import of torch, which is inside.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return work() or failures.DONE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else failures.DONE
    except BrokenPipeError:
        raise
    except BaseException as error:
        if interrupts.received is not None and not isinstance(error, KeyboardInterrupt):
            # A library has turned the interrupt into an error of its own.
            error = interruption(interrupts.received)
        return _tell(error, telling)


def _tell(error: BaseException, telling: Telling) -> int:
    """Say what ended the command; its exit status."""
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
    """A process may be started with its streams closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it lives as long as the process


def _flush() -> None:
    """Here rather than at the end of the interpreter, which would report a broken pipe in lines of its own."""
    sys.stdout.flush()
    sys.stderr.flush()


def _close_streams() -> None:
    """Send what is still buffered for streams that cannot be written to nowhere."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
