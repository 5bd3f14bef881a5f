"""Make the structure images of clips: the coarse frames of a trained model, fused and rendered from the clips' cameras.

    python data/make_coarse.py clips=runs/clips/train out=runs/coarse model=runs/decoder/export generated=runs/generated
    accelerate launch data/make_coarse.py ...      one process a GPU, on any number of nodes

Clips are those of data/build_clips.py, which contain cameras and depths. They are divided among the processes started
by accelerate or torchrun, or by `part=0 parts=4`. The same command resumes where it stopped, and retries failed clips;
<out>/without/*.json says why a clip has no structure image.

`structure=runs/coarse` of train/unet.py trains with them (Section III-D of the paper).
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Make missing structure images."""
    from cus.training.coarse_clips import CoarseClips, build
    from cus.training.scripts import settings_of

    build(settings_of(CoarseClips, arguments), counter, counter.say)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_coarse.py", __doc__, sys.argv[1:]))
