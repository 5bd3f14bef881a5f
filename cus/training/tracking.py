"""The log of a run: always JSON lines, and Accelerate's trackers if requested."""

import json
import sys
import time
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from cus.errors import InputError
from cus.files import explained
from cus.output_folder import OutputFolder
from cus.training.loop_settings import LoopSettings


def trackers_of(settings: LoopSettings) -> list[str]:
    """Names of the requested trackers. Raises InputError for one whose package is not installed."""
    names: list[str] = list(settings.trackers)
    if settings.wandb_project and "wandb" not in names:
        names.append("wandb")
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS or name not in available:
            raise InputError(f"loop.trackers has {name}, which is not installed: pip install {name}")
    return names


class Tracker:
    """Appends `{"step": ..., "time": ..., name: value}` lines to `log.jsonl`, and logs to the accelerator's trackers.

    Only the main process writes; `log`, `note` and `close` do nothing in the others.

    Args:
        folder: output folder of the run.
        settings: settings of the loop, with the trackers' project.
        accelerator: accelerator made with `log_with=trackers_of(settings)`.
    """

    def __init__(self, folder: OutputFolder, settings: LoopSettings, accelerator: Accelerator) -> None:
        self.accelerator, self.folder, self.file = accelerator, folder, None
        self.writes = accelerator.is_main_process
        if self.writes and accelerator.log_with:
            name = folder.path.resolve().name
            run = {"dir": str(folder.path), "name": name, "resume": "allow", "id": name}
            self._start(settings.wandb_project or settings.project, {"wandb": run})

    def _start(self, project: str, options: dict[str, Any]) -> None:
        """Start the trackers. Raises InputError for whatever stops one: no login, no connection."""
        try:
            self.accelerator.init_trackers(project, init_kwargs=options)
        except Exception as error:  # each tracker has errors of its own
            names = ", ".join(str(kind) for kind in self.accelerator.log_with)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"loop.trackers=[{names}] cannot be started ({reason}); set it up, or leave it out"
            ) from error

    def log(self, step: int, **values: float) -> None:
        """Record numbers of a step."""
        if self.writes:
            self._write(step, values)
            self.accelerator.log(values, step=step)

    def note(self, step: int, text: str) -> None:
        """Record a sentence about a step, and print it."""
        if self.writes:
            self._write(step, {"note": text})
            print(f"note: {text}", file=sys.stderr)

    def close(self) -> None:
        """Finish all logs."""
        if self.file is not None:
            self.file.close()
        if self.writes:
            # Not `end_training`, which would also end the process group, and with it the next run of this process.
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        path = self.folder.path / "log.jsonl"
        with explained(path, self.folder.remedy):
            if self.file is None:
                # Only now: a run that ends before its first line leaves nothing.
                self.file = self.folder.claim("log.jsonl").open("a", buffering=1)
            self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
