"""Train the small first-stage VAE: `python train/vae.py configs/mini/vae.yaml out=runs/vae clips=runs/clips`.

`accelerate launch train/vae.py ...` uses all GPUs. The same command resumes where it stopped.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Train and export to `<out>/export`."""
    from cus.training.scripts import train_stage
    from cus.training.vae import VaeConfig, VaeStage

    train_stage(VaeConfig, VaeStage, arguments, counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/vae.py", __doc__, sys.argv[1:]))
