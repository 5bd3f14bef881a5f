"""Train the small first-stage VAE: `python train/vae.py configs/mini/vae.yaml out=runs/vae clips=runs/clips`.

`accelerate launch train/vae.py ...` uses all GPUs. The same command again continues where it stopped.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from cus.training.loop import train
from cus.training.scripts import run
from cus.training.vae import VaeConfig, VaeStage


def main(config: VaeConfig, on_progress: Callable[[int, int], None]) -> None:
    """Train and export to `<out>/export`."""
    stage = VaeStage(config)
    train(stage, stage.dataset(), config.loop, Path(config.out), on_progress)


if __name__ == "__main__":
    sys.exit(run(VaeConfig, main, sys.argv[1:]))
