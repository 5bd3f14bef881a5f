"""A wavy, coloured wall in front of a row of cameras: the scene of the fit's tests."""

from types import SimpleNamespace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats import Gaussians, render
from cus.splats.initialise import initial_gaussians


def cameras(count: int = 4, width: int = 48, height: int = 32) -> Cameras:
    """Side by side, looking along +z at a wall two units away, 1.6 wide."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = torch.linspace(0.3, -0.3, count)
    K = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]])
    return Cameras(viewmats, K.repeat(count, 1, 1), width, height)


def wall(columns: int = 44, rows: int = 30) -> tuple[Tensor, Tensor]:
    """Points of a wavy wall with a smooth pattern, wider than any camera sees."""
    x, y = torch.meshgrid(torch.linspace(-1.25, 1.25, columns), torch.linspace(-0.75, 0.75, rows), indexing="xy")
    z = 2 + 0.1 * torch.sin(4 * x)
    colors = torch.stack(
        [0.5 + 0.4 * torch.sin(7 * x), 0.5 + 0.4 * torch.cos(9 * y), 0.5 + 0.3 * torch.sin(5 * (x + y))]
    )
    return torch.stack([x, y, z], dim=-1).reshape(-1, 3), colors.reshape(3, -1).T


def wall_gaussians(columns: int = 44, rows: int = 30) -> Gaussians:
    return initial_gaussians(*wall(columns, rows), 0)


def cloud(points: Tensor, colors: Tensor) -> SimpleNamespace:
    return SimpleNamespace(points=points, colors=colors)


def psnr(images: Tensor, targets: Tensor) -> float:
    return float(-10 * torch.log10((images - targets).square().mean()))


def seen(gaussians: Gaussians, views: Cameras) -> Tensor:
    """Their pictures by the oracle, which needs no compilation."""
    return render(gaussians, views, backend="torch")


def wall_pictures(views: Cameras | None = None) -> tuple[Tensor, Cameras, Tensor, Tensor]:
    """Images of a known Gaussian wall, their cameras, its points and colours."""
    views = cameras() if views is None else views
    points, colors = wall()
    return seen(initial_gaussians(points, colors, 0), views), views, points, colors
