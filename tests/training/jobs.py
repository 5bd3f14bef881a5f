"""Trains a list of tiny runs, one after another: what tests start in several processes through Accelerate.

    accelerate launch ... tests/training/jobs.py jobs.json

`jobs.json`: [{"arguments": ["out=...", ...], "kill_at": 3}, ...]; with "kill_at" the process ends itself by SIGKILL as
soon as so many steps are done, where a kill -9 from outside would come at any time. With FSDP's variables in the
environment the model is sharded.
"""

import json
import os
import signal
import sys
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from cus.training.scripts import train_stage
from cus.training.unet import UNetConfig, UNetStage

TINY = [
    "model.unshuffle=2",
    "model.unet.model_channels=16",
    "model.unet.channel_mult=[1,2]",
    "model.unet.num_res_blocks=1",
    "model.unet.attention_downsamples=[2]",
    "model.unet.head_channels=8",
    "model.unet.context_dim=16",
    "model.unet.init_attention_heads=2",
    "model.unet.text_tokens=2",
    "model.unet.norm_groups=4",
    "model.unet.dropout=0.1",
    "model.image_encoder={image_size: 28, patch_size: 14, width: 16, layers: 1, heads: 2, output_dim: 4}",
    "model.image_projector={token_dim: 16, context_dim: 16, dim: 16, depth: 1, heads: 2, head_channels: 8}",
    "trained=[unet,image_encoder,image_projector,prompt]",
    "frames=2",
    "crop=[4,4]",
    "sampling.steps=1",
    "loop.learning_rate=1e-3",
    "loop.workers=0",
    "loop.precision=float32",
    "loop.ema_decay=0.9",
    "loop.log_every=1",
    "loop.accumulate=2",
]


def train(arguments: list[str], kill_at: int | None = None) -> None:
    """One run in this process."""

    def on_progress(done: int, total: int) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train_stage(UNetConfig, UNetStage, [*TINY, *arguments], on_progress)


def shard_on_the_cpu() -> None:
    """Let Accelerate use FSDP with gloo, as PyTorch can; by itself it takes CPUs for DDP and says nothing."""
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    PartialState().distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_the_cpu()
    for job in json.loads(Path(sys.argv[1]).read_text()):
        train(**job)
