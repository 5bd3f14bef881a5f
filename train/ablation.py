"""Train the models of an ablation's lines equally long, and write the evaluation that compares them.

    python train/ablation.py configs/mini/table3.yaml out=runs/table3 clips=runs/clips
    cus-eval --data photos --config runs/table3/evaluation.yaml --out eval/table3

The clips contain every line's conditioning: data/make_photographic.py "recipe.others=[hierarchical,low,high]". The same
command resumes where it stopped; finished lines are not trained again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` is not installed

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Train unfinished lines."""
    from cus.training.scripts import settings_of
    from procedural.ablation import Ablation, run

    run(settings_of(Ablation, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "train/ablation.py", __doc__, sys.argv[1:]))
