"""Settings of the loop that every stage of training shares."""

import math
from dataclasses import dataclass

from cus.errors import InputError
from cus.limits import limited

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab")


@dataclass
class LoopSettings:
    """How long, how fast, and what is written when.

    Attributes:
        steps: optimizer steps in all.
        batch: items whose gradients are computed at once.
        accumulate: batches whose gradients make a step. The processes share them evenly, so that a step takes in
            `batch * accumulate` items however many processes there are.
        learning_rate: peak of the optimizer's learning rate.
        warmup: steps of linear warm-up.
        decay: "constant" after the warm-up, or "cosine" down to a twentieth at the last step.
        optimizer: "adamw", or "adamw8bit" of bitsandbytes, whose moments take a quarter of the memory (on a GPU).
        weight_decay: of AdamW.
        beta2: second-moment decay of AdamW.
        clip_norm: largest gradient norm; 0 does not clip.
        gradient_checkpointing: keep no activations inside the networks' blocks, and compute them again on the way back:
            far less memory, about 40 % more time, the same gradients.
        ema_decay: of the averaged weights that are exported; 0 exports the last ones.
        ema_device: where they are kept: "same" as the weights, or "cpu".
        precision: "float32", or "bf16" or "fp16" autocast.
        seed: of everything drawn.
        workers: loader processes.
        bad_steps: steps in a row that may be left out because their loss or gradient is not finite, each named in the
            log; 0 stops at the first.
        save_every: steps between checkpoints.
        keep: newest checkpoints that stay.
        log_every: steps between log lines.
        sample_every: steps between sample pictures; 0 never.
        minutes: stop and save after this much wall-clock time in this process; 0 does not.
        trackers: of Accelerate, to log to as well.
        project: their name for related runs.
        wandb_project: the same as `trackers=[wandb]` with this `project`; empty does not.
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
        """Batches of a step that each of so many processes computes.

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
