"""Make the structure images of clips: the coarse frames of a trained model, fused and seen from the clips' cameras.

    python data/make_coarse.py clips=runs/clips/train out=runs/coarse model=runs/decoder/export generated=runs/generated
    accelerate launch data/make_coarse.py ...      one process a GPU, on any number of nodes

Clips are those of data/build_clips.py, which hold cameras and depths. They are split over the processes that accelerate
or torchrun start, or by `part=0 parts=4`. A clip is done or not done; the same command again goes on where it stopped,
and tries those that failed once more; <out>/without/*.json says why a clip has no structure image.

`structure=runs/coarse` of train/unet.py trains on them (Section III-D of the paper).
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Make what is missing."""
    from cus.training.coarse_clips import CoarseClips, build
    from cus.training.scripts import settings_of

    build(settings_of(CoarseClips, arguments), counter, counter.say)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_coarse.py", __doc__, sys.argv[1:]))
