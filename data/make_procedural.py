"""Build close-up training clips from procedural scenes.

    python data/make_procedural.py out=runs/clips clips=400
    python data/make_procedural.py out=runs/heldout scenes=traced clips=12 first_seed=900000

Runs over one another are safe: clips that exist are skipped. Several processes share the work with `part=0 parts=4`.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build what is missing."""
    from cus.training.procedural_clips import ProceduralClips, build
    from cus.training.scripts import settings_of

    build(settings_of(ProceduralClips, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_procedural.py", __doc__, sys.argv[1:]))
