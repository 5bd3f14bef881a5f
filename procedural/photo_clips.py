"""Training clips made like in inference: estimated depths, fused conditioning with layers, detail of real pictures.

There are two kinds. "estimated": references of a scene of photographs go through the stereo estimator. "exact": a
photograph on a plane, with smooth errors added to its exact depths; cheap, and exact where the depth is exact.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from cus.cameras import Cameras, trajectories
from cus.conditioning import agree, fused_warp
from cus.datasets.clips import Clip
from cus.datasets.other_warps import OTHER_WARPS, References, other_warps
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.limits import limited
from procedural import collage
from procedural.close_up_clips import ClipRecipe, imperfect
from procedural.photo_scenes import random_photo_scene
from procedural.photographs import Photograph, as_taken


@dataclass
class PhotoClipRecipe:
    """Settings of the clips of a data set.

    Attributes:
        frames: number of frames per clip: neighbours on a path.
        width: width of whole target pictures, and of the estimator's references, in pixels.
        height: height of whole target pictures, and of the estimator's references, in pixels.
        window_width: width in pixels of a clip's window of the target.
        window_height: height in pixels of a clip's window of the target.
        windows: number of clips per scene, which share the costly estimate.
        path_frames: length of the path from which the neighbours are taken.
        zoom: range of magnifications at the end of the path.
        exact_fraction: fraction of scenes of kind "exact".
        photograph_scales: possible sizes of a scene's photographs relative to the estimator's; each scene draws one. At
            4, an x4 close-up shows their own pixels, as real photographs do: a model must learn to leave alone what is
            already sharp.
        errors: errors of the depths and cameras of "exact" scenes; its other fields are ignored.
        least_coverage: windows of which the references show a smaller fraction are left out.
        least_detail: most windows with a smaller mean difference of neighbouring pixels are left out.
        least_psnr: windows whose fused image has a lower PSNR in dB against the truth are left out: there the estimate
            is wrong, and a model would learn to hedge.
    """

    frames: int = 4
    width: int = 384
    height: int = 256
    window_width: int = 192
    window_height: int = 128
    windows: int = 4
    path_frames: int = 25
    zoom: tuple[float, float] = (2.5, 5.0)
    exact_fraction: float = 0.5
    photograph_scales: list[int] = limited(default_factory=lambda: [1, 1, 2, 4], low=1, high=4)
    errors: ClipRecipe = field(default_factory=lambda: ClipRecipe(depth_noise=0.015, pose_noise=0.05))
    least_coverage: float = 0.6
    least_detail: float = 0.012
    least_psnr: float = 15.0
    others: list[str] = limited(default_factory=list, choices=tuple(OTHER_WARPS))


SAMPLES = 4  # samples per reference pixel along each axis: about a close-up's pixels
LEAST_SAMPLES = 2  # samples per photograph pixel along each axis, as for a target's

Guide = Callable[[References, Cameras, int], Tensor]
"""Makes structure images [n, 3, H, W] of the last n cameras of a path. Raises InputError if it cannot."""


def make_photo_clips(
    photographs: Sequence[Photograph], recipe: PhotoClipRecipe, seed: int, guide: Guide | None = None
) -> list[Clip]:
    """Make the clips of one scene; the same seed, photographs and recipe give the same clips.

    Args:
        photographs: photographs available for its surfaces.
        recipe: settings of the clips.
        seed: seed of all random draws.
        guide: makes the clips' structure images; without one, or if it raises InputError, they have none.

    Returns:
        At most `recipe.windows` clips with layers; none if the estimator finds nothing in the scene.
    """
    rng = np.random.default_rng([seed, 82])
    exact = bool(rng.random() < recipe.exact_fraction)
    scene, used = random_photo_scene(photographs, seed, plane=exact)
    scale = int(rng.choice(recipe.photograph_scales))
    cameras = collage.reference_cameras(seed, recipe.width, recipe.height)
    # Sampled as densely as close-ups, then averaged, like shrunk photographs. A coarser mip level would be blurrier,
    # and a model that learns from references that are blurrier than those in inference sharpens too much.
    samples = max(SAMPLES // scale, LEAST_SAMPLES)
    seen = collage.pictures(scene, cameras.resized(scale * recipe.width, scale * recipe.height), samples)
    pictures = as_taken(seen, rng, shrunk=scale == 1)
    images = F.avg_pool2d(pictures, scale)
    own_size = list(pictures) if scale > 1 else None
    try:
        estimate = _estimate(images, cameras, scene, exact, recipe, rng)
    except InputError:
        return []
    references = References(estimate, agree(estimate, own_size), own_size)
    names = [photographs[i].path.name for i in used]
    info = {"kind": "exact" if exact else "estimated", "seed": seed, "photographs": names, "photograph_scale": scale}
    clips = []
    for _ in range(recipe.windows):
        path, zoom = _path(cameras, recipe, rng)
        x, y = _corner(recipe, rng)
        clip = _clip(scene, references, path[len(path) - recipe.frames :], (x, y), recipe, rng)
        if clip is None:
            continue
        details = info | {"zoom": round(zoom, 3)}
        structure = None
        if guide is not None:
            try:
                whole = guide(references, path, recipe.frames)
                structure = whole[..., y : y + recipe.window_height, x : x + recipe.window_width]
            except InputError as error:
                details["without_structure"] = str(error)
        clips.append(replace(clip, structure=structure, info=details))
    return clips


def _clip(
    scene: collage.Collage,
    references: References,
    path: Cameras,
    corner: tuple[int, int],
    recipe: PhotoClipRecipe,
    rng: np.random.Generator,
) -> Clip | None:
    """The clip of a window (given its top left corner) of a path; None if the recipe leaves it out."""
    window = path.cropped(*corner, recipe.window_width, recipe.window_height)
    try:
        warped = fused_warp(references.agreed, window, references.photographs, agreed=True)
    except InputError:
        return None
    if float(warped.coverage.mean()) < recipe.least_coverage:
        return None
    targets = collage.pictures(scene, window, 2)
    if float(targets.diff(dim=-1).abs().mean()) < recipe.least_detail and rng.random() < 0.85:
        return None
    if -10 * math.log10(float(F.mse_loss(warped.images, targets)) + 1e-12) < recipe.least_psnr:
        return None
    try:
        others = other_warps(recipe.others, references, window)
    except InputError:
        return None
    images = references.estimate.images
    return Clip(images, targets, warped.images, warped.masks, layers=warped.layers, others=others)


def _estimate(
    images: Tensor,
    cameras: Cameras,
    scene: collage.Collage,
    exact: bool,
    recipe: PhotoClipRecipe,
    rng: np.random.Generator,
) -> SceneEstimate:
    """Depths by the estimator with the given cameras, or the exact ones with errors."""
    if not exact:
        return estimate_scene(images, cameras, "stereo")
    depths = collage.exact_depths(scene, cameras)
    known = SceneEstimate(images, cameras, depths, (depths > 0).float())
    return imperfect(known, recipe.errors, rng)


def _path(cameras: Cameras, recipe: PhotoClipRecipe, rng: np.random.Generator) -> tuple[Cameras, float]:
    """A path that zooms in, as whole pictures up to a clip's last one, and its largest magnification."""
    low, high = recipe.zoom
    zoom = float(np.exp(rng.uniform(math.log(low), math.log(high))))
    target = (float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8)))
    move = trajectories.interpolate if rng.random() < 0.7 else trajectories.zoom
    path = move(cameras, zoom, target, recipe.path_frames)
    last = int(rng.integers(max(recipe.frames, recipe.path_frames // 2), recipe.path_frames + 1))
    return path[:last].resized(recipe.width, recipe.height), zoom


def _corner(recipe: PhotoClipRecipe, rng: np.random.Generator) -> tuple[int, int]:
    """Top left corner (x, y) of a window in the pictures of a path."""
    x = int(rng.integers(recipe.width - recipe.window_width + 1))
    y = int(rng.integers(recipe.height - recipe.window_height + 1))
    return x, y
