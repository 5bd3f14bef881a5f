"""The training loop every stage shares, under Accelerate.

Item `i` of the data, and the noise of step `k` on process `r`, are functions of the seed and of `i`, `k`, `r` alone.
With the model, EMA, optimizer and random states of a checkpoint that makes resuming exact: the same command goes on
where it stopped.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cus.datasets.clips import item_seed
from cus.errors import InputError
from cus.files import explained
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.runtime import interruption
from cus.training.state import Checkpoints, Ema
from cus.training.tracking import Tracker


@dataclass
class LoopSettings:
    """How long, how fast, and what is written when.

    Attributes:
        steps: optimizer steps in all.
        batch: items a process and step.
        accumulate: batches whose gradients are added before a step.
        learning_rate: peak of AdamW's learning rate.
        warmup: steps of linear warm-up.
        decay: "constant" after the warm-up, or "cosine" down to a twentieth at the last step.
        weight_decay: of AdamW.
        beta2: second-moment decay of AdamW.
        clip_norm: largest gradient norm; 0 does not clip.
        ema_decay: of the averaged weights that are exported; 0 exports the last ones.
        precision: "float32", or "bf16" or "fp16" autocast.
        seed: of everything drawn.
        workers: loader processes.
        save_every: steps between checkpoints.
        keep: newest checkpoints that stay.
        log_every: steps between log lines.
        sample_every: steps between sample pictures; 0 never.
        minutes: stop and save after this much wall-clock time in this process; 0 does not.
        wandb_project: also log there; empty does not.
    """

    steps: int = limited(5000, low=1)
    batch: int = limited(1, low=1)
    accumulate: int = limited(1, low=1)
    learning_rate: float = limited(1e-5, above=0)
    warmup: int = limited(0, low=0)
    decay: str = limited("constant", choices=("constant", "cosine"))
    weight_decay: float = limited(0.01, low=0)
    beta2: float = limited(0.999, above=0, high=0.999999)
    clip_norm: float = limited(1.0, low=0)
    ema_decay: float = limited(0.0, low=0, high=0.999999)
    precision: str = limited("bf16", choices=("float32", "bf16", "fp16"))
    seed: int = limited(0, low=0, high=2**32 - 1)
    workers: int = limited(2, low=0, high=256)
    save_every: int = limited(500, low=1)
    keep: int = limited(2, low=1)
    log_every: int = limited(10, low=1)
    sample_every: int = limited(0, low=0)
    minutes: float = limited(0.0, low=0)
    wandb_project: str = ""

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.decay == "constant":
            return self.learning_rate
        if self.decay != "cosine":
            raise ValueError(f"decay must be 'constant' or 'cosine', got {self.decay!r}")
        progress = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Stage(Protocol):
    """What a stage of training adds to the loop."""

    @property
    def module(self) -> nn.Module:
        """Everything that the stage calls in `loss`; what does not require gradients stays as it is."""
        ...

    def loss(self, module: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch; `module` is `self.module` as wrapped by Accelerate."""
        ...

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Write pictures of the present (averaged) weights to `folder`; the measures returned are logged."""
        ...

    def export(self, folder: Path) -> None:
        """Write the present (averaged) weights in the form that inference loads."""
        ...


def train(
    stage: Stage,
    dataset: Dataset,
    settings: LoopSettings,
    folder: OutputFolder,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Train until the last step, the time limit or an interrupt (SIGINT, SIGTERM), then save and export.

    Args:
        stage: model, loss, samples, export.
        dataset: item `i` is a function of `i`; never exhausted.
        settings: see `LoopSettings`.
        folder: of the run, opened by the first process; a checkpoint in it is continued.
        on_progress: called with (steps done, steps in all).

    Returns:
        The number of steps done in all.

    Raises:
        InputError: settings or a checkpoint that do not fit.
        KeyboardInterrupt: after an interrupt, when all is saved; `cus.runtime.Terminated` after SIGTERM.
    """
    accelerator = Accelerator(
        mixed_precision=_mixed_precision(settings.precision),
        gradient_accumulation_steps=settings.accumulate,
        step_scheduler_with_optimizer=False,
    )
    set_seed(settings.seed, device_specific=True)
    parameters = [p for p in stage.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(0.9, settings.beta2), weight_decay=settings.weight_decay
    )
    module, optimizer = accelerator.prepare(stage.module, optimizer)
    ema = Ema(parameters, settings.ema_decay)
    checkpoints = Checkpoints(accelerator, folder, settings.keep, ema)
    done = checkpoints.resume()
    tracker = Tracker(folder, settings.wandb_project, enabled=accelerator.is_main_process)
    deadline = time.monotonic() + 60 * settings.minutes if settings.minutes else math.inf
    saved = done
    with _stop_requests() as received:
        # Inside, so that the loader's processes inherit the handlers and Ctrl-C does not kill them first.
        batches = _batches(dataset, settings, done, accelerator)
        if on_progress is not None:
            on_progress(done, settings.steps)
        while done < settings.steps:
            started = time.monotonic()
            loss, norm = _step(stage, module, optimizer, batches, settings, done, accelerator)
            ema.update(done)
            done += 1
            if on_progress is not None:
                on_progress(done, settings.steps)
            if done % settings.log_every == 0:
                seconds = time.monotonic() - started
                rate = settings.learning_rate_at(done - 1)
                tracker.log(done, loss=loss, gradient_norm=norm, learning_rate=rate, seconds=seconds)
            stop = _anywhere(bool(received) or time.monotonic() > deadline, accelerator)
            if done % settings.save_every == 0 or stop or done == settings.steps:
                checkpoints.save(done)
                saved = done
            if settings.sample_every and done % settings.sample_every == 0 and accelerator.is_main_process:
                with ema.applied(), torch.no_grad():
                    tracker.log(done, **_sampled(stage, folder, done))
            if stop:
                break
    assert saved == done
    if accelerator.is_main_process:
        with ema.applied():
            part = folder.part("export")
            with explained(folder.path / "export", folder.remedy):
                stage.export(part)
            folder.adopt(part, "export")
    tracker.close()
    accelerator.wait_for_everyone()
    if received and done < settings.steps:
        stopped = interruption(received[0])
        stopped.add_note(f"step {done} of {settings.steps} is saved and exported; the same command goes on")
        raise stopped
    return done


def _sampled(stage: Stage, folder: OutputFolder, step: int) -> dict[str, float]:
    """Sample pictures in `samples/`, beside the earlier ones."""
    part = folder.part("samples")
    with explained(folder.path / "samples", folder.remedy):
        (part / "samples").mkdir()
        measures = stage.sample(part / "samples", step)
    folder.adopt(part)
    return measures


def _mixed_precision(precision: str) -> str:
    """Accelerate's name. Ours is not "no", which YAML reads as false."""
    names = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}
    if precision not in names:
        raise InputError(f"loop.precision must be one of {', '.join(names)}, got {precision!r}")
    return names[precision]


def _step(
    stage: Stage,
    module: nn.Module,
    optimizer: Any,
    batches: Iterator[dict[str, Tensor]],
    settings: LoopSettings,
    step: int,
    accelerator: Accelerator,
) -> tuple[float, float]:
    """One optimizer step; its mean loss over all processes, and the gradient norm before clipping."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate_at(step)
    draw = item_seed(settings.seed + 1, step * accelerator.num_processes + accelerator.process_index)
    generator = torch.Generator().manual_seed(draw)
    total = torch.zeros((), device=accelerator.device)
    norm = torch.zeros(())
    for _ in range(settings.accumulate):
        with accelerator.accumulate(module):
            batch = {key: value.to(accelerator.device) for key, value in next(batches).items()}
            loss = stage.loss(module, batch, generator)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(module.parameters(), settings.clip_norm or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach() / settings.accumulate
    mean = accelerator.gather(total[None]).mean()  # pyright: ignore[reportAttributeAccessIssue]
    if not torch.isfinite(mean):
        raise InputError(f"the loss of step {step + 1} is {float(mean)}; try a lower loop.learning_rate")
    return float(mean), float(norm or 0.0)


def _batches(
    dataset: Dataset, settings: LoopSettings, done: int, accelerator: Accelerator
) -> Iterator[dict[str, Tensor]]:
    """This process's batches from step `done` on; every item of the run has its own index."""
    size, world, rank = settings.batch, accelerator.num_processes, accelerator.process_index
    first, last = done * settings.accumulate, settings.steps * settings.accumulate
    batch_indices = [
        range((count * world + rank) * size, (count * world + rank + 1) * size) for count in range(first, last)
    ]
    loader = DataLoader(
        dataset,
        batch_sampler=batch_indices,  # pyright: ignore[reportArgumentType]
        num_workers=settings.workers,
        pin_memory=accelerator.device.type == "cuda",
        # Its own, or starting the loader would draw from the global state that drop-out resumes from.
        generator=torch.Generator(),
    )
    return iter(loader)


def _anywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether `flag` is set in any process, so that all of them leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    flags = accelerator.gather(torch.tensor([flag], device=accelerator.device))
    return bool(flags.any())  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in a list to be looked at between steps; a second signal does what it always did."""
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
