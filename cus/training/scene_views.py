"""Small sets of posed views of posed photographs (`cus.datasets.posed_views`), made by data/make_scene_views.py."""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.datasets.clips import SUFFIX
from cus.datasets.posed_views import PosedViews, save_views
from cus.datasets.scenes import SceneSource, find_scenes, open_source
from cus.errors import InputError
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.training import config
from cus.training.scripts import REMEDY

# Typical distance of neighbours in procedural scenes, whose unit is the metre.
NEIGHBOURS = 0.3
MANIFEST = "manifest.json"


@dataclass
class SceneViews:
    """Settings of the sets to build.

    Attributes:
        out: output folder of the sets, with `manifest.json`.
        scenes: posed scenes, or folders of them, in any layout of `cus.datasets.scenes`.
        licence: licence of the photographs, for the manifest.
        without: names of scenes to exclude from training, such as those of an evaluation.
        views: number of views per set: a photograph and its nearest neighbours.
        width: width of the views in pixels; photographs with a wider or narrower aspect ratio are centre-cropped.
        height: height of the views in pixels.
    """

    out: str = MISSING
    scenes: list[str] = field(default_factory=list)
    licence: str = MISSING
    without: list[str] = field(default_factory=list)
    views: int = limited(3, low=2, high=100)
    width: int = limited(192, low=16, high=8192)
    height: int = limited(128, low=16, high=8192)


def sets_of(posed: PosedPhotos, views: int, size: tuple[int, int]) -> Iterator[PosedViews]:
    """A set for each photograph with neighbours of the same size: itself and the nearest of these.

    The world is scaled such that the mean distance of neighbours is `NEIGHBOURS`: poses of photographs have arbitrary
    units, and the network learns lengths.

    Args:
        posed: photographs of a scene with cameras.
        views: number of views per set.
        size: (width, height) of the views in pixels.
    """
    c2w = torch.linalg.inv(posed.viewmats.double())
    distances = torch.cdist(c2w[:, :3, 3], c2w[:, :3, 3])
    apart = distances + torch.diag(torch.full((len(posed),), math.inf, dtype=distances.dtype))
    scale = NEIGHBOURS / float(apart.amin(dim=1).mean())
    for view in range(len(posed)):
        alike = [other for other in range(len(posed)) if posed.sizes[other] == posed.sizes[view]]
        nearest = sorted(alike, key=lambda other, view=view: (float(distances[view, other]), other))[:views]
        if len(nearest) < views:
            continue
        images, cameras = _framed(posed.select(nearest), size)
        viewmats = cameras.viewmats.clone()
        viewmats[:, :3, 3] *= scale
        moved = Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)
        names = [posed.paths[other].name for other in nearest]
        yield PosedViews(images, moved, None, {"photographs": names, "unit": scale})


def _framed(posed: PosedPhotos, size: tuple[int, int]) -> tuple[Tensor, Cameras]:
    """Centre-cropped pictures of one size, with their cameras."""
    width, height = size
    own_width, own_height = posed.sizes[0]
    scale = max(width / own_width, height / own_height)
    images, cameras = posed.load(max(width, round(own_width * scale)), max(height, round(own_height * scale)))
    x, y = (images.shape[-1] - width) // 2, (images.shape[-2] - height) // 2
    return images[..., y : y + height, x : x + width].contiguous(), cameras.cropped(x, y, width, height)


def build(settings: SceneViews, on_progress: Callable[[int, int], None]) -> None:
    """Build the sets of unfinished scenes; `manifest.json` has their numbers. Raises InputError."""
    sources = [source for path in settings.scenes for source in find_scenes(path)]
    unknown = sorted(set(settings.without) - {source.name for source in sources})
    if unknown:
        raise InputError(f"without names scenes that are not there: {', '.join(unknown)}")
    chosen = [source for source in sources if source.name not in settings.without]
    if not chosen:
        raise InputError("there is no scene to build sets of; name folders with scenes=[a,b]")
    folder = OutputFolder(Path(settings.out), "sets of posed views", REMEDY)
    folder.open(("settings.yaml", MANIFEST, "views-*.safetensors"))
    try:
        config.write(settings, folder, "settings.yaml", ("out", "scenes", "without"))
        _require_only(folder, [source.name for source in chosen])
        counts = {}
        for done, source in enumerate(chosen):
            on_progress(done, len(chosen))
            counts[source.name] = _build_scene(source, settings, folder)
        if not any(counts.values()):
            raise InputError(f"no scene has {settings.views} photographs of one size; choose fewer views")
        text = json.dumps({"licence": settings.licence, "sets": counts, "without": settings.without}, indent=1)
        folder.write(MANIFEST, lambda part: part.write_text(text))
        on_progress(len(chosen), len(chosen))
    finally:
        folder.close()


def _build_scene(source: SceneSource, settings: SceneViews, folder: OutputFolder) -> int:
    """Build the sets of a scene; returns their number."""
    count = 0
    for count, views in enumerate(sets_of(open_source(source), settings.views, (settings.width, settings.height)), 1):
        save_views(folder.claim(f"{_prefix(source.name)}{count:04d}{SUFFIX}"), views)
    return count


def _prefix(scene: str) -> str:
    """How the names of a scene's sets begin."""
    return f"views-{scene.replace('/', '-')}-"


def _require_only(folder: OutputFolder, scenes: Sequence[str]) -> None:
    """Refuse sets of other scenes, which would be trained on although the manifest does not name them."""
    prefixes = {_prefix(scene) for scene in scenes}
    for file in folder.made:
        found = re.fullmatch(rf"(.+-)\d+{re.escape(SUFFIX)}", file)
        if found and found[1] not in prefixes and folder.is_ours(file):
            raise InputError(
                f"{folder.path} holds {file}, of a scene that is not among those to build now; give another out=, or "
                "delete that scene's sets"
            )
