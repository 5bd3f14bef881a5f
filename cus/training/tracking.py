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
        if not accelerator.is_main_process:
            return
        self.path = folder.claim("log.jsonl")
        with explained(self.path, folder.remedy):
            self.file = self.path.open("a", buffering=1)
        if accelerator.log_with:
            name = folder.path.resolve().name
            run = {"dir": str(folder.path), "name": name, "resume": "allow", "id": name}
            accelerator.init_trackers(settings.wandb_project or settings.project, init_kwargs={"wandb": run})

    def log(self, step: int, **values: float) -> None:
        """Record numbers of a step."""
        if self.file is None:
            return
        self._write(step, values)
        self.accelerator.log(values, step=step)

    def note(self, step: int, text: str) -> None:
        """Record a sentence about a step, and print it."""
        if self.file is not None:
            self._write(step, {"note": text})
            print(f"note: {text}", file=sys.stderr)

    def close(self) -> None:
        """Finish all logs."""
        if self.file is not None:
            self.file.close()
            # Not `end_training`, which would also end the process group, and with it the next run of this process.
            for tracker in self.accelerator.trackers:
                tracker.finish()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        assert self.file is not None
        with explained(self.path, self.folder.remedy):
            self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
