"""Settings of the training loop shared by all stages."""

import math
from dataclasses import dataclass

from cus.errors import InputError
from cus.limits import limited

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab")


@dataclass
class LoopSettings:
    """Settings of duration, speed and output.

    Attributes:
        steps: total number of optimizer steps.
        batch: number of items whose gradients are computed at once.
        accumulate: number of batches per step. The processes share them evenly, so a step uses `batch * accumulate`
            items with any number of processes.
        learning_rate: peak of the optimizer's learning rate.
        warmup: number of steps of linear warm-up.
        decay: "constant" after the warm-up, or "cosine" down to a twentieth at the last step.
        optimizer: "adamw", or "adamw8bit" from bitsandbytes, whose moments take a quarter of the memory (on a GPU).
        weight_decay: weight decay of AdamW.
        beta2: second-moment decay of AdamW.
        clip_norm: maximum gradient norm; 0: no clipping.
        gradient_checkpointing: do not store activations inside the networks' blocks, but recompute them in the backward
            pass: much less memory, about 40 % more time, the same gradients.
        ema_decay: decay of the averaged weights, which are exported; 0 exports the last weights.
        ema_device: device of the averages: "same" as the weights, or "cpu".
        precision: "float32", or "bf16" or "fp16" autocast.
        seed: seed of all random draws.
        workers: number of loader processes.
        bad_steps: number of consecutive steps that may be skipped because their loss or gradient is not finite, each
            logged; 0 stops at the first.
        save_every: steps between checkpoints.
        keep: number of newest checkpoints to keep.
        log_every: steps between log lines.
        sample_every: steps between sample pictures; 0: never.
        minutes: stop and save after this many minutes in this process; 0: no limit.
        trackers: names of Accelerate's trackers to log to as well.
        project: project name in the trackers, for related runs.
        wandb_project: shorthand for `trackers=[wandb]` with this `project`; empty: none.
    """

    steps: int = limited(5000, low=1)
    batch: int = limited(1, low=1)
    accumulate: int = limited(1, low=1)
    learning_rate: float = limited(1e-5, above=0)
    warmup: int = limited(0, low=0)
    decay: str = limited("constant", choices=("constant", "cosine"))
    optimizer: str = limited("adamw", choices=("adamw", "adamw8bit"))
    weight_decay: float = limited(0.01, low=0)
    beta2: float = limited(0.999, above=0, high=0.999999)
    clip_norm: float = limited(1.0, low=0)
    gradient_checkpointing: bool = False
    ema_decay: float = limited(0.0, low=0, high=0.999999)
    ema_device: str = limited("same", choices=("same", "cpu"))
    precision: str = limited("bf16", choices=("float32", "bf16", "fp16"))
    seed: int = limited(0, low=0, high=2**32 - 1)
    workers: int = limited(2, low=0, high=256)
    bad_steps: int = limited(0, low=0)
    save_every: int = limited(500, low=1)
    keep: int = limited(2, low=1)
    log_every: int = limited(10, low=1)
    sample_every: int = limited(0, low=0)
    minutes: float = limited(0.0, low=0)
    trackers: list[str] = limited(default_factory=list, choices=TRACKERS)
    project: str = "closeupshot"
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

    def share(self, processes: int) -> int:
        """Number of a step's batches for each of `processes` processes.

        Raises:
            InputError: they cannot be shared evenly.
        """
        share, left = divmod(self.accumulate, processes)
        if left or not share:
            fitting = [str(n) for n in range(1, self.accumulate + 1) if self.accumulate % n == 0]
            more = math.ceil(self.accumulate / processes) * processes
            raise InputError(
                f"a step's loop.accumulate={self.accumulate} batches cannot be shared evenly by {processes} processes: "
                f"start {' or '.join(fitting)}, or train on steps of another size in another out= folder with "
                f"loop.accumulate={more} (of {more * self.batch} items instead of {self.accumulate * self.batch})"
            )
        return share
