"""Close-up training clips from procedural scenes; data/make_procedural.py is their command."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from cus.cameras import Cameras
from cus.datasets.clips import is_clip, save_clip
from cus.limits import limited
from procedural.close_up_clips import ClipRecipe, make_clip
from procedural.seeded import Render, build_seeded, seeded_scene


@dataclass
class ProceduralClips:
    """Settings of the clips to build.

    Attributes:
        out: output folder of the clips.
        clips: number of clips.
        scenes: "collage" (fast), "traced" (slower, closer to photographs).
        first_seed: seed of the first clip; clip i has `first_seed + i`. Keep training and held-out ranges apart.
        supersample: number of samples per pixel along each axis.
        reference_widths: widths of the reference pictures, used in turn. Photographs are warped at sizes from that of
            the frames to several times that.
        recipe: settings of each clip.
        part: index of this process's share, 0 .. parts - 1.
        parts: number of processes.
    """

    out: str = MISSING
    clips: int = limited(100, low=1)
    scenes: str = limited("collage", choices=("collage", "traced"))
    first_seed: int = limited(0, low=0)
    supersample: int = limited(2, low=1, high=16)
    reference_widths: list[int] = limited(default_factory=lambda: [384, 512, 768, 1024], low=16, high=8192)
    recipe: ClipRecipe = field(default_factory=ClipRecipe)
    part: int = limited(0, low=0)
    parts: int = limited(1, low=1)


def scene_of(settings: ProceduralClips, seed: int) -> tuple[Render, Cameras]:
    """Renderer and reference cameras of scene `seed`."""
    recipe = settings.recipe
    width = settings.reference_widths[seed % len(settings.reference_widths)]
    # Large references of a collage have enough pixels: edges need no additional samples there.
    few = settings.scenes == "collage" and width > 1.5 * recipe.width

    def samples(cameras: Cameras) -> int:
        return 1 if few and cameras.width == width else settings.supersample

    return seeded_scene(settings.scenes, seed, width, round(width * recipe.height / recipe.width), samples)


def build(settings: ProceduralClips, on_progress: Callable[[int, int], None]) -> None:
    """Build missing clips. Raises InputError."""

    def make(seed: int, path: Path) -> None:
        render, references = scene_of(settings, seed)
        save_clip(path, make_clip(render, references, settings.recipe, seed, {"scenes": settings.scenes}))

    build_seeded(settings, "clips", "training clips", "clip-", is_clip, make, on_progress)
