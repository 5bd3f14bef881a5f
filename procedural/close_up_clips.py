"""Close-up clips of scenes with known geometry: references, a path, and simulated errors of an estimator.

The targets are rendered; the conditioning is warped from the references by the code of inference, with depths and
cameras that have the errors of a stereo estimator (Section IV-A, with rendered scenes as pseudo ground truth).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cus.cameras import Cameras, trajectories
from cus.conditioning import Conditioning, agree, conditioning_kind, render_points
from cus.conditioning.kinds import KINDS
from cus.datasets.clips import Clip
from cus.estimators import SceneEstimate
from cus.limits import limited

Renderer = Callable[[Cameras], tuple[Tensor, Tensor]]
"""Renders images [N, 3, H, W] in [0, 1] and z-depths [N, H, W] from cameras."""


@dataclass
class ClipRecipe:
    """Settings of the clips of a data set.

    Attributes:
        frames: number of frames per clip.
        width: width of the whole target pictures in pixels; a clip holds a window of them.
        height: height of the whole target pictures in pixels.
        window_width: width of the window in pixels; equal to `width` keeps the whole picture.
        window_height: height of the window in pixels.
        close_up_fraction: fraction of clips that zoom in by `zoom` or move in by `walk`; the others show regular views.
        zoom: range of focal length factors.
        walk: range of the fraction of the depth that a dolly covers.
        depth_noise: largest relative error of the depths.
        pose_noise: largest camera error, in degrees, and in hundredths of the baseline.
        conditioning: kind of the conditioning images, a name in `cus.conditioning.kinds.KINDS`.
        suppress_fraction: fraction of clips whose hierarchical conditioning has leaked background removed, as in
            inference (Eq. 5).
        structure_fraction: fraction of clips with an image of a global point cloud (Section III-D).
    """

    frames: int = limited(8, low=1, high=1000)
    width: int = limited(384, low=16, high=8192)
    height: int = limited(216, low=16, high=8192)
    window_width: int = limited(208, low=16, high=8192)
    window_height: int = limited(128, low=16, high=8192)
    close_up_fraction: float = limited(0.8, low=0, high=1)
    zoom: tuple[float, float] = limited((2.0, 5.0), low=1, high=100)
    walk: tuple[float, float] = limited((0.3, 0.6), low=0, high=0.95)
    depth_noise: float = limited(0.02, low=0, high=1)
    pose_noise: float = limited(0.3, low=0, high=90)
    conditioning: str = limited("hierarchical", choices=tuple(KINDS))
    suppress_fraction: float = limited(0.5, low=0, high=1)
    structure_fraction: float = limited(0.5, low=0, high=1)

    def __post_init__(self) -> None:
        if self.window_width > self.width or self.window_height > self.height:
            raise ValueError(
                f"the window of {self.window_width}x{self.window_height} is larger than the picture of "
                f"{self.width}x{self.height}; choose a smaller window_width and window_height"
            )


def make_clip(render: Renderer, references: Cameras, recipe: ClipRecipe, seed: int, info: dict | None = None) -> Clip:
    """Make a clip of one scene.

    Args:
        render: renders the scene from cameras.
        references: cameras of the photographs, with the aspect ratio `recipe.width` x `recipe.height`.
        recipe: settings of the clip.
        seed: seed of the path and all errors; the same seed gives the same clip.
        info: values to store in the clip, in addition to the path.
    """
    rng = np.random.default_rng([seed, 4])
    images, depths = render(references)
    exact = SceneEstimate(images, references, depths, (depths > 0).float())
    path, kind, zoom = _path(exact, recipe, rng)
    x = int(rng.integers(recipe.width - recipe.window_width + 1))
    y = int(rng.integers(recipe.height - recipe.window_height + 1))
    whole = path.resized(recipe.width, recipe.height)
    window = whole.cropped(x, y, recipe.window_width, recipe.window_height)
    targets, target_depths = render(window)
    estimate = imperfect(exact, recipe, rng)
    suppress = bool(rng.random() < recipe.suppress_fraction)
    shown = conditioning_kind(recipe.conditioning, suppress_background=suppress)
    known = agree(estimate) if shown.wants_agreement else estimate
    if shown.sees_whole_frames:
        warped = _window_of(shown.show(known, whole), x, y, window)
    else:
        warped = shown.show(known, window)
    structure = None
    if rng.random() < recipe.structure_fraction:
        structure = _structure(targets, target_depths, window, warped.images, rng)
    details = {
        "conditioning": recipe.conditioning,
        "path": kind,
        "zoom": round(zoom, 3),
        "suppressed": suppress,
        "seed": seed,
        **(info or {}),
    }
    return Clip(images, targets, warped.images, warped.masks, structure, details)


def _window_of(conditioning: Conditioning, x: int, y: int, window: Cameras) -> Conditioning:
    rows, columns = slice(y, y + window.height), slice(x, x + window.width)
    pictures = (conditioning.images, conditioning.masks, conditioning.depths)
    images, masks, depths = (values[..., rows, columns] for values in pictures)
    return Conditioning(images, masks, depths)


def imperfect(scene: SceneEstimate, recipe: ClipRecipe, rng: np.random.Generator) -> SceneEstimate:
    """Add the errors of a stereo estimator to a scene.

    Smooth errors and fine noise of the depth, foreground fattened at edges, patches that are wrong or missing (with low
    confidence), small pose errors. The first camera stays, because everything is measured relative to it.
    """
    views, height, width = scene.depths.shape
    strength = recipe.depth_noise * float(rng.random()) ** 2
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    smooth = _blobs((views, height, width), 24, generator)
    fine = torch.randn(scene.depths.shape, generator=generator)
    wrong = _blobs((views, height, width), 12, generator) > float(rng.uniform(1.7, 3.5))
    error = strength * (0.7 * smooth + 0.3 * fine) + wrong * 0.15 * _blobs((views, height, width), 6, generator)
    fattened = scene.depths
    if rng.random() < 0.6:
        radius = int(rng.integers(1, 3))
        near = torch.where(scene.depths > 0, scene.depths, math.inf)[:, None]
        fattened = -F.max_pool2d(-near, 2 * radius + 1, 1, radius)[:, 0]
        at_edge = torch.rand(scene.depths.shape, generator=generator) < 0.8
        fattened = torch.where(at_edge & torch.isfinite(fattened), fattened, scene.depths)
    depths = fattened * (1 + error).clamp(0.6, 1.6)
    missing = wrong & (torch.rand(scene.depths.shape, generator=generator) < float(rng.random()))
    depths = torch.where(missing | (scene.depths == 0), 0.0, depths)
    doubt = (error.abs() / max(recipe.depth_noise, 1e-6)).clamp(max=1) * 0.5
    confidences = (1 - doubt - 0.45 * wrong - 0.1 * torch.rand(scene.depths.shape, generator=generator)).clamp(0.01, 1)
    return SceneEstimate(
        scene.images, _shaken(scene.cameras, recipe, rng), depths, torch.where(depths > 0, confidences, 0.0)
    )


def _path(scene: SceneEstimate, recipe: ClipRecipe, rng: np.random.Generator) -> tuple[Cameras, str, float]:
    """A random path: target cameras, its name and largest magnification."""
    target = (float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.15, 0.85)))
    height, width = scene.depths.shape[1:]
    at = scene.depths[0, int(target[1] * (height - 1)), int(target[0] * (width - 1))]
    depth = float(at) if at > 0 else scene.scale
    frames = recipe.frames
    if rng.random() < recipe.close_up_fraction:
        low, high = recipe.zoom
        zoom = float(np.exp(rng.uniform(math.log(low), math.log(high))))
        kind = rng.choice(["zoom", "interpolate", "interpolate", "dolly"])
        if kind == "zoom":
            return trajectories.zoom(scene.cameras, zoom, target, frames), "zoom", zoom
        if kind == "interpolate":
            return trajectories.interpolate(scene.cameras, zoom, target, frames), "interpolate", zoom
        zoom = 1 / (1 - float(rng.uniform(*recipe.walk)))
        return trajectories.dolly(scene.cameras, zoom, target, frames, depth=depth), "dolly", zoom
    zoom = float(rng.uniform(1.0, 1.4))
    if rng.random() < 0.5:
        return trajectories.interpolate(scene.cameras, zoom, target, frames), "interpolate", zoom
    degrees = float(rng.uniform(2, 8))
    return trajectories.orbit(scene.cameras, zoom, target, frames, depth=depth, degrees=degrees), "orbit", zoom


def _shaken(cameras: Cameras, recipe: ClipRecipe, rng: np.random.Generator) -> Cameras:
    """Cameras with small errors of rotation and position, except for the first."""
    viewmats = cameras.viewmats.clone()
    baseline = float((cameras.centers[1:] - cameras.centers[:1]).norm(dim=-1).mean()) if len(cameras) > 1 else 0.0
    for view in range(1, len(cameras)):
        angle = math.radians(recipe.pose_noise) * float(rng.random()) ** 2
        axis = rng.normal(size=3)
        axis *= angle / np.linalg.norm(axis)
        cross = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]]).float()
        # The camera rotates and drifts; its depths rotate with it, as in a real estimate.
        viewmats[view] = torch.block_diag(torch.linalg.matrix_exp(cross), torch.ones(1, 1)) @ viewmats[view]
        drift = rng.normal(size=3) * 0.01 * recipe.pose_noise * baseline
        viewmats[view, :3, 3] += torch.from_numpy(drift).float()
    return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)


def _structure(
    targets: Tensor, depths: Tensor, cameras: Cameras, conditioning: Tensor, rng: np.random.Generator
) -> Tensor:
    """A fused cloud's picture as after pass 1: correct geometry with gaps, colours between truth and blur."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    blurred = F.avg_pool2d(F.pad(targets, (2, 2, 2, 2), mode="replicate"), 5, 1)
    share = float(rng.uniform(0, 0.5))
    colors = (blurred * (1 - share) + 0.5 * share * (targets + conditioning)).permute(0, 2, 3, 1)
    points = cameras.backproject(depths * (1 + 0.004 * float(rng.random()) * _blobs(depths.shape, 8, generator)))
    agreed = _blobs(depths.shape, 10, generator) < float(rng.uniform(-0.3, 2.0))
    kept = agreed & (depths > 0) & (torch.rand(depths.shape, generator=generator) < float(rng.uniform(0.1, 0.6)))
    if not bool(kept.any()):
        return torch.zeros_like(targets)
    return render_points(points[kept], colors[kept], cameras).images


def _blobs(shape: tuple[int, ...] | torch.Size, size: int, generator: torch.Generator) -> Tensor:
    """Smooth noise [N, H, W] with a variance of about 1 and features of `size` pixels."""
    count, height, width = shape
    coarse = torch.randn(count, 1, height // size + 3, width // size + 3, generator=generator)
    return 1.6 * F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[:, 0]
