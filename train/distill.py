"""Make a student of few steps: `accelerate launch train/distill.py configs/full/distill.yaml out=... init=...`.

Its samples come to be distributed as those of the trained model `init`, guidance included, by distribution matching
with a critic, which is that model with a LoRA. The same command again continues where it stopped. <out>/export takes
`sampling.steps` steps without guidance.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Train and export the pipeline to `<out>/export`."""
    from cus.training.distill import DistillConfig, DistillStage
    from cus.training.scripts import train_stage

    train_stage(DistillConfig, DistillStage, arguments, counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/distill.py", __doc__, sys.argv[1:]))
