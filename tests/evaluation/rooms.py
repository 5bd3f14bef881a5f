"""A wall seen from an arc of cameras, with the rough geometry that the photographs would give, and no files."""

import math
from pathlib import Path

import torch

from cus.cameras import Cameras, PosedPhotos
from cus.evaluation.geometry import GRID, RoughGeometry
from procedural.tracer import look_at

WIDTH, HEIGHT, FOCAL = 600, 400, 500.0


def posed_photos(cameras: list[Cameras], names: list[str] | None = None) -> PosedPhotos:
    names = names or [f"{i:04d}.jpg" for i in range(len(cameras))]
    return PosedPhotos(
        tuple(Path("room") / name for name in names),
        torch.cat([camera.viewmats for camera in cameras]),
        torch.cat([camera.Ks for camera in cameras]),
        tuple((camera.width, camera.height) for camera in cameras),
        torch.zeros(len(cameras), 8, dtype=torch.float64),
    )


def standing_at(x: float, y: float, z: float = 0.0) -> Cameras:
    """A camera at (x, y, z) that looks at the origin; the world's z points up."""
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Cameras(look_at(torch.tensor([x, y, z]), torch.zeros(3))[None], K[None], WIDTH, HEIGHT)


def on_an_arc(degrees: list[float], distance: float = 10.0) -> list[Cameras]:
    """Cameras around the origin, which all of them look at."""
    return [standing_at(distance * math.sin(math.radians(a)), -distance * math.cos(math.radians(a))) for a in degrees]


def wall_geometry(cameras: list[Cameras]) -> RoughGeometry:
    """Exact grid depths of the plane y = 0."""
    rows, columns = GRID
    depths = []
    for camera in cameras:
        v, u = torch.meshgrid(
            (torch.arange(rows) + 0.5) * camera.height / rows,
            (torch.arange(columns) + 0.5) * camera.width / columns,
            indexing="ij",
        )
        rays = torch.stack([u, v, torch.ones_like(u)], dim=-1) @ torch.linalg.inv(camera.Ks[0]).T
        turned = rays @ camera.viewmats[0, :3, :3]
        depths.append(-camera.centers[0, 1] / turned[..., 1])
    return RoughGeometry(tuple(cameras), torch.stack(depths).double())
