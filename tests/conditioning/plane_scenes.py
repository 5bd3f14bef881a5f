"""Small exact scenes: planes that face the camera, or lean, seen by pinhole cameras."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.estimators import SceneEstimate


def pinhole(
    center: Sequence[float] = (0.0, 0.0, 0.0), focal: float = 40.0, width: int = 32, height: int = 24, yaw: float = 0.0
) -> Cameras:
    """One camera at `center`, turned by `yaw` radians about the vertical axis, principal point in the middle."""
    rotation = torch.tensor(
        [[math.cos(yaw), 0, -math.sin(yaw)], [0, 1, 0], [math.sin(yaw), 0, math.cos(yaw)]], dtype=torch.float32
    )
    viewmat = torch.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ torch.tensor(center, dtype=torch.float32)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Cameras(viewmat[None], K[None], width, height)


def plane_depths(cameras: Cameras, normal: Sequence[float] = (0.0, 0.0, 1.0), offset: float = 4.0) -> Tensor:
    """[N, H, W] exact z-depths of the plane normal . x = offset; 0 where a pixel looks away from it."""
    n = torch.tensor(normal, dtype=torch.float64)
    depths = []
    for viewmat, K, center in zip(cameras.viewmats, cameras.Ks, cameras.centers, strict=True):
        pixels = torch.nn.functional.pad(cameras.pixel_centers(), (0, 1), value=1.0).double()
        rays = pixels @ torch.linalg.inv(K.double()).T @ viewmat[:3, :3].double()
        z = (offset - n @ center.double()) / (rays @ n)
        depths.append(torch.where(torch.isfinite(z) & (z > 0), z, 0.0))
    return torch.stack(depths).float()


def surface_colors(points: Tensor) -> Tensor:
    """A smooth colour in [0.2, 0.8] for world points [..., 3]: the same from every view."""
    waves = torch.stack([points[..., 0] * 0.9, points[..., 1] * 1.1, (points[..., 0] + points[..., 1]) * 0.7], -1)
    return 0.5 + 0.3 * torch.sin(waves)


def render_depths(cameras: Cameras, depths: Tensor) -> Tensor:
    """[N, 3, H, W] pictures of the surface that `depths` describe, coloured by position."""
    return surface_colors(cameras.backproject(depths)).permute(0, 3, 1, 2).contiguous()


def estimate(images: Tensor, cameras: Cameras, depths: Tensor, confidences: Tensor | None = None) -> SceneEstimate:
    """A scene estimate that trusts every depth alike unless told otherwise."""
    known = (depths > 0).float()
    return SceneEstimate(images, cameras, depths, known if confidences is None else confidences)


def random_scene(seed: int) -> SceneEstimate:
    """Two views of random colours with smooth depth, a jump, missing depths and random confidences."""
    generator = torch.Generator().manual_seed(seed)
    cameras = Cameras.cat(
        [pinhole((0.0, 0.0, 0.0), width=19, height=14), pinhole((0.4, 0.1, -0.2), width=19, height=14)]
    )
    depths = 3 + 0.3 * torch.rand((2, 14, 19), generator=generator).cumsum(2) / 4
    depths[:, 4:9, 5:11] *= 0.5
    depths[torch.rand(depths.shape, generator=generator) < 0.1] = 0
    confidences = torch.rand(depths.shape, generator=generator) * (depths > 0)
    images = torch.rand((2, 3, 14, 19), generator=generator)
    return SceneEstimate(images, cameras, depths, confidences)
