"""A small scene to look at: a coloured wall of Gaussians, two photographs and a run's frames of it."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch

from cus.cameras import Cameras, trajectories
from cus.cameras.transforms_json import frame_entry
from cus.splats import Gaussians, render, save_ply, save_point_cloud
from cus.splats.sh import sh_from_rgb

DISTANCE = 4.0
WIDTH, HEIGHT = 96, 64


def photographs() -> Cameras:
    """Two cameras side by side before the wall, the second turned a little, off the middle and rolled."""
    viewmats = torch.eye(4).repeat(2, 1, 1)
    angle = torch.tensor(0.1)
    viewmats[1, :2, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    viewmats[1, 0, 3] = -0.6
    Ks = torch.tensor([[100.0, 0, 48.0], [0, 100.0, 32.0], [0, 0, 1]]).repeat(2, 1, 1)
    Ks[1, 0, 2] = 40.0
    return Cameras(viewmats, Ks, WIDTH, HEIGHT)


def run_path() -> Cameras:
    """Five frames of a zoom that closes in beside the middle."""
    return trajectories.zoom(photographs(), 2.0, (0.4, 0.5), 5)


def wall(step: float = 0.1) -> Gaussians:
    """Nearly opaque flat Gaussians at z = 4, red growing to the right and green downwards."""
    xs, ys = torch.meshgrid(torch.arange(-3, 3, step), torch.arange(-2, 2, step), indexing="xy")
    means = torch.stack([xs, ys, torch.full_like(xs, DISTANCE)], dim=-1).reshape(-1, 3)
    n = len(means)
    colors = torch.stack([(means[:, 0] + 3) / 6, (means[:, 1] + 2) / 4, torch.full((n,), 0.3)], dim=1)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        scales=torch.tensor([0.7, 0.7, 0.02]).expand(n, 3).contiguous() * step,
        opacities=torch.full((n,), 0.98),
        sh=sh_from_rgb(colors)[:, None],
    )


def write_folder(folder: Path) -> Path:
    """An output folder with photographs `a.png` and `b.png` beside it."""
    out = folder / "out"
    (out / "frames").mkdir(parents=True)
    gaussians = wall()
    save_ply(out / "splat.ply", gaussians)
    save_point_cloud(out / "points.ply", gaussians.means, torch.rand(len(gaussians), 3))
    content: dict[str, object] = {"camera_model": "OPENCV"}
    for key, cameras, paths in (
        ("photos", photographs(), ["../a.png", "../b.png"]),
        ("frames", run_path(), [f"frames/{i:04d}.png" for i in range(5)]),
    ):
        for picture, path in zip(render(gaussians, cameras), paths, strict=True):
            pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            cv2.imwrite(str((out / path).resolve()), np.ascontiguousarray(pixels[..., ::-1]))
        content[key] = [
            frame_entry(viewmat, K, WIDTH, HEIGHT, path)
            for viewmat, K, path in zip(cameras.viewmats, cameras.Ks, paths, strict=True)
        ]
    (out / "transforms.json").write_text(json.dumps(content))
    return out
