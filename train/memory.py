"""Print how much memory a GPU needs to train the full-size U-Net, setting by setting; needs no GPU and no weights.

    python train/memory.py [config.yaml] [key=value ...]

Counted for the settings' frames, crop, loop.batch and loop.precision; those of the table itself (what is trained,
gradient checkpointing, optimizer, averages, number of GPUs) come in all combinations that are of use.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> str:
    """The table, as Markdown."""
    from cus.training.memory_table import table
    from cus.training.scripts import settings_of
    from cus.training.unet import UNetConfig

    return table(settings_of(UNetConfig, ["out=unused", *arguments]), counter)


if __name__ == "__main__":
    sys.exit(
        run_script(lambda arguments, counter: print(main(arguments, counter)), "train/memory.py", __doc__, sys.argv[1:])
    )
