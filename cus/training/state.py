"""What a run must remember: averaged weights and checkpoints."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from cus.errors import InputError
from cus.files import PART, explained
from cus.output_folder import OutputFolder


class Ema:
    """Exponential moving average of parameters, with a warm-up: the decay of step k is at most (1 + k) / (10 + k)."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {decay}")
        self.parameters, self.decay = parameters, decay
        self.averages = [p.detach().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step `step`, counted from 0."""
        if not self.decay:
            return
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], weight)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the averages inside the block, and their own values again after it."""
        if not self.decay:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(kept)

    def state_dict(self) -> dict[str, Any]:
        """For Accelerate's checkpoints."""
        return {"averages": self.averages, "decay": self.decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError if the averages are of another model."""
        shapes = [p.shape for p in self.parameters] if self.decay else []
        if [a.shape for a in state["averages"]] != shapes:
            raise InputError("the checkpoint's averaged weights are of another model; choose another out= folder")
        for average, stored in zip(self.averages, state["averages"], strict=True):
            average.copy_(stored)

    @torch.no_grad()
    def _assign(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


class Checkpoints:
    """Folders `checkpoints/step-00001234` with model, EMA, optimizer and the random states of every process.

    A folder gets its name when it is complete, so an interrupted save is never resumed from.
    """

    def __init__(self, accelerator: Accelerator, folder: OutputFolder, keep: int, ema: Ema) -> None:
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, got keep={keep}")
        self.accelerator, self.folder, self.keep = accelerator, folder, keep
        accelerator.register_for_checkpointing(ema)

    def resume(self) -> int:
        """Load the newest checkpoint; the steps it stands for, 0 if there is none."""
        found = self._found()
        if not found:
            return 0
        step, path = found[-1]
        try:
            self.accelerator.load_state(str(path))
        except (RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"cannot resume from {path}: {str(error).splitlines()[0]}; it belongs to another model or is damaged: "
                "choose another out= folder, or remove it to start from the checkpoint before"
            ) from error
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint of `step` and drop the oldest beyond `keep`."""
        name = f"checkpoints/step-{step:08d}"
        # All processes write to it.
        part = self.folder.path / f"{PART}checkpoint"
        if self.accelerator.is_main_process:
            self.folder.part("checkpoint")
        self.accelerator.wait_for_everyone()
        try:
            with explained(self.folder.path / name, self.folder.remedy):
                self.accelerator.save_state(str(part))
        except InputError:
            # What is half-written takes the space that is missing.
            shutil.rmtree(part, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.remove(self.folder.below(name))
            self.folder.adopt_whole(part, name)
            for _, path in self._found()[: -self.keep]:
                self.folder.remove(self.folder.below(f"checkpoints/{path.name}"))

    def _found(self) -> list[tuple[int, Path]]:
        matches = (
            (re.fullmatch(r"step-(\d+)", path.name), path) for path in (self.folder.path / "checkpoints").glob("step-*")
        )
        return sorted((int(match[1]), path) for match, path in matches if match)
