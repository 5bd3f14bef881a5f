"""Render a procedural scene as posed photographs: images/ and transforms.json, in nerfstudio's layout.

    python data/make_scene.py out=runs/scene
    python data/make_scene.py out=runs/scene seed=5 views=24 width=1920 height=1080 supersample=2

A test scene for data/build_clips.py, cus-check-scene and cus-fit, with exact cameras and light.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `procedural` is not installed

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Render missing photographs."""
    from cus.training.scripts import settings_of
    from procedural.posed_scene import PosedScene, build

    build(settings_of(PosedScene, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_scene.py", __doc__, sys.argv[1:]))
