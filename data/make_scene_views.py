"""Build small sets of posed views from posed photographs, for learning depth without labels.

    python data/make_scene_views.py out=runs/photo_views "scenes=[scenes/castle,scenes/door]" "licence=CC BY 4.0"
    python data/make_scene_views.py out=runs/photo_views "scenes=[scenes]" "without=[table]" "licence=CC BY 4.0"

Scenes are in any layout that cus-check-scene reads. Put the sets with those of data/make_views.py to train on both.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build the sets."""
    from cus.training.scene_views import SceneViews, build
    from cus.training.scripts import settings_of

    build(settings_of(SceneViews, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_scene_views.py", __doc__, sys.argv[1:]))
