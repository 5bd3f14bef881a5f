"""Build small sets of posed views of procedural scenes, for learning depth without labels.

    python data/make_views.py out=runs/views sets=2000
    python data/make_views.py out=runs/views_held_out sets=60 first_seed=900000 depths=true

Repeated runs are safe: existing sets are skipped. Several processes share the work with `part=0 parts=4`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` is not installed

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build missing sets."""
    from cus.training.scripts import settings_of
    from procedural.posed_views import ProceduralViews, build

    build(settings_of(ProceduralViews, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_views.py", __doc__, sys.argv[1:]))
