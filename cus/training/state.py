"""The state of a run: averaged weights and checkpoints."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from cus.errors import InputError
from cus.files import PART, explained
from cus.output_folder import OutputFolder


class Ema:
    """Exponential moving average of parameters, with a warm-up: the decay of step k is at most (1 + k) / (10 + k).

    Args:
        parameters: parameters to average; if they are sharded over processes (DTensors), so are the averages.
        decay: decay per step, less than 1; 0 keeps no averages.
        device: device of the averages; None keeps each with its parameter.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float, device: str | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {decay}")
        self.parameters, self.decay = parameters, decay
        averages = [p.detach().clone() for p in parameters] if decay else []
        self.averages = averages if device is None else [a.to(device) for a in averages]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update with the parameters after step `step`, counted from 0."""
        if not self.decay:
            return
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        present = [p.detach().to(a.device) for p, a in zip(self.parameters, self.averages, strict=True)]
        torch._foreach_lerp_(self.averages, present, weight)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by the averages inside the block."""
        if not self.decay:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(kept)

    def full(self) -> list[torch.Tensor]:
        """The whole averages on the CPU. If they are sharded, every process must call this."""
        return [whole(average).cpu() for average in self.averages]

    def state_dict(self) -> dict[str, Any]:
        """State for Accelerate's checkpoints, independent of the number of processes."""
        return {"averages": self.full(), "decay": self.decay}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages. Raises InputError if they belong to another model."""
        if not self.decay:  # not kept here: of several processes with whole weights, only the first one averages
            return
        if [a.shape for a in state["averages"]] != [p.shape for p in self.parameters]:
            raise InputError("the checkpoint's averaged weights are of another model; choose another out= folder")
        for average, stored in zip(self.averages, state["averages"], strict=True):
            if isinstance(average, DTensor):
                there = stored.to(average.device)
                average.copy_(distribute_tensor(there, average.device_mesh, average.placements))
            else:
                average.copy_(stored)

    @torch.no_grad()
    def _assign(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered from all processes if it is sharded; then every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Checkpoints:
    """Folders `checkpoints/step-00001234` with model, EMA, optimizer and the random states of all processes.

    A folder gets its name once it is complete, so an interrupted save is never resumed.
    """

    def __init__(self, accelerator: Accelerator, folder: OutputFolder, keep: int, ema: Ema) -> None:
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, got keep={keep}")
        self.accelerator, self.folder, self.keep = accelerator, folder, keep
        accelerator.register_for_checkpointing(ema)

    def resume(self) -> int:
        """Load the newest checkpoint; returns its number of steps, 0 if there is none."""
        found = self._found()
        if not found:
            return 0
        step, path = found[-1]
        try:
            self.accelerator.load_state(str(path))
        except (RuntimeError, ValueError, OSError, CheckpointException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"cannot resume from {path}: {reason}; it belongs to another model, was saved by another kind of "
                "training (one of FSDP, DeepSpeed and neither cannot read the others' checkpoints) or is damaged: "
                "start it as before, choose another out= folder, or remove it to start from the checkpoint before"
            ) from error
        # The saving process's position within a step, in its own share of the batches: it was at the end of one.
        self.accelerator.step = 0
        return step

    def save(self, step: int) -> None:
        """Write the checkpoint of `step` and remove the oldest beyond `keep`."""
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
            # Partial files occupy the missing space.
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
