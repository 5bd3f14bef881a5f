"""Train depth of a single picture without labels: `python train/single_view.py configs/mini/mono.yaml out=.. views=..`.

It learns from sets of posed pictures, made by data/make_views.py. The same command resumes where it stopped.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Train and export to `<out>/export`."""
    from cus.training.scripts import train_stage
    from cus.training.single_view import SingleViewConfig, SingleViewStage

    train_stage(SingleViewConfig, SingleViewStage, arguments, counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/single_view.py", __doc__, sys.argv[1:]))
