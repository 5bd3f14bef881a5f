"""Parses settings on the command lines of the scripts in train/ and data/, and lists the available ones."""

import json
import re
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

import docstring_parser
import omegaconf

from cus.errors import InputError
from cus.limits import limits_of

LIST = "--settings"
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*\+?=")
_PLAIN = re.compile(r"[\w./+-]+")
_WIDTH, _INDENT = 100, " " * 6


@dataclass(frozen=True)
class Given:
    """The settings given on a command line.

    Attributes:
        file: YAML file of settings; None without one.
        overrides: settings as `name=value`.
    """

    file: str | None
    overrides: list[str]


def spelled_out(kind: type, arguments: Sequence[str]) -> Given:
    """Parse `[config.yaml] [name=value ...]`; also accepts `--config FILE` and `--name value ...`.

    A name is that of a field, dotted inside groups (`--loop.steps 500`); hyphens stand for underscores, several values
    make a list, and an option without a value is true (`--dry-run`).

    Args:
        kind: dataclass of the settings.
        arguments: arguments of the script.

    Raises:
        InputError: an unknown option, or more than one file.
    """
    files: list[str] = []
    overrides: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            (overrides if _OVERRIDE.match(word) else files).append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise InputError(f"unknown option {word!r}; settings are given as name=value or --name value, see --help")
        values = [value] if equals else list(_values(words))
        if name == "config":
            if len(values) != 1:
                raise InputError("--config takes one file")
            files += values
        else:
            overrides.append(_override(kind, name.replace("-", "_"), values))
    if len(files) > 1:
        raise InputError(f"expected at most one config file, got {' '.join(files)}")
    return Given(files[0] if files else None, overrides)


def _values(words: list[str]) -> Iterator[str]:
    """Take an option's values from the words after it."""
    while words and not _OVERRIDE.match(words[0]) and (not words[0].startswith("-") or _is_number(words[0])):
        yield words.pop(0)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _override(kind: type, name: str, values: list[str]) -> str:
    if not values:
        return f"{name}=true"
    if len(values) == 1 and (values[0].startswith("[") or not _takes_list(kind, name)):
        return f"{name}={values[0]}"
    return f"{name}=[{','.join(value if _PLAIN.fullmatch(value) else json.dumps(value) for value in values)}]"


def _takes_list(kind: type, name: str) -> bool:
    """Whether a setting is a list; False for an unknown one."""
    group, _, rest = name.partition(".")
    found = typing.get_type_hints(kind).get(group)
    if rest:
        return is_dataclass(found) and _takes_list(found, rest)  # type: ignore[arg-type]
    return typing.get_origin(found) is list


def listed(kind: type, prefix: str = "") -> str:
    """List all settings of a dataclass: name, default, description and limits; groups by their dotted names."""
    told = {found.arg_name: found.description for found in docstring_parser.parse(kind.__doc__ or "").params}
    types = typing.get_type_hints(kind)
    parts = []
    for item in fields(kind):
        name, inner = f"{prefix}{item.name}", types[item.name]
        if is_dataclass(inner):
            parts.append(listed(inner, f"{name}."))  # type: ignore[arg-type]
            continue
        words = " ".join((told.get(item.name) or "").split())
        if (limits := limits_of(item)) is not None:
            words += f" [{limits.told()}]"
        lines = textwrap.wrap(words, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)
        parts.append("\n".join([f"  {name}={_default(item)}", *lines]))
    return "\n".join(parts)


def _default(item: Any) -> str:
    if item.default_factory is not MISSING:
        return json.dumps(item.default_factory(), default=str)
    if item.default in (MISSING, omegaconf.MISSING):
        return "...  (required)"
    return item.default if isinstance(item.default, str) else json.dumps(item.default)
