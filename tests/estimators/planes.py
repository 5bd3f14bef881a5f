"""A scene of known depth for the tests: a textured wall with a textured board in front of it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras

WALL, BOARD = 4.0, 2.5  # z-depths
BOARD_HALF = 0.45  # half the side of the board


def texture(seed: int, size: int = 512) -> Tensor:
    """[3, size, size] blobs at several scales, so that features and windows both find something."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(3, size, size)
    for cells, strength in ((16, 0.25), (48, 0.35), (128, 0.4)):
        noise = torch.rand(1, 3, cells, cells, generator=generator)
        picture += strength * F.interpolate(noise, size=(size, size), mode="bicubic", align_corners=False)[0]
    return picture.clamp(0.0, 1.0)


def cameras(baselines: tuple[float, ...], width: int = 160, height: int = 120, focal: float = 170.0) -> Cameras:
    """Cameras side by side at x = baseline, each turned a little towards the scene."""
    viewmats = []
    for x in baselines:
        turn = torch.tensor(-0.15 * x)
        rotation = torch.eye(3)
        rotation[0, 0] = rotation[2, 2] = turn.cos()
        rotation[0, 2], rotation[2, 0] = turn.sin(), -turn.sin()
        viewmat = torch.eye(4)
        viewmat[:3, :3] = rotation.T
        viewmat[:3, 3] = -rotation.T @ torch.tensor([x, 0.0, 0.0])
        viewmats.append(viewmat)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(torch.stack(viewmats), K.repeat(len(baselines), 1, 1), width, height)


def render(views: Cameras, board: bool = True) -> tuple[Tensor, Tensor]:
    """(images [V, 3, H, W], depths [V, H, W]) of the wall, and of the board unless it is left out."""
    images, depths = [], []
    for view in range(len(views)):
        camera = views[view]
        c2w = camera.c2w[0]
        rays = F.pad(camera.pixel_centers(), (0, 1), value=1.0) @ torch.linalg.inv(camera.Ks[0]).T @ c2w[:3, :3].T
        image, depth = _surface(c2w[:3, 3], rays, WALL, 4.0, texture(0))
        if board:
            near, near_depth = _surface(c2w[:3, 3], rays, BOARD, 2.0, texture(1))
            hit = c2w[:3, 3] + rays * near_depth[..., None]
            on_board = (hit[..., :2].abs() < BOARD_HALF).all(dim=-1)
            image, depth = torch.where(on_board, near, image), torch.where(on_board, near_depth, depth)
        images.append(image)
        depths.append(depth)
    return torch.stack(images), torch.stack(depths)


def _surface(center: Tensor, rays: Tensor, z: float, half: float, picture: Tensor) -> tuple[Tensor, Tensor]:
    depth = (z - center[2]) / rays[..., 2]
    hit = center + rays * depth[..., None]
    grid = (hit[..., :2] / half)[None]
    return F.grid_sample(picture[None], grid, padding_mode="reflection", align_corners=False)[0], depth
