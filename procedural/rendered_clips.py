"""Close-up training clips from procedural scenes; data/make_procedural.py is their command."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING

from cus.cameras import Cameras
from cus.datasets.clips import is_clip, save_clip
from cus.errors import InputError
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.scripts import REMEDY
from procedural import collage, tracer
from procedural.close_up_clips import ClipRecipe, make_clip


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


def scene_of(
    settings: ProceduralClips, seed: int
) -> tuple[Callable[[Cameras], tuple[torch.Tensor, torch.Tensor]], Cameras]:
    """Renderer and reference cameras of scene `seed`."""
    recipe = settings.recipe
    width = settings.reference_widths[seed % len(settings.reference_widths)]
    height = round(width * recipe.height / recipe.width)
    if settings.scenes == "collage":
        scene = collage.Collage.random(seed)
        # Large references have enough pixels: edges need no additional samples there.
        samples = {width: 1} if width > 1.5 * recipe.width else {}
        return (
            lambda c: collage.render(scene, c, samples.get(c.width, settings.supersample)),
            collage.reference_cameras(seed, width, height),
        )
    traced = tracer.random_scene(seed)
    references = tracer.sample_reference_cameras(traced, seed, width, height)
    return lambda c: tracer.render(traced, c, settings.supersample), references


def build(settings: ProceduralClips, on_progress: Callable[[int, int], None]) -> None:
    """Build missing clips. Raises InputError."""
    if settings.part >= settings.parts:
        raise InputError(f"part must be less than parts ({settings.parts}), got {settings.part}")
    folder = OutputFolder(Path(settings.out), "training clips", REMEDY)
    folder.open(("settings.yaml", "clip-*.safetensors"), share=f"-{settings.part}-of-{settings.parts}")
    try:
        # A clip depends on its seed, not on the number of clips.
        config.write(settings, folder, "settings.yaml", ("out", "clips", "first_seed", "part", "parts"))
        indices = range(settings.part, settings.clips, settings.parts)
        for done, index in enumerate(indices):
            on_progress(done, len(indices))
            seed = settings.first_seed + index
            name = f"clip-{seed:07d}.safetensors"
            if not (folder.is_ours(name) and is_clip(folder.path / name)):
                render, references = scene_of(settings, seed)
                clip = make_clip(render, references, settings.recipe, seed, {"scenes": settings.scenes})
                save_clip(folder.claim(name), clip)
        on_progress(len(indices), len(indices))
    finally:
        folder.close()
