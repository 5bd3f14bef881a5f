"""Small inputs with nothing wrong in them, for generators to spoil."""

import functools
import json
import math
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cus.splats import Gaussians, save_splats

WIDTH, HEIGHT = 64, 48


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture with texture at every scale."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    fine = random.integers(0, 60, (height, width, 3))
    coarse = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(coarse + fine - 30, 0, 255).astype(np.uint8))


def c2w(index: int) -> list[list[float]]:
    """OpenGL camera-to-world of a camera on an arc before a wall."""
    angle = math.radians(6 * index)
    cosine, sine = math.cos(angle), math.sin(angle)
    return [[cosine, 0, sine, 4 * sine], [0, 1, 0, 0], [-sine, 0, cosine, 4 * cosine], [0, 0, 0, 1]]


def transforms(**changes: Any) -> dict[str, Any]:
    """The content of a transforms.json of three pictures."""
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": c2w(i)} for i in range(3)]
    content = {"w": WIDTH, "h": HEIGHT, "fl_x": 60.0, "fl_y": 60.0, "cx": 32.0, "cy": 24.0, "frames": frames}
    return content | changes


def write_pictures(folder: Path, count: int = 3) -> None:
    """images/0.png and so on."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(0).transform((WIDTH, HEIGHT), Image.Transform.AFFINE, (1, 0, 2 * i, 0, 1, 0)).save(
            folder / "images" / f"{i}.png"
        )


def write_posed(folder: Path, content: Any = None) -> None:
    """A folder of posed photographs."""
    write_pictures(folder)
    write_json(folder / "transforms.json", transforms() if content is None else content)


def write_json(path: Path, content: Any) -> None:
    """JSON, with NaN and Infinity as Python writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def gaussians(count: int = 40, degree: int = 1) -> Gaussians:
    """A few Gaussians about the origin."""
    source = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=source)

    return Gaussians(
        uniform(count, 3) * 2 - 1, torch.randn(count, 4, generator=source), uniform(count, 3) * 0.2 + 0.05,
        uniform(count) * 0.8 + 0.1, (uniform(count, (degree + 1) ** 2, 3) - 0.5) * 2,
    )  # fmt: skip


@functools.cache
def splat_bytes(suffix: str, degree: int = 1) -> bytes:
    """The content of a file of Gaussians."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        save_splats(path, gaussians(degree=degree))
        return path.read_bytes()


@functools.cache
def model_files() -> dict[str, bytes]:
    """A whole tiny model, by path."""
    from tests.diffusion.tiny import tiny_pipeline

    with tempfile.TemporaryDirectory() as folder:
        tiny_pipeline().save_pretrained(folder)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def write_model(folder: Path) -> None:
    """A model folder."""
    for name, content in model_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def colmap_files() -> dict[str, bytes]:
    """cameras.bin, images.bin and points3D.bin of two PINHOLE pictures, byte by byte as COLMAP writes them."""
    cameras = struct.pack("<Q", 1) + struct.pack("<IiQQ4d", 1, 1, WIDTH, HEIGHT, 60, 60, 32, 24)
    images = struct.pack("<Q", 2)
    for i in range(2):
        half = math.radians(3 * i)
        images += struct.pack("<I4d3dI", i + 1, math.cos(half), 0, math.sin(half), 0, 0.1 * i, 0, 4, 1)
        images += f"{i}.png".encode() + b"\0" + struct.pack("<Q", 1) + struct.pack("<ddq", 30.0, 20.0, 1)
    points = struct.pack("<Q", 1) + struct.pack("<Q3d3Bd", 1, 0, 0, 0, 200, 100, 50, 0.5)
    points += struct.pack("<Q", 2) + struct.pack("<IIII", 1, 0, 2, 0)
    return {"cameras.bin": cameras, "images.bin": images, "points3D.bin": points}


def write_colmap(folder: Path, files: dict[str, bytes] | None = None) -> None:
    """A COLMAP project: sparse/0 and images."""
    write_pictures(folder, 2)
    (folder / "sparse/0").mkdir(parents=True)
    for name, content in (files or colmap_files()).items():
        (folder / "sparse/0" / name).write_bytes(content)


_RUN: dict[str, Path] = {}


def made_run() -> Path:
    """The folder of a small whole run of cus-infer, made once for all cases by a process of its own."""
    if "run" not in _RUN:
        import subprocess
        import sys

        from tests.hostile.harness import ROOT

        folder = Path(tempfile.mkdtemp(prefix="cus-hostile-run-"))
        views = [str(ROOT / "examples/courtyard" / name) for name in ("a.jpg", "b.jpg")]
        sizes = ["--photo-size", "192", "--size", "64", "--frames", "3", "--steps", "1", "--splat-iterations", "5"]
        command = [sys.executable, "-m", "cus.cli.infer", "--views", *views, "--out", str(folder / "out"), *sizes]
        subprocess.run(command, check=True, capture_output=True)
        _RUN["run"] = folder / "out"
    return _RUN["run"]


def write_run(folder: Path) -> None:
    """A copy of the run, as `out`."""
    shutil.copytree(made_run(), folder / "out")
