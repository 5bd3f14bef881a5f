"""Pose photographs or a video with COLMAP, as a scene for data/build_clips.py: images/ and sparse/0/.

    python data/pose_scene.py photographs=walk.mp4 out=runs/posed/walk frames=80
    python data/build_clips.py configs/clips/small.yaml out=runs/clips "scenes=[runs/posed]" licence=...

Photographs without overlap are left out and named. cus-check-scene checks the result independently.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Pose one scene."""
    from cus.training.pose_scene import SceneToPose, build
    from cus.training.scripts import settings_of

    build(settings_of(SceneToPose, arguments), counter, counter.say)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/pose_scene.py", __doc__, sys.argv[1:]))
