"""Build close-up training clips from procedural scenes.

    python data/make_procedural.py out=runs/clips clips=400
    python data/make_procedural.py out=runs/heldout scenes=traced clips=12 first_seed=900000

Repeated runs are safe: existing clips are skipped. Several processes share the work with `part=0 parts=4`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` is not installed

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build missing clips."""
    from cus.training.scripts import settings_of
    from procedural.rendered_clips import ProceduralClips, build

    build(settings_of(ProceduralClips, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_procedural.py", __doc__, sys.argv[1:]))
