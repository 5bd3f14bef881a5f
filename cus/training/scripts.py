"""Shared frame of the scripts in train/ and data/: read the settings, save them, run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import set_seed

from cus.errors import InputError
from cus.output_folder import OutputFolder
from cus.training import config as configs
from cus.training.arguments import LIST, listed, spelled_out
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
    """The settings from a script's arguments (`cus.training.arguments`).

    Raises:
        InputError: as `spelled_out` and `cus.training.config.resolve`.
        SystemExit: after listing the settings for `--settings`.
    """
    if LIST in arguments:
        print(listed(kind))
        raise SystemExit(0)
    given = spelled_out(kind, arguments)
    return configs.resolve(kind, given.file, given.overrides)
