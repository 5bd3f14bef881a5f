"""Training clips through what inference runs: estimated depths, fused conditioning with layers, real pictures' detail.

Two kinds. "estimated": references of a scene of photographs go through the stereo estimator. "exact": a photograph on a
plane, whose exact depths are made wrong smoothly; cheap, and its pairs are exact where the depth is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from cus.cameras import Cameras, trajectories
from cus.conditioning import agree, fused_warp
from cus.datasets import collage
from cus.datasets.clips import Clip
from cus.datasets.closeup import ClipRecipe, imperfect
from cus.datasets.photo_scenes import random_photo_scene
from cus.datasets.photographs import Photograph, as_taken
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene


@dataclass
class PhotoClipRecipe:
    """What the clips of a data set look like.

    Attributes:
        frames: length of a clip: neighbours on a path.
        width: of a whole target picture and of the references at the estimator, in pixels.
        height: likewise.
        window_width: of the window of the target that a clip holds, in pixels.
        window_height: likewise.
        windows: clips made of one scene: the estimate is what costs.
        path_frames: length of the path that the neighbours are taken from.
        zoom: range of magnifications at the path's end.
        exact_fraction: share of the scenes that are "exact".
        large_fraction: share of the scenes whose photographs are twice as large as what the estimator sees.
        errors: of "exact" scenes' depths and cameras; its other fields do not matter here.
        least_coverage: windows of which the references show less are left out.
        least_detail: most of the windows whose neighbouring pixels differ by less, on average, are left out.
        least_psnr: windows whose fused image is further from the truth, in dB, are left out: there the estimate put
            something elsewhere, and a model would learn to hedge.
    """

    frames: int = 4
    width: int = 384
    height: int = 256
    window_width: int = 192
    window_height: int = 128
    windows: int = 4
    path_frames: int = 25
    zoom: tuple[float, float] = (2.5, 5.0)
    exact_fraction: float = 0.4
    large_fraction: float = 0.3
    errors: ClipRecipe = field(default_factory=lambda: ClipRecipe(depth_noise=0.015, pose_noise=0.05))
    least_coverage: float = 0.6
    least_detail: float = 0.012
    least_psnr: float = 15.0


def make_photo_clips(photographs: Sequence[Photograph], recipe: PhotoClipRecipe, seed: int) -> list[Clip]:
    """The clips of one scene; the same seed, photographs and recipe give the same clips.

    Args:
        photographs: what its surfaces may carry.
        recipe: see `PhotoClipRecipe`.
        seed: of everything.

    Returns:
        At most `recipe.windows` clips with layers; none where the estimator finds nothing in the scene.
    """
    rng = np.random.default_rng([seed, 82])
    exact = bool(rng.random() < recipe.exact_fraction)
    scene, used = random_photo_scene(photographs, seed, plane=exact)
    large = 2 if rng.random() < recipe.large_fraction else 1
    cameras = collage.reference_cameras(seed, recipe.width, recipe.height)
    seen, depths = collage.render(scene, cameras.resized(2 * recipe.width, 2 * recipe.height), 1)
    pictures = as_taken(seen if large == 2 else F.avg_pool2d(seen, 2), rng)
    images = F.avg_pool2d(pictures, 2) if large == 2 else pictures
    large_ones = list(pictures) if large == 2 else None
    try:
        estimate = _estimate(images, cameras, depths[:, ::2, ::2], exact, recipe, rng)
    except InputError:
        return []
    estimate = agree(estimate, large_ones)
    clips = []
    for _ in range(recipe.windows):
        path, zoom = _path(cameras, recipe, rng)
        window = _window(path, recipe, rng)
        try:
            warped = fused_warp(estimate, window, large_ones, agreed=True)
        except InputError:
            continue
        if float(warped.coverage.mean()) < recipe.least_coverage:
            continue
        targets, _ = collage.render(scene, window, 2)
        if float(targets.diff(dim=-1).abs().mean()) < recipe.least_detail and rng.random() < 0.85:
            continue
        if -10 * math.log10(float(F.mse_loss(warped.images, targets)) + 1e-12) < recipe.least_psnr:
            continue
        names = [photographs[i].path.name for i in used]
        info = {"kind": "exact" if exact else "estimated", "zoom": round(zoom, 3), "seed": seed, "photographs": names}
        info["photograph_scale"] = large
        clips.append(Clip(images, targets, warped.images, warped.masks, None, info, warped.layers))
    return clips


def _estimate(
    images: Tensor, cameras: Cameras, depths: Tensor, exact: bool, recipe: PhotoClipRecipe, rng: np.random.Generator
) -> SceneEstimate:
    """Depths by the estimator with the given cameras, or the exact ones made wrong."""
    if not exact:
        return estimate_scene(images, cameras, "stereo")
    known = SceneEstimate(images, cameras, depths, (depths > 0).float())
    return imperfect(known, recipe.errors, rng)


def _path(cameras: Cameras, recipe: PhotoClipRecipe, rng: np.random.Generator) -> tuple[Cameras, float]:
    """Neighbouring cameras of a path that zooms in, and their largest magnification."""
    low, high = recipe.zoom
    zoom = float(np.exp(rng.uniform(math.log(low), math.log(high))))
    target = (float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8)))
    move = trajectories.interpolate if rng.random() < 0.7 else trajectories.zoom
    path = move(cameras, zoom, target, recipe.path_frames)
    last = int(rng.integers(max(recipe.frames, recipe.path_frames // 2), recipe.path_frames + 1))
    return path[last - recipe.frames : last], zoom


def _window(path: Cameras, recipe: PhotoClipRecipe, rng: np.random.Generator) -> Cameras:
    """The same window of each picture of a path, at the targets' size."""
    x = int(rng.integers(recipe.width - recipe.window_width + 1))
    y = int(rng.integers(recipe.height - recipe.window_height + 1))
    whole = path.resized(recipe.width, recipe.height)
    return whole.cropped(x, y, recipe.window_width, recipe.window_height)
