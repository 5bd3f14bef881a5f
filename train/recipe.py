"""The paper's four stages: U-Net, decoder with skips, U-Net with structure guidance, decoder; and what lies between.

    python train/recipe.py configs/full/recipe.yaml out=runs/recipe init=models/viewcrafter clips=runs/dl3dv/train
    accelerate launch train/recipe.py configs/full/recipe.yaml ...      on several GPUs, of any number of nodes
    python train/recipe.py configs/full/recipe.yaml ... dry_run=true processes=8      estimate time and disk

The same command resumes where it stopped, after Ctrl-C or a kill, also with another number of processes. Clips are
those of data/build_clips.py. <out>/guided_decoder/export is the model.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Do unfinished parts."""
    from cus.training.recipe import estimate, run
    from cus.training.recipe_jobs import Recipe
    from cus.training.scripts import settings_of

    settings = settings_of(Recipe, arguments)
    (estimate if settings.dry_run else run)(settings, counter, counter.say)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/recipe.py", __doc__, sys.argv[1:]))
