"""Train the denoising U-Net: `accelerate launch train/unet.py configs/full/unet.yaml out=runs/unet latents=...`.

Plain `python` trains in one process. The same command again continues where it stopped; Ctrl-C saves first.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from cus.training.loop import train
from cus.training.scripts import run
from cus.training.unet import UNetConfig, UNetStage


def main(config: UNetConfig, on_progress: Callable[[int, int], None]) -> None:
    """Train and export the pipeline to `<out>/export`."""
    stage = UNetStage(config)
    train(stage, stage.dataset(), config.loop, Path(config.out), on_progress)


if __name__ == "__main__":
    sys.exit(run(UNetConfig, main, sys.argv[1:]))
