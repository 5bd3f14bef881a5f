"""Procedural scenes by seed, and what is built of them, one file per seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.scripts import REMEDY
from procedural import collage, tracer

Render = Callable[[Cameras], tuple[Tensor, Tensor]]


def seeded_scene(
    scenes: str, seed: int, width: int, height: int, samples: Callable[[Cameras], int]
) -> tuple[Render, Cameras]:
    """Renderer and reference cameras of a scene.

    Args:
        scenes: "collage" or "traced" (rooms and yards).
        seed: seed of the scene and of its cameras.
        width: width of the references in pixels.
        height: height of the references in pixels.
        samples: number of samples per pixel along each axis, for the cameras to render.
    """
    if scenes == "collage":
        boards = collage.Collage.random(seed)
        cameras = collage.reference_cameras(seed, width, height)
        return lambda c: collage.render(boards, c, samples(c)), cameras
    traced = tracer.random_scene(seed)
    cameras = tracer.sample_reference_cameras(traced, seed, width, height)
    return lambda c: tracer.render(traced, c, samples(c)), cameras


def build_seeded(
    settings: Any,
    counted: str,
    what: str,
    prefix: str,
    is_made: Callable[[Path], bool],
    make: Callable[[int, Path], None],
    on_progress: Callable[[int, int], None],
) -> None:
    """Make the missing files of one process's share.

    Args:
        settings: `out`, `first_seed`, `part`, `parts`, and the number of files. A file depends on its seed, not on
            these.
        counted: name of the setting with the number of files.
        what: what the folder holds, for messages.
        prefix: start of the files' names, before the seed.
        is_made: whether a file is whole.
        make: make the file of a seed.
        on_progress: called with (files done, total).

    Raises:
        InputError: a part that is not one of the parts, or what opening the folder refuses.
    """
    if settings.part >= settings.parts:
        raise InputError(f"part must be less than parts ({settings.parts}), got {settings.part}")
    folder = OutputFolder(Path(settings.out), what, REMEDY)
    pattern = f"{prefix.partition('-')[0]}-*.safetensors"
    folder.open(("settings.yaml", pattern), share=f"-{settings.part}-of-{settings.parts}")
    try:
        config.write(settings, folder, "settings.yaml", ("out", counted, "first_seed", "part", "parts"))
        indices = range(settings.part, getattr(settings, counted), settings.parts)
        for done, index in enumerate(indices):
            on_progress(done, len(indices))
            seed = settings.first_seed + index
            name = f"{prefix}{seed:07d}.safetensors"
            if not (folder.is_ours(name) and is_made(folder.path / name)):
                make(seed, folder.claim(name))
        on_progress(len(indices), len(indices))
    finally:
        folder.close()
