"""The log of a run: JSON lines always, Weights & Biases where asked."""

import json
import time

from cus.errors import InputError
from cus.files import explained
from cus.output_folder import OutputFolder


class Tracker:
    """Appends `{"step": ..., "time": ..., name: value}` lines to `log.jsonl`; to wandb too if a project is named."""

    def __init__(self, folder: OutputFolder, wandb_project: str = "", *, enabled: bool = True) -> None:
        self.run = None
        self.file = None
        if not enabled:
            return
        self.folder, out = folder, folder.path
        self.path = folder.claim("log.jsonl")
        with explained(self.path, folder.remedy):
            self.file = self.path.open("a", buffering=1)
        if wandb_project:
            try:
                import wandb
            except ImportError as error:
                raise InputError("wandb_project is set but wandb is not installed: pip install wandb") from error
            self.run = wandb.init(project=wandb_project, dir=str(out), name=out.name, resume="allow", id=out.name)

    def log(self, step: int, **values: float) -> None:
        """Record numbers of a step."""
        if self.file is not None:
            with explained(self.path, self.folder.remedy):
                self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **values}) + "\n")
        if self.run is not None:
            self.run.log(values, step=step)

    def close(self) -> None:
        """Finish both logs."""
        if self.file is not None:
            self.file.close()
        if self.run is not None:
            self.run.finish()
