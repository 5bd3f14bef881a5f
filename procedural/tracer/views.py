"""Camera placement: reference pairs around a scene, and close-up paths that avoid its geometry."""

import math

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.conversions import focal_from_fov
from procedural.tracer.scene import Scene

_CLEARANCE = 0.25  # metres between a camera and the nearest surface


def look_at(center: Tensor, target: Tensor) -> Tensor:
    """[4, 4] world-to-camera of a level camera at `center` [3] facing `target` [3]; the world's z points up."""
    forward = torch.nn.functional.normalize(target - center, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, forward.new_tensor([0.0, 0.0, 1.0])), dim=0)
    down = torch.linalg.cross(forward, right)
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.stack([right, down, forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ center
    return viewmat


def sample_reference_cameras(scene: Scene, seed: int, width: int, height: int, views: int = 2) -> Cameras:
    """Cameras of a few photographs as a visitor would take them: side by side, about level, looking at the same things.

    Neighbours are spaced by 8 to 16 % of their distance. The horizontal field of view is 45 to 62 degrees.

    Args:
        scene: The scene; its `stage` gives the possible positions.
        seed: Seed of the cameras.
        width: Picture width in pixels.
        height: Picture height in pixels.
        views: Number of cameras, at least 1.
    """
    rng = np.random.default_rng([seed, 4021])
    reach, first, last, tall = scene.stage
    focal = focal_from_fov(float(rng.uniform(45, 62)), max(width, height))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    viewmats = torch.empty(0, 4, 4)
    for attempt in range(200):
        distance = reach * float(rng.uniform(0.8, 1.1)) * (1 + 0.01 * attempt)
        step = float(rng.uniform(0.08, 0.16)) * float(rng.choice([-1, 1]))
        azimuth = float(rng.uniform(first, last))
        eye = float(rng.uniform(0.7, 1.0)) * tall
        poses = []
        for view in range(views):
            angle = azimuth + step * (view - 0.5 * (views - 1))
            away = distance * float(rng.uniform(0.96, 1.04))
            offset = torch.tensor([away * math.cos(angle), away * math.sin(angle), eye + float(rng.normal(0, 0.04))])
            target = scene.focus + torch.from_numpy(rng.normal(0, 0.05, 3)).float()
            poses.append(look_at(scene.focus * torch.tensor([1.0, 1, 0]) + offset, target))
        viewmats = torch.stack(poses)
        cameras = Cameras(viewmats, K.expand(views, 3, 3).clone(), width, height)
        if float(scene.distance(cameras.centers.T).min()) > _CLEARANCE:
            return cameras
    raise RuntimeError(f"no free place for cameras after 200 tries (seed {seed})")


def keep_clear(scene: Scene, cameras: Cameras, clearance: float = _CLEARANCE) -> Cameras:
    """The path up to the first camera closer than `clearance` to a surface; at least its first camera."""
    free = scene.distance(cameras.centers.T) > clearance
    blocked = (~free).nonzero()[:, 0]
    return cameras[: max(1, int(blocked[0]))] if len(blocked) else cameras
