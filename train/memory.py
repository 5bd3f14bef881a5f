"""Print how much memory a GPU needs to train the full-size U-Net, setting by setting; needs no GPU and no weights.

    python train/memory.py [config.yaml] [key=value ...]

Computed for the settings' frames, crop, loop.batch and loop.precision; the table itself has all useful combinations of
what is trained, gradient checkpointing, optimizer, averages and number of GPUs.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> str:
    """The table, as Markdown."""
    from cus.training.memory import table
    from cus.training.scripts import settings_of
    from cus.training.unet import UNetConfig

    return table(settings_of(UNetConfig, ["out=unused", *arguments]), counter)


if __name__ == "__main__":
    sys.exit(
        run_script(lambda arguments, counter: print(main(arguments, counter)), "train/memory.py", __doc__, sys.argv[1:])
    )
