"""What the scripts in train/ share: read the settings, save them, run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from accelerate.utils import set_seed
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cus.errors import InputError
from cus.training import config as configs

Config = TypeVar("Config")


def run(kind: type[Config], act: Callable[[Config, Callable[[int, int], None]], object], arguments: list[str]) -> int:
    """Resolve `[config.yaml] [key=value ...]` to a `kind`, save it in its `out` folder, call `act`.

    Returns:
        The exit status: 0, or 2 with a message for settings or data that cannot be used.
    """
    files = [argument for argument in arguments if "=" not in argument]
    try:
        if len(files) > 1:
            raise InputError(f"expected at most one config file, got {' '.join(files)}")
        config = configs.resolve(kind, files[0] if files else None, [a for a in arguments if "=" in a])
        configs.save(config, Path(config.out) / "config.yaml")  # pyright: ignore[reportAttributeAccessIssue]
        # Before the model is built: the same seed must give the same first weights.
        set_seed(config.loop.seed)  # pyright: ignore[reportAttributeAccessIssue]
        columns = (TextColumn("steps"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress:
            task = progress.add_task("steps", total=None)
            act(config, lambda done, total: progress.update(task, completed=done, total=total))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
