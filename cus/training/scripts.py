"""Shared frame of the scripts in train/ and data/: read the settings, save them, run."""

import json
import os
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import docstring_parser
import omegaconf
from accelerate.utils import set_seed

from cus.errors import InputError
from cus.limits import limits_of
from cus.output_folder import OutputFolder
from cus.training import config as configs
from cus.training.loop import train

Config = TypeVar("Config")

REMEDY = "what was saved is kept: free some space, or fix the folder, and run the same command again"
# Files written by a training run.
PLANNED = ("config.yaml", "log.jsonl", "checkpoints/step-????????", "samples/*", "export/*")
# Settings that may change when a training run is resumed: duration, intervals, paths.
FREE = (
    *("out", "held_out"),
    *(f"loop.{name}" for name in ("steps", "minutes", "workers", "save_every", "keep", "log_every", "sample_every")),
    *(f"loop.{name}" for name in ("gradient_checkpointing", "ema_device", "bad_steps")),
    *(f"loop.{name}" for name in ("trackers", "project", "wandb_project")),
)
LIST = "--settings"
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*\+?=")
_PLAIN = re.compile(r"[\w./+-]+")
_WIDTH, _INDENT = 100, " " * 6


def train_stage(
    kind: type[Any], stage_of: Callable[[Any], Any], arguments: list[str], on_progress: Callable[[int, int], None]
) -> None:
    """Train a stage to its end and export it to `<out>/export`.

    Args:
        kind: dataclass of the stage's settings, with `out` and `loop`.
        stage_of: makes the stage from its settings.
        arguments: `[config.yaml] [name=value ...]`.
        on_progress: called with (steps done, total steps).

    Raises:
        InputError: unusable settings or data.
        KeyboardInterrupt: after an interrupt, once everything is saved.
    """
    config = settings_of(kind, arguments)
    folder = OutputFolder(Path(config.out), "a training run", REMEDY)
    # Of several processes that train together, only the first one writes.
    if int(os.environ.get("RANK", "0")) == 0:
        folder.open(PLANNED)
        configs.write(config, folder, "config.yaml", FREE)
    try:
        # Before the model is built, because the same seed must give the same initial weights.
        set_seed(config.loop.seed)
        stage = stage_of(config)
        train(stage, stage.dataset(), config.loop, folder, on_progress)
    finally:
        folder.close()


def train_to_end(
    kind: type[Any],
    stage_of: Callable[[Any], Any],
    arguments: list[str],
    on_progress: Callable[[int, int], None],
    what: str,
) -> None:
    """`train_stage` for a part of a larger job, called `what`, which needs it complete.

    Raises:
        InputError: as `train_stage`; or `loop.minutes` ended the stage before its last step.
    """
    train_stage(kind, stage_of, arguments, on_progress)
    config = settings_of(kind, arguments)
    if not (Path(config.out) / "checkpoints" / f"step-{config.loop.steps:08d}").is_dir():
        raise InputError(
            f"{what} has ended before step {config.loop.steps}, as set by loop.minutes; the same command resumes"
        )


def is_exported(out: Path) -> bool:
    """Whether a run has exported a complete model."""
    return (out / "export" / "model_index.json").is_file()


def settings_of(kind: type[Config], arguments: list[str]) -> Config:
    """The settings from a script's arguments (`cus.training.scripts`).

    Raises:
        InputError: as `spelled_out` and `cus.training.config.resolve`.
        SystemExit: after listing the settings for `--settings`.
    """
    if LIST in arguments:
        print(listed(kind))
        raise SystemExit(0)
    given = spelled_out(kind, arguments)
    return configs.resolve(kind, given.file, given.overrides)


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
