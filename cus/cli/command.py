"""The frame around every command: its parser, and one way out for whatever happens inside."""

import argparse
import contextlib
import difflib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import cus
from cus.cli import failures
from cus.errors import InputError
from cus.runtime import Interrupts, exit_soon, exit_status, interruption

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.cli.reading import Common

MEMORY_ADVICE = "give it smaller or fewer pictures, or close other programs"


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors of one line, with the options that every command has.

    Args:
        name: of the command.
        description: what it does.
        epilog: examples and notes, shown as they are; the exit statuses follow.
    """

    def __init__(self, name: str, description: str, epilog: str) -> None:
        super().__init__(
            name,
            description=description,
            epilog=f"{epilog}\n{failures.STATUSES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--version", action="version", version=f"closeupshot {cus.__version__}")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error, as CUS_DEBUG=1 does")
        self.add_argument(
            "--print-completion",
            action=_PrintCompletion,
            default=argparse.SUPPRESS,
            metavar="SHELL",
            help="print what makes bash, zsh, fish or tcsh complete this command's options, and exit",
        )

    def error(self, message: str) -> Any:
        """Raise InputError with the parser's message, and the nearest option for one that does not exist."""
        raise InputError(f"{_plain(message)}{self._nearest(message)}; {self.prog} --help lists the options")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Unlike argparse's own, let a broken pipe and a full disk be known."""
        (file or sys.stderr).write(message)

    def _nearest(self, message: str) -> str:
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        if not message.startswith("unrecognized arguments") or not unknown:
            return ""
        near = difflib.get_close_matches(unknown[0], self._option_string_actions, n=1, cutoff=0.6)
        return f" (did you mean {near[0]}?)" if near else ""


def _plain(message: str) -> str:
    """Argparse's words, where a newcomer would not understand them."""
    for theirs, ours in (
        ("invalid int value:", "expected a whole number, got"),
        ("invalid float value:", "expected a number, got"),
        ("unrecognized arguments:", "unknown arguments:"),
        ("the following arguments are required:", "missing:"),
    ):
        message = message.replace(theirs, ours)
    return message


class _PrintCompletion(argparse.Action):
    """Prints a completion script; files and folders are completed where an option takes one."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        from pathlib import Path

        try:
            import shtab
        except ImportError as error:
            raise InputError("completion needs shtab, which is not installed: pip install shtab") from error
        if values not in shtab.SUPPORTED_SHELLS:
            raise InputError(f"{option} must be one of {', '.join(shtab.SUPPORTED_SHELLS)}, got {values!r}")
        for action in parser._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
        print(shtab.complete(parser, values))
        parser.exit()


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
) -> int:
    """Read the options, work, and turn whatever happens into one line and an exit status.

    Args:
        name: of the command.
        options: the dataclass that the arguments are read into, see `cus.options`.
        work: does what the options ask for, and returns the exit status; None is 0.
        argv: the arguments; None takes those of the process, which then ends with the command.
        epilog: examples and notes, which end the help.
        memory_advice: what to do, in the command's options, where memory runs out.

    Returns:
        0 done, 1 a bug of ours, 2 what the user can mend, 3 finished but not to be trusted, 130 interrupted, 143
        terminated, 141 nobody reads the output.
    """

    def run() -> int | None:
        from cus.cli.reading import read

        asked = read(options, given, name, epilog)
        from cus.cli.console import ConsoleProgress

        return work(asked, ConsoleProgress(quiet=asked.common.quiet, as_json=asked.common.json, started=started))

    # Not since the process was started, which may have been a shell that this command replaced.
    started = time.perf_counter()
    given = sys.argv[1:] if argv is None else argv
    telling = Telling(name, memory_advice, as_json="--json" in given, debug=debug_asked(given))
    return guarded(run, telling, final=argv is None)


def run_parser(
    build_parser: Callable[[], argparse.ArgumentParser],
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
    *,
    memory_advice: str = MEMORY_ADVICE,
) -> int:
    """`run_command` for a command whose options are still read by argparse.

    Args:
        build_parser: makes the command's parser.
        work: does what the parsed options ask for, and returns the exit status; None is 0.
        argv: the arguments; None takes those of the process, which then ends with the command.
        memory_advice: what to do, in the command's options, where memory runs out.

    Returns:
        0 done, 1 a bug of ours, 2 what the user can mend, 3 finished but not to be trusted, 130 interrupted, 143
        terminated, 141 nobody reads the output.
    """

    def run() -> int | None:
        arguments = build_parser().parse_args(argv)
        arguments.started = started
        return work(arguments)

    # Not since the process was started, which may have been a shell that this command replaced.
    started = time.perf_counter()
    given = sys.argv[1:] if argv is None else argv
    name = build_parser().prog
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
