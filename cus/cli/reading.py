"""Parses a command line into a dataclass with tyro, with one-line error messages."""

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import tyro
from tyro.conf import DisallowNone, HelptextFromCommentsOff, OmitArgPrefixes, Positional
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

import cus
from cus.cli.failures import STATUSES
from cus.errors import InputError, shown
from cus.limits import check_options
from cus.options import Flag, option

SHELLS = ("bash", "zsh", "fish", "tcsh")
T = TypeVar("T")


@dataclass(frozen=True)
class Common:
    """Options of every command.

    Attributes:
        quiet: print errors only
        json: print one JSON object per line on standard output: one per stage, and one at the end; see docs/commands.md
        offline: use only what is on this machine: ask nothing of the Hugging Face Hub, as with HF_HUB_OFFLINE=1
        debug: show the traceback of an error, as CUS_DEBUG=1 does
        version: print the version and exit
        print_completion: print a bash, zsh, fish or tcsh completion script for this command, and exit
    """

    quiet: Flag = False
    json: Flag = False
    offline: Flag = False
    debug: Flag = False
    version: Flag = False
    print_completion: Annotated[str | None, option("SHELL")] = None


@dataclass(frozen=True)
class Earlier:
    """What to do with an earlier result.

    Attributes:
        resume: reuse what an interrupted run with the same options has finished in --out
        overwrite: replace an earlier result in --out
    """

    resume: Flag = False
    overwrite: Flag = False

    def __post_init__(self) -> None:
        """Refuse both at once. Raises InputError."""
        if self.resume and self.overwrite:
            raise InputError("give --resume or --overwrite, not both")


def read(kind: type[T], arguments: Sequence[str], name: str, epilog: str, default: T | None = None) -> T:
    """Parse the arguments of a command into an instance of `kind`, a dataclass.

    Args:
        kind: dataclass whose docstring describes the command and whose fields are the options (`cus.options`).
        arguments: arguments without the command's name.
        name: name of the command.
        epilog: examples and notes printed after the help.
        default: defaults that the arguments override; None: the defaults of the fields.

    Raises:
        InputError: unknown options (the nearest one is named), missing ones, values of a wrong type or out of range.
        SystemExit: after the output of --help, --version or --print-completion.
    """
    if "--version" in arguments:
        print(f"closeupshot {cus.__version__}")
        raise SystemExit(0)
    if (shell := _completion_asked(arguments)) is not None:
        if shell not in SHELLS:
            raise InputError(f"--print-completion must be one of {', '.join(SHELLS)}, got {shell!r}")
        _parse(kind, ["--tyro-write-completion", shell, "-"], name)
    if "-h" in arguments or "--help" in arguments:
        with contextlib.suppress(SystemExit):
            _parse(kind, ["--help"], name)
        print(f"\n{epilog}\n{STATUSES}", end="")
        raise SystemExit(0)
    refused = io.StringIO()
    try:
        with _written_to(refused):
            settings, unknown = _parse(kind, arguments, name, default)
    except SystemExit:
        _refuse_unknown(kind, arguments, name)
        raise InputError(f"{_sentence(refused.getvalue())}; {name} --help lists the options") from None
    if unknown:
        _refuse_unknown(kind, arguments, name)
        raise InputError(f"unknown arguments: {' '.join(unknown)}; {name} --help lists the options")
    check_options(settings)
    return settings


def _parse(kind: type[T], arguments: Sequence[str], name: str, default: T | None = None) -> tuple[T, list[str]]:
    return tyro.cli(
        kind,
        prog=name,
        args=arguments,
        default=tyro.MISSING_NONPROP if default is None else default,
        return_unknown_args=True,
        config=(DisallowNone, OmitArgPrefixes, HelptextFromCommentsOff),
        registry=_REGISTRY,
    )


def _completion_asked(arguments: Sequence[str]) -> str | None:
    """The shell given to --print-completion; None without it."""
    for place, word in enumerate(arguments):
        given, equals, shell = word.partition("=")
        if given == "--print-completion":
            return shell if equals else next(iter(arguments[place + 1 :]), "")
    return None


@contextlib.contextmanager
def _written_to(stream: io.StringIO) -> Iterator[None]:
    """Redirect tyro's output to a stream, in plain characters and without line breaks."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _refuse_unknown(kind: type, arguments: Sequence[str], name: str) -> None:
    """Raise InputError for the first unknown option, with the nearest existing one."""
    known = _options(kind, name)
    for word in arguments:
        given = word.partition("=")[0]
        if word == "--":
            return
        if given.startswith("--") and given.replace("_", "-") not in known:
            near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise InputError(f"unknown option {given}{meant}; {name} --help lists the options")


def _options(kind: type, name: str) -> list[str]:
    """All options of a command."""
    told = io.StringIO()
    with _written_to(told), contextlib.suppress(SystemExit):
        _parse(kind, ["--help"], name)
    return re.findall(r"(?<![\w-])--[a-z][\w-]*", told.getvalue())


# tyro's messages, and their replacements.
_PLAIN = (
    (r"Error parsing (.+?): ", r"argument \1: "),
    (r"Missing value for argument '(--.+?)'\. .*", r"argument \1: expected a value"),
    (r"Missing value for argument '(.+?)'\. .*", r"missing: \1"),
)
_CHOICE = re.compile(r"invalid choice '(.*)' for argument '(.+?)'\. Expected one of \((.*?),?\)\.")


def _sentence(refusal: str) -> str:
    """Tyro's text under a title, up to the next rule."""
    lines = [line[2:].rstrip() for line in refusal.splitlines()[2:]]
    rule = next((place for place, line in enumerate(lines) if re.fullmatch(r"-+", line)), len(lines))
    if lines and lines[0].startswith("Missing from "):
        # Option names are indented by four columns, their help by eight.
        named = (re.match(r" {4}(\S+)", line) for line in lines[1:rule])
        return "missing: " + ", ".join(name[1] for name in named if name)
    sentence = " ".join(lines[:rule]).strip()
    for theirs, ours in _PLAIN:
        sentence = re.sub(theirs, ours, sentence)
    if found := _CHOICE.fullmatch(sentence):
        got, name, choices = found.groups()
        return f"{name} must be one of {choices.replace(chr(39), '')}, got {got!r:.60}"
    return sentence


_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number, with expectations in words that newcomers understand."""
    if info.type not in (int, float):
        return None
    kind, words, unit = (int, "a whole number", "N") if info.type is int else (float, "a number", "X")

    def parse(given: list[str]) -> float:
        try:
            return kind(given[0])
        except ValueError:
            raise ValueError(f"expected {words}, got {shown(given[0])}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=unit,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [f"{value:g}" if kind is float else str(value)],
    )


@_REGISTRY.primitive_rule
def _several(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """One or more values: an option whose values are missing gets a clear message."""
    container = get_origin(info.type)
    if container is not list and not (container is tuple and get_args(info.type)[1:] == (...,)):
        return None
    inner = PrimitiveTypeInfo.make(get_args(info.type)[0], info.markers)
    spec = ConstructorRegistry.get_primitive_spec(inner)
    assert isinstance(spec, PrimitiveConstructorSpec)

    def parse(given: list[str]) -> Sequence[Any]:
        if not given and Positional not in info.markers:
            raise ValueError("expected at least one value")
        return container(spec.instance_from_str([word]) for word in given)

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{spec.metavar} [{spec.metavar} ...]",
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, container),
        str_from_instance=lambda value: [word for item in value for word in spec.str_from_instance(item)],
    )


@_REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An optional value: None is a default without a word; tyro would list it among the choices."""
    members = [member for member in get_args(info.type) if member is not NoneType]
    if get_origin(info.type) not in (Union, UnionType) or len(members) != 1:
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(members[0], info.markers))
    assert isinstance(spec, PrimitiveConstructorSpec)
    written = spec.str_from_instance
    return replace(spec, str_from_instance=lambda value: ["None"] if value is None else written(value))
