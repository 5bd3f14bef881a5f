"""Train the skip decoder, all else frozen.

    python train/decoder.py configs/mini/decoder.yaml out=runs/decoder init=... clips=... generated=...

`accelerate launch train/decoder.py ...` uses all GPUs. The same command again continues where it stopped.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from cus.training.decoder import DecoderConfig, DecoderStage
from cus.training.loop import train
from cus.training.scripts import run


def main(config: DecoderConfig, on_progress: Callable[[int, int], None]) -> None:
    """Train and export the pipeline to `<out>/export`."""
    stage = DecoderStage(config)
    train(stage, stage.dataset(), config.loop, Path(config.out), on_progress)


if __name__ == "__main__":
    sys.exit(run(DecoderConfig, main, sys.argv[1:]))
