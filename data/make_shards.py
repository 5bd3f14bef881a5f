"""Pack clips of data/build_clips.py into WebDataset tar files, which training reads like a folder of clips.

    python data/make_shards.py clips=runs/dl3dv out=runs/shards
    python train/unet.py configs/full/unet.yaml clips=runs/shards/train held_out=runs/shards/held_out ...

Every clip is checked against the manifest's SHA-256. The same command resumes where it stopped; processes share
the work as in data/build_clips.py.
"""

import sys

from cus.cli.scripts import Counter, run_script


def main(arguments: list[str], counter: Counter) -> None:
    """Pack missing shards."""
    from cus.training.scripts import settings_of
    from cus.training.shards import Shards, build

    build(settings_of(Shards, arguments), counter)


if __name__ == "__main__":
    sys.exit(run_script(main, "data/make_shards.py", __doc__, sys.argv[1:]))
