"""Training one model with several processes: sets up Accelerate, and gathers whole weights.

With DDP every process has the whole weights. With FSDP2 and DeepSpeed they are sharded: pictures and exports are then
made by a copy of the stage, which only exists in the main process on the CPU, and is filled before use.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import nn

from cus.errors import InputError
from cus.training.loop_settings import LoopSettings
from cus.training.stage import Stage
from cus.training.state import Ema
from cus.training.tracking import trackers_of

# The other processes wait while the first one makes sample pictures.
LONGEST_WAIT = timedelta(hours=3)
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def make_accelerator(settings: LoopSettings, out: Path) -> Accelerator:
    """Make the accelerator of a run.

    Raises:
        InputError: an invalid setting, or an unsupported way of starting the processes.
    """
    accelerator = Accelerator(
        # Without a GPU Accelerate must be told, otherwise every process considers itself the only one.
        cpu=not getattr(torch, "accelerator", torch.cuda).is_available(),
        mixed_precision=_mixed_precision(settings.precision),
        step_scheduler_with_optimizer=False,
        log_with=trackers_of(settings) or None,  # pyright: ignore[reportArgumentType]
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "trackers")),
        # Without views DDP stores every gradient twice.
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=LONGEST_WAIT),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise InputError(f"{started} processes were started, and Accelerate knows of {accelerator.num_processes}")
    share = settings.share(accelerator.num_processes)
    accelerator.gradient_accumulation_steps = share
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError("FSDP version 1 is not supported: set fsdp_version: 2, as configs/accelerate/fsdp2.yaml does")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _set_up_deepspeed(accelerator, settings, share)
    return accelerator


def _mixed_precision(precision: str) -> str:
    """Accelerate's name for a precision. Ours is not "no", which YAML reads as false."""
    names = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}
    if precision not in names:
        raise InputError(f"loop.precision must be one of {', '.join(names)}, got {precision!r}")
    return names[precision]


def _set_up_deepspeed(accelerator: Accelerator, settings: LoopSettings, share: int) -> None:
    """Let DeepSpeed clip and accumulate; refuse what it does not support."""
    if settings.ema_decay:
        raise InputError("DeepSpeed keeps no weights that could be averaged: set loop.ema_decay=0, or use FSDP2")
    if settings.bad_steps:
        raise InputError("DeepSpeed takes its steps unasked: set loop.bad_steps=0, or use FSDP2")
    config = accelerator.state.deepspeed_plugin.deepspeed_config  # pyright: ignore[reportOptionalMemberAccess]
    config |= {
        "train_micro_batch_size_per_gpu": settings.batch,
        "gradient_accumulation_steps": share,
        "gradient_clipping": settings.clip_norm,
        "zero_allow_untested_optimizer": True,
    }


class WholeWeights:
    """Provides the stage with whole, averaged weights for pictures and exports.

    Args:
        stage: stage, not prepared yet.
        accelerator: accelerator of the run.
    """

    def __init__(self, stage: Stage, accelerator: Accelerator) -> None:
        self.stage, self.accelerator = stage, accelerator
        self.sharded = accelerator.distributed_type in SHARDED
        self.twin = copy.deepcopy(stage) if self.sharded and accelerator.is_main_process else None

    @contextmanager
    def of(self, module: nn.Module, ema: Ema) -> Iterator[Stage | None]:
        """The stage in the main process, None in the others; all processes must enter the block.

        Args:
            module: prepared module of the stage.
            ema: averages of the trained parameters of `module`.
        """
        if not self.sharded:
            with ema.applied() if self.accelerator.is_main_process else _nothing(), torch.no_grad():
                yield self.stage if self.accelerator.is_main_process else None
            return
        state = self.accelerator.get_state_dict(module)
        learning = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        averages = dict(zip(learning, ema.full(), strict=True)) if ema.decay else {}
        if self.twin is None:
            yield None
            return
        self.twin.module.load_state_dict({**state, **averages})
        self.twin.module.to(self.accelerator.device)
        try:
            with torch.no_grad():
                yield self.twin
        finally:
            self.twin.module.to("cpu")


@contextmanager
def _nothing() -> Iterator[None]:
    yield
