"""Build training clips from posed scenes: close-ups with pseudo and photographic ground truth, and regular views.

    python data/build_clips.py configs/clips/dl3dv.yaml out=runs/dl3dv "scenes=[data/DL3DV-10K]" "licence=DL3DV terms"
    accelerate launch data/build_clips.py configs/clips/dl3dv.yaml ...      one process per GPU, on any number of nodes
    python data/build_clips.py configs/clips/dl3dv.yaml ... dry_run=true    measure a part, estimate time and disk

Scenes are divided among the processes started by accelerate or torchrun, or by `part=0 parts=4`. The same command
resumes where it stopped, and retries failed scenes. `<out>/train` and `<out>/held_out` are for `clips=` and `held_out=`
of train/unet.py; `<out>/manifest.json` lists the clips with their checksums and the verdicts of all filters, what was
left out, and which scenes failed for which reason.

docs/data.md explains the clips and their cost.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Build missing clips."""
    from cus.training.scene_clips import SceneClips, build
    from cus.training.scene_estimate import estimate
    from cus.training.scripts import settings_of

    settings = settings_of(SceneClips, arguments)
    (estimate if settings.dry_run else build)(settings, counter, counter.say)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/build_clips.py", __doc__, sys.argv[1:]))
