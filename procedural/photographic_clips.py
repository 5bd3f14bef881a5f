"""Close-up training clips from scenes of photographs; data/make_photographic.py is their command."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from cus.datasets.clips import save_clip
from cus.datasets.structures import RECORD
from cus.errors import InputError
from cus.files import read_json
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.coarse_clips import CoarsePass
from cus.training.scripts import REMEDY
from procedural.photo_clips import Guide, PhotoClipRecipe, make_photo_clips
from procedural.photographs import Photograph, read_manifest


@dataclass
class PhotographicClips:
    """Settings of the clips to build.

    Attributes:
        out: output folder of the clips.
        photographs: manifest of the photographs (`procedural.photographs`).
        scenes: number of scenes; each gives up to `recipe.windows` clips.
        first_seed: seed of the first scene; scene i has `first_seed + i`. Keep training and held-out ranges apart.
        recipe: settings of each clip.
        coarse: model whose first pass makes the clips' structure images: a folder or Hub id; empty: none. Everything
            else in the clips is independent of it.
        coarse_frames: length of the path that it renders, including a clip's own frames.
        part: index of this process's share, 0 .. parts - 1.
        parts: number of processes.
    """

    out: str = MISSING
    photographs: str = MISSING
    scenes: int = limited(100, low=1)
    first_seed: int = limited(0, low=0)
    recipe: PhotoClipRecipe = field(default_factory=PhotoClipRecipe)
    coarse: str = ""
    coarse_frames: int = limited(10, low=2, high=1000)
    part: int = limited(0, low=0)
    parts: int = limited(1, low=1)


def build(settings: PhotographicClips, on_progress: Callable[[int, int], None]) -> None:
    """Build missing clips, and list the photographs used in `<out>/photographs-*.json`. Raises InputError."""
    if settings.part >= settings.parts:
        raise InputError(f"part must be less than parts ({settings.parts}), got {settings.part}")
    photographs = read_manifest(Path(settings.photographs))
    guide = CoarsePass(settings.coarse, settings.coarse_frames) if settings.coarse else None
    folder = OutputFolder(Path(settings.out), "training clips", REMEDY)
    planned = ("settings.yaml", "clip-*.safetensors", "scene-*.json", "photographs-*.json", RECORD)
    share = f"-{settings.part}-of-{settings.parts}"
    folder.open(planned, share=share)
    try:
        # A clip depends on its seed and the photographs, not on the number of clips.
        config.write(settings, folder, "settings.yaml", ("out", "scenes", "first_seed", "part", "parts"))
        if guide is not None:
            guide.record(folder)
        indices = range(settings.part, settings.scenes, settings.parts)
        entered: set[str] = set()
        for done, index in enumerate(indices):
            on_progress(done, len(indices))
            entered |= _scene(folder, settings, photographs, settings.first_seed + index, guide)
            listed = [photograph.entry() for photograph in photographs if photograph.path.name in entered]
            text = json.dumps({"photographs": listed}, indent=1)
            folder.write(f"photographs{share}.json", lambda part, text=text: part.write_text(text))
        on_progress(len(indices), len(indices))
    finally:
        folder.close()


def _scene(
    folder: OutputFolder,
    settings: PhotographicClips,
    photographs: Sequence[Photograph],
    seed: int,
    guide: Guide | None,
) -> set[str]:
    """Make the clips of a scene unless it is done; returns the names of the photographs in them."""
    # A scene is done if its mark exists; one for which the estimator failed only has a mark.
    mark = f"scene-{seed:07d}.json"
    if folder.is_ours(mark):
        return set(read_json(folder.path / mark)["photographs"])
    clips = make_photo_clips(photographs, settings.recipe, seed, guide)
    for number, clip in enumerate(clips):
        save_clip(folder.claim(f"clip-{seed:07d}-{number}.safetensors"), clip)
    names = sorted({name for clip in clips for name in clip.info["photographs"]})
    made = {"clips": len(clips), "photographs": names}
    if guide is not None:
        made["without_structure"] = sum(clip.structure is None for clip in clips)
    text = json.dumps(made)
    folder.write(mark, lambda part: part.write_text(text))
    return set(names)
