"""Build close-up training clips from procedural scenes.

    python data/make_procedural.py out=runs/clips clips=400
    python data/make_procedural.py out=runs/heldout scenes=traced clips=12 first_seed=900000

Runs over one another are safe: clips that exist are skipped. Several processes share the work with `part=0 parts=4`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING
from rich.progress import track

from cus.cameras import Cameras
from cus.datasets import collage, procedural
from cus.datasets.clips import save_clip
from cus.datasets.closeup import ClipRecipe, make_clip
from cus.errors import InputError
from cus.training import config


@dataclass
class Settings:
    """What to build.

    Attributes:
        out: folder of the clips.
        clips: how many.
        scenes: "collage" (fast), "traced" (slower, closer to photographs).
        first_seed: seed of the first clip; clip i has `first_seed + i`. Keep training and held-out ranges apart.
        supersample: samples a pixel along each axis.
        reference_widths: widths of the reference pictures, taken in turns. Photographs are warped at sizes from the
            frames' own to several times that.
        recipe: of each clip.
        part: this process's share, 0 .. parts - 1.
        parts: number of processes.
    """

    out: str = MISSING
    clips: int = 100
    scenes: str = "collage"
    first_seed: int = 0
    supersample: int = 2
    reference_widths: list[int] = field(default_factory=lambda: [384, 512, 768, 1024])
    recipe: ClipRecipe = field(default_factory=ClipRecipe)
    part: int = 0
    parts: int = 1


def scene_of(settings: Settings, seed: int) -> tuple[Callable[[Cameras], tuple[torch.Tensor, torch.Tensor]], Cameras]:
    """Renderer and reference cameras of scene `seed`."""
    recipe = settings.recipe
    width = settings.reference_widths[seed % len(settings.reference_widths)]
    height = round(width * recipe.height / recipe.width)
    if settings.scenes == "collage":
        scene = collage.Collage.random(seed)
        # Large references have pixels enough: edges need no further samples there.
        samples = {width: 1} if width > 1.5 * recipe.width else {}
        return (
            lambda c: collage.render(scene, c, samples.get(c.width, settings.supersample)),
            collage.reference_cameras(seed, width, height),
        )
    if settings.scenes == "traced":
        traced = procedural.random_scene(seed)
        references = procedural.sample_reference_cameras(traced, seed, width, height)
        return lambda c: procedural.render(traced, c, settings.supersample), references
    raise InputError(f"scenes must be 'collage' or 'traced', got {settings.scenes!r}")


def main() -> None:
    """Build what is missing."""
    settings = config.resolve(Settings, None, sys.argv[1:])
    out = Path(settings.out)
    config.save(settings, out / "settings.yaml")
    for index in track(range(settings.part, settings.clips, settings.parts), description="clips"):
        seed = settings.first_seed + index
        path = out / f"clip-{seed:07d}.safetensors"
        if not path.exists():
            render, references = scene_of(settings, seed)
            save_clip(path, make_clip(render, references, settings.recipe, seed, {"scenes": settings.scenes}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
