"""One small rendered scene, written in the layouts that data sets come in."""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cus.cameras import Cameras, save_transforms
from cus.cameras.colmap import save_colmap
from procedural.tracer import random_scene, render, sample_reference_cameras

TIMESTAMPS = ["48448400", "48481767", "48515133", "48548500"]


@lru_cache
def procedural_views(count: int = 3, width: int = 96, height: int = 64) -> tuple[Tensor, Cameras]:
    """(images [count, 3, height, width], cameras) of photographs side by side."""
    scene = random_scene(3)
    cameras = sample_reference_cameras(scene, 3, width, height, views=count)
    return render(scene, cameras)[0], cameras


def write_pictures(folder: Path, images: Tensor, names: list[str], shrink: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        if shrink > 1:
            image = torch.nn.functional.avg_pool2d(image[None], shrink)[0]
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(folder / name)


def frame_names(count: int) -> list[str]:
    return [f"{i:04d}.png" for i in range(count)]


def write_transforms(folder: Path, images: Tensor, cameras: Cameras) -> None:
    """nerfstudio: transforms.json beside images/."""
    names = frame_names(len(images))
    write_pictures(folder / "images", images, names)
    save_transforms(folder / "transforms.json", cameras, [f"images/{name}" for name in names])


def write_dl3dv(folder: Path, images: Tensor, cameras: Cameras, scale: int = 4, below: str = "nerfstudio") -> None:
    """DL3DV: below a scene's hash one set of intrinsics, of the full size, and photographs of another scale only."""
    names = [f"frame_{i + 1:05d}.png" for i in range(len(images))]
    place = folder / below
    write_pictures(place / f"images_{scale}", images, names)
    full = cameras.resized(cameras.width * scale, cameras.height * scale)
    save_transforms(place / "transforms.json", full, [f"images/{name}" for name in names])
    content = json.loads((place / "transforms.json").read_text())
    shared = {key: content["frames"][0][key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    frames = [{k: v for k, v in f.items() if k not in shared} | {"colmap_im_id": 1} for f in content["frames"]]
    extra = {"k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "applied_transform": np.eye(4)[:3].tolist()}
    (place / "transforms.json").write_text(json.dumps({**content, **shared, **extra, "frames": frames}))


def write_colmap(folder: Path, images: Tensor, cameras: Cameras, model: str = "sparse/0", scale: int = 1) -> None:
    """COLMAP: a model whose cameras are `scale` times as large as the photographs in images or images_<scale>."""
    names = frame_names(len(images))
    write_pictures(folder / ("images" if scale == 1 else f"images_{scale}"), images, names)
    save_colmap(folder / model, cameras.resized(cameras.width * scale, cameras.height * scale), names)


def write_llff(folder: Path, images: Tensor, cameras: Cameras, scale: int = 1) -> None:
    """LLFF: 3x5 matrices (down, right, back, centre, size and focal) and two bounds, by the format's own words."""
    rows = []
    for c2w, K in zip(cameras.c2w.double().numpy(), cameras.Ks.double().numpy(), strict=True):
        right, down, forward, center = c2w[:3].T
        size = [cameras.height * scale, cameras.width * scale, K[0, 0] * scale]
        matrix = np.stack([down, right, -forward, center, np.array(size)], axis=1)
        rows.append(np.concatenate([matrix.ravel(), [1.0, 9.0]]))
    write_pictures(folder / ("images" if scale == 1 else f"images_{scale}"), images, frame_names(len(images)))
    np.save(folder / "poses_bounds.npy", np.array(rows))


def camera_lines(cameras: Cameras) -> list[str]:
    """Lines of a RealEstate10K file without the first."""
    lines = []
    stamps, viewmats, Ks = TIMESTAMPS[: len(cameras)], cameras.viewmats.double(), cameras.Ks.double()
    for stamp, viewmat, K in zip(stamps, viewmats, Ks, strict=True):
        numbers = [K[0, 0] / cameras.width, K[1, 1] / cameras.height, K[0, 2] / cameras.width, K[1, 2] / cameras.height]
        values = [float(n) for n in numbers] + [0.0, 0.0] + viewmat[:3].flatten().tolist()
        lines.append(" ".join([stamp, *(f"{value:.9f}" for value in values)]))
    return lines


def write_realestate(cameras_file: Path, frames: Path, images: Tensor, cameras: Cameras) -> None:
    """RealEstate10K and ACID: ID.txt and a folder of <timestamp>.png."""
    cameras_file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["https://www.youtube.com/watch?v=abcdefghijk", *camera_lines(cameras)]
    cameras_file.write_text("\n".join(lines) + "\n")
    write_pictures(frames, images, [f"{stamp}.png" for stamp in TIMESTAMPS[: len(images)]])
