"""The training loop shared by all stages, with Accelerate.

A step uses the gradients of `loop.accumulate` batches, numbered through the whole run and shared by the processes. The
items, noise and drop-out of batch `m` depend only on the seed and `m`, whichever process computes it. Together with the
model, EMA and optimizer in a checkpoint, this makes resuming exact, and any number of processes that can share the
batches trains the same model: the same command continues where it stopped.
"""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from cus.datasets.clips import ClipItems, item_seed
from cus.errors import InputError
from cus.files import explained
from cus.output_folder import OutputFolder
from cus.runtime import interruption
from cus.training.loop_settings import LoopSettings
from cus.training.processes import WholeWeights, make_accelerator
from cus.training.stage import Stage
from cus.training.state import Checkpoints, Ema, whole
from cus.training.tracking import Tracker

__all__ = ["LoopSettings", "Stage", "train"]


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], settings: LoopSettings, device: torch.device
) -> torch.optim.Optimizer:
    """Make AdamW for the parameters, or groups of them, in the variant `settings.optimizer`.

    Raises:
        InputError: nothing to train, or 8-bit moments without bitsandbytes or a GPU.
    """
    groups: list[Any] = list(parameters)
    if not groups:
        raise InputError("nothing is trained: no part of the model has weights that learn")
    # The fused optimizer creates no tensors in a step; the other implementation copies all moments.
    options: dict[str, Any] = {"fused": True} if device.type == "cuda" else {}
    kind: type[torch.optim.Optimizer] = torch.optim.AdamW
    if settings.optimizer == "adamw8bit":
        if device.type != "cuda":
            raise InputError(f"loop.optimizer=adamw8bit needs a CUDA GPU, and this runs on {device}; take adamw")
        try:
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(
                "loop.optimizer=adamw8bit is set, but bitsandbytes is not installed: pip install bitsandbytes"
            ) from error
        kind, options = AdamW8bit, {}
    options |= {"lr": settings.learning_rate, "betas": (0.9, settings.beta2), "weight_decay": settings.weight_decay}
    return kind(groups, **options)


def train(
    stage: Stage,
    dataset: Dataset,
    settings: LoopSettings,
    folder: OutputFolder,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Train until the last step, the time limit or an interrupt (SIGINT, SIGTERM), then save and export.

    Args:
        stage: model with its loss, samples and export.
        dataset: endless data set whose item `i` depends only on `i`.
        settings: settings of the loop.
        folder: output folder of the run, opened by the first process; a checkpoint in it is resumed.
        on_progress: called with (steps done, total steps).

    Returns:
        The total number of steps done.

    Raises:
        InputError: invalid settings, or a checkpoint that does not match.
        KeyboardInterrupt: after an interrupt, once everything is saved; `cus.runtime.Terminated` after SIGTERM.
    """
    accelerator = make_accelerator(settings, folder.path)
    set_seed(settings.seed)
    shown = WholeWeights(stage, accelerator)
    if settings.gradient_checkpointing:
        checkpoint_activations(stage.module)
    optimizer = make_optimizer(_groups(stage.module), settings, accelerator.device)
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    averaging = accelerator.is_main_process or shown.sharded
    ema = Ema(
        _learning(module),
        settings.ema_decay if averaging else 0.0,
        None if settings.ema_device == "same" else settings.ema_device,
    )
    checkpoints = Checkpoints(accelerator, folder, settings.keep, ema)
    done = checkpoints.resume()
    tracker = Tracker(folder, settings, accelerator)
    steps = _Steps(stage, module, optimizer, dataset, settings, accelerator, tracker)
    deadline = time.monotonic() + 60 * settings.minutes if settings.minutes else math.inf
    saved = done
    with _stop_requests() as received:
        # Inside, so that the loader's processes inherit the handlers and Ctrl-C does not kill them first.
        steps.begin(done)
        if on_progress is not None:
            on_progress(done, settings.steps)
        while done < settings.steps:
            taken = steps.take(done)
            if not taken.bad:
                ema.update(done)
            done += 1
            if on_progress is not None:
                on_progress(done, settings.steps)
            if done % settings.log_every == 0:
                tracker.log(done, **taken.measures(settings.learning_rate_at(done - 1)))
            stop = _anywhere(bool(received) or time.monotonic() > deadline, accelerator)
            if done % settings.save_every == 0 or stop or done == settings.steps:
                checkpoints.save(done)
                saved = done
            if settings.sample_every and done % settings.sample_every == 0:
                with shown.of(module, ema) as present:
                    if present is not None:
                        tracker.log(done, **_sampled(present, folder, done))
            if stop:
                break
    assert saved == done
    with shown.of(module, ema) as present:
        if present is not None:
            _export(present, folder)
    tracker.close()
    accelerator.wait_for_everyone()
    if received and done < settings.steps:
        stopped = interruption(received[0])
        stopped.add_note(f"step {done} of {settings.steps} is saved and exported; the same command resumes")
        raise stopped
    return done


def checkpoint_activations(module: nn.Module) -> None:
    """Enable gradient checkpointing in every trained network inside `module` that supports it.

    Raises:
        InputError: there is no such network.
    """
    networks = [
        part
        for part in module.modules()
        if getattr(part, "_supports_gradient_checkpointing", False) and _learning(part)
    ]
    if not networks:
        raise InputError(
            "loop.gradient_checkpointing is set, but nothing that is trained here supports it; leave it out"
        )
    for network in networks:
        network.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]


def _learning(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _groups(module: nn.Module) -> list[dict[str, Any]]:
    """The optimizer's groups: what learns, by its share of the learning rate (`cus.training.stage.Stage.module`)."""
    rates: dict[str, float] = getattr(module, "learning_rates", {})
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(rates.get(name.partition(".")[0], 1.0), []).append(parameter)
    return [{"params": parameters, "rate": rate} for rate, parameters in groups.items()]


def _sampled(stage: Stage, folder: OutputFolder, step: int) -> dict[str, float]:
    """Write sample pictures to `samples/`, in addition to earlier ones."""
    part = folder.part("samples")
    with explained(folder.path / "samples", folder.remedy):
        (part / "samples").mkdir()
        measures = stage.sample(part / "samples", step)
    folder.adopt(part)
    return measures


def _export(stage: Stage, folder: OutputFolder) -> None:
    part = folder.part("export")
    with explained(folder.path / "export", folder.remedy):
        stage.export(part)
    folder.adopt(part, "export")


@dataclass(frozen=True)
class _Taken:
    """A finished step: mean loss over its batches, gradient norm before clipping, total and data waiting seconds."""

    loss: float
    norm: float
    seconds: float
    waited: float
    bad: bool

    def measures(self, learning_rate: float) -> dict[str, float]:
        return {
            "loss": self.loss,
            "gradient_norm": self.norm,
            "learning_rate": learning_rate,
            "seconds": self.seconds,
            "waited": self.waited,
        }


class _Readable(Dataset):
    """A data set whose errors that the user can fix are items: raised in a loader process, they lose their message."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except InputError as error:
            return error


def _collated(items: list[Any]) -> Any:
    """The items' batch, or the first error among them."""
    return next((item for item in items if isinstance(item, InputError)), None) or default_collate(items)


class _Steps:
    """Performs the steps of a run, one after another."""

    def __init__(
        self,
        stage: Stage,
        module: nn.Module,
        optimizer: Any,
        dataset: Dataset,
        settings: LoopSettings,
        accelerator: Accelerator,
        tracker: Tracker,
    ) -> None:
        self.stage, self.module, self.optimizer, self.dataset = stage, module, optimizer, dataset
        self.settings, self.accelerator, self.tracker = settings, accelerator, tracker
        self.bad_in_a_row = 0

    def begin(self, done: int) -> None:
        """Start reading this process's batches from step `done` on."""
        size, steps = self.settings.batch, range(done, self.settings.steps)
        numbers = [number for step in steps for number in self._numbers(step)]
        loader = DataLoader(
            _Readable(self.dataset),
            batch_sampler=[range(number * size, (number + 1) * size) for number in numbers],  # pyright: ignore
            num_workers=self.settings.workers,
            collate_fn=_collated,
            pin_memory=self.accelerator.device.type == "cuda",
            # A separate generator, otherwise starting the loader would draw from the global state that drop-out uses.
            generator=torch.Generator(),
        )
        self.batches: Iterator[dict[str, Tensor] | InputError] = iter(loader)

    def take(self, step: int) -> _Taken:
        """Perform step `step`, counted from 0. Raises InputError if losses or gradients are not finite too often."""
        settings, accelerator = self.settings, self.accelerator
        started, waited = time.monotonic(), 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("rate", 1.0) * settings.learning_rate_at(step)
        numbers = self._numbers(step)
        total = torch.zeros((), device=accelerator.device)
        for number in numbers:
            before = time.monotonic()
            batch = next(self.batches)
            if isinstance(batch, InputError):
                raise batch
            waited += time.monotonic() - before
            total += self._add_gradients(batch, number) / len(numbers)
        norm = accelerator.clip_grad_norm_(self.module.parameters(), settings.clip_norm or math.inf)
        norm = 0.0 if norm is None else float(whole(norm) if isinstance(norm, Tensor) else norm)
        loss = float(accelerator.gather(total[None]).mean())  # pyright: ignore[reportAttributeAccessIssue]
        bad = self._is_bad(step, loss, norm)
        # In half precision the gradient scaler skips steps itself, and must be called even then.
        if not bad or accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return _Taken(loss, norm, time.monotonic() - started, waited, bad)

    def _numbers(self, step: int) -> list[int]:
        """Numbers of the batches that this process computes in a step."""
        first, processes = step * self.settings.accumulate, self.accelerator.num_processes
        return list(range(first + self.accelerator.process_index, first + self.settings.accumulate, processes))

    def _add_gradients(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Add the gradients of batch `number` of the run; returns its loss."""
        accelerator, seed = self.accelerator, self.settings.seed
        generator = torch.Generator().manual_seed(item_seed(seed + 1, number))
        # Drop-out draws from the global states.
        torch.manual_seed(item_seed(seed + 2, number))
        with accelerator.accumulate(self.module):
            on_device = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
            loss = self.stage.loss(self.module, on_device, generator)
            accelerator.backward(loss)
        return loss.detach()

    def _is_bad(self, step: int, loss: float, norm: float) -> bool:
        """Whether to skip a step, which is then logged. Raises InputError if it must not be skipped."""
        scaled = self.accelerator.scaler is not None
        if math.isfinite(loss) and (scaled or math.isfinite(norm)):
            self.bad_in_a_row = 0
            return False
        self.bad_in_a_row += 1
        what = f"step {step + 1} has the loss {loss} and the gradient norm {norm}{self._clips(step)}"
        if self.bad_in_a_row > self.settings.bad_steps:
            allowed = (
                f"more than loop.bad_steps={self.settings.bad_steps} in a row: " if self.settings.bad_steps else ""
            )
            raise InputError(
                f"{allowed}{what}; try a lower loop.learning_rate, or leave such steps out by loop.bad_steps"
            )
        self.tracker.note(step + 1, f"left out: {what}")
        return True

    def _clips(self, step: int) -> str:
        """The clips of a step, if the data has any."""
        if not isinstance(self.dataset, ClipItems):
            return ""
        items = self.settings.accumulate * self.settings.batch
        names = [self.dataset.path_of(item).name for item in range(step * items, (step + 1) * items)]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        return f" (clips {', '.join(names[:8])}{more})"


def _anywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether `flag` is set in any process, so that all processes leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    flags = accelerator.gather(torch.tensor([flag], device=accelerator.device))
    return bool(flags.any())  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM in a list that is checked between steps; a second signal has its usual effect."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
