"""Small sets of posed views of procedural scenes (`cus.datasets.posed_views`); data/make_views.py is their command."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from cus.cameras import trajectories
from cus.datasets.clips import open_tensors
from cus.datasets.posed_views import FORMAT, KIND, PosedViews, save_views
from cus.errors import InputError
from cus.limits import limited
from procedural.seeded import build_seeded, seeded_scene


@dataclass
class ProceduralViews:
    """Settings of the sets to build.

    Attributes:
        out: output folder of the sets.
        sets: number of sets, each with its own scene.
        scenes: "traced" (rooms and yards) or "collage".
        first_seed: seed of the first set; set i has `first_seed + i`. Keep training and held-out ranges apart.
        views: number of views of a scene, on a path between two photographs spaced by 5 to 18 % of their distance.
        width: width of the views in pixels.
        height: height of the views in pixels.
        supersample: number of samples per pixel along each axis.
        depths: whether to write exact depths, too, for evaluation; training never reads them.
        part: index of this process's share, 0 .. parts - 1.
        parts: number of processes.
    """

    out: str = MISSING
    sets: int = limited(1000, low=1)
    scenes: str = limited("traced", choices=("traced", "collage"))
    first_seed: int = limited(0, low=0)
    views: int = limited(3, low=2, high=100)
    width: int = limited(192, low=16, high=8192)
    height: int = limited(128, low=16, high=8192)
    supersample: int = limited(1, low=1, high=16)
    depths: bool = False
    part: int = limited(0, low=0)
    parts: int = limited(1, low=1)


def views_of(settings: ProceduralViews, seed: int) -> PosedViews:
    """The views of scene `seed`."""
    size = settings.width, settings.height
    render, ends = seeded_scene(settings.scenes, seed, *size, lambda _: settings.supersample)
    cameras = trajectories.interpolate(ends, frames=settings.views)
    images, depths = render(cameras)
    return PosedViews(images, cameras, depths if settings.depths else None, {"scenes": settings.scenes, "seed": seed})


def build(settings: ProceduralViews, on_progress: Callable[[int, int], None]) -> None:
    """Build missing sets. Raises InputError."""

    def make(seed: int, path: Path) -> None:
        save_views(path, views_of(settings, seed))

    prefix = f"views-{settings.scenes}-"
    build_seeded(settings, "sets", "sets of posed views", prefix, _is_set, make, on_progress)


def _is_set(path: Path) -> bool:
    try:
        with open_tensors(path, FORMAT, KIND):
            return True
    except InputError:
        return False
