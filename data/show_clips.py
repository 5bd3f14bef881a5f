"""Draw clips of a folder, to check them before training.

    python data/show_clips.py clips=runs/dl3dv/train out=clips.png
    python data/show_clips.py clips=runs/shards/train out=clips.png count=12 width=320

A row is a clip: its references, its first and last frame with their conditioning, and the last frame's other warps.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from cus.cli.scripts import Counter, run_script
from cus.limits import limited


@dataclass
class ShownClips:
    """Settings of the picture.

    Attributes:
        clips: folder of clips, or of tar files of them.
        out: path of the picture, PNG or JPEG.
        count: number of clips, evenly spaced over the folder.
        width: width of each picture in pixels.
        overwrite: replace an existing picture.
    """

    clips: str
    out: str
    count: int = limited(6, low=1, high=200)
    width: int = limited(240, low=16, high=4096)
    overwrite: bool = False


def main(arguments: list[str], counter: Counter) -> None:
    """Draw the clips."""
    import numpy as np

    from cus.datasets.clip_picture import clip_picture
    from cus.datasets.clips import clip_paths, load_clip
    from cus.errors import InputError
    from cus.files import check_target, replacing
    from cus.remote import local_folder
    from cus.training.scripts import settings_of

    settings = settings_of(ShownClips, arguments)
    if Path(settings.out).suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"out={settings.out} is no name of a picture; end it in .png or .jpg")
    check_target(settings.out, overwrite=settings.overwrite, option="overwrite=true")
    paths = clip_paths(local_folder(settings.clips))
    places = np.unique(np.linspace(0, len(paths) - 1, min(settings.count, len(paths))).round().astype(int))
    clips = []
    for done, place in enumerate(places):
        counter(done, len(places))
        clip = load_clip(paths[place])
        told = (f"{name} {clip.info[name]}" for name in ("truth", "path", "zoom") if name in clip.info)
        clips.append((f"{paths[place].stem}: {', '.join(told)}", clip))
    with replacing(settings.out) as part:
        clip_picture(clips, settings.width).save(part)
    counter(len(places), len(places))


if __name__ == "__main__":
    sys.exit(run_script(main, "data/show_clips.py", __doc__, sys.argv[1:]))
