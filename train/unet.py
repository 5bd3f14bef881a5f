"""Train the denoising U-Net: `accelerate launch train/unet.py configs/full/unet.yaml out=runs/unet latents=...`.

Plain `python` trains in one process. The same command resumes where it stopped; Ctrl-C saves first.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Train and export the pipeline to `<out>/export`."""
    from cus.training.scripts import train_stage
    from cus.training.unet import UNetConfig, UNetStage

    train_stage(UNetConfig, UNetStage, arguments, counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/unet.py", __doc__, sys.argv[1:]))
