"""Random target paths through a segment of a scene: close-ups by zooming or moving closer, and regular views."""

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, trajectories
from cus.datasets.scene_clips.recipe import SceneRecipe
from cus.scene import SceneEstimate


def draw_zoom(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a focal length factor, uniform in its logarithm."""
    low, high = np.log(bounds[0]), np.log(bounds[1])
    return float(np.exp(rng.uniform(low, high)))


def draw_path(
    photographs: Cameras, depth: Tensor, scale: float, recipe: SceneRecipe, rng: np.random.Generator
) -> tuple[Cameras, str, float]:
    """Draw a random path through a segment: target cameras, its name, and its largest magnification.

    Args:
        photographs: cameras of the segment's photographs, at frame size.
        depth: [H, W] z-depths of the first photograph, 0 = none.
        scale: scene scale, used as depth if the target has none.
        recipe: settings of the clips.
        rng: generator of all draws.
    """
    target = _draw_target(rng)
    close, nearer = rng.random() < recipe.close_up_share, rng.random() < recipe.nearer_share
    zoom = draw_zoom(recipe.zoom, rng)
    walked = float(rng.uniform(*recipe.nearer))
    regular = float(rng.uniform(1.0, 1.25))
    if not close:
        return trajectories.interpolate(photographs, regular, target, recipe.frames), "regular", regular
    if not nearer:
        return trajectories.interpolate(photographs, zoom, target, recipe.frames), "zoom", zoom
    at = _depth_at(depth, target) or scale
    zoom = 1 / (1 - walked)
    return trajectories.dolly(photographs, zoom, target, recipe.frames, depth=at), "nearer", zoom


def draw_point(scene: SceneEstimate, rng: np.random.Generator) -> Tensor:
    """Draw a surface point [3] seen by the first view; without a depth there, its distance is the scene scale."""
    target = _draw_target(rng)
    camera = scene.cameras[0]
    depth = _depth_at(scene.depths[0], target) or scene.scale
    pixel = torch.tensor([target[0] * camera.width, target[1] * camera.height, 1.0])
    local = torch.linalg.inv(camera.Ks[0]) @ pixel * depth
    return camera.c2w[0, :3, :3] @ local + camera.c2w[0, :3, 3]


def _draw_target(rng: np.random.Generator) -> tuple[float, float]:
    """Draw a point (u, v) of a picture in fractions of its width and height, away from its border."""
    return float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.8))


def _depth_at(depth: Tensor, target: tuple[float, float]) -> float:
    row, column = int(target[1] * (len(depth) - 1)), int(target[0] * (depth.shape[1] - 1))
    return float(depth[row, column])
