"""Two rendered scenes of three photographs each, small enough that a whole evaluation takes seconds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cus.cameras import Cameras
from cus.evaluation.records import Record
from cus.evaluation.rows import Frames, Row, Warp
from cus.evaluation.settings import EvalSettings
from procedural.tracer import random_scene, render, sample_reference_cameras
from tests.datasets.layouts import write_transforms

SEEDS = {"one": 1, "two": 4}
# A crop at x2 is as large as the frames.
WIDTH, HEIGHT, SIZE = 192, 128, 96


@contextmanager
def one_thread() -> Iterator[None]:
    """For pictures this small, threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache
def rendered(name: str) -> tuple[Tensor, Cameras]:
    """(images [3, 3, 128, 192], cameras) of photographs side by side, the middle one between the others."""
    scene = random_scene(SEEDS[name])
    cameras = sample_reference_cameras(scene, SEEDS[name], WIDTH, HEIGHT, views=3)
    return render(scene, cameras)[0], cameras


@lru_cache
def approached() -> tuple[Tensor, Cameras]:
    """The same for two photographs of "one" from outside and a third from half as far away."""
    scene = random_scene(SEEDS["one"])
    _, cameras = rendered("one")
    viewmats = cameras.viewmats[[0, 2, 1]].clone()
    # Where the middle camera looks, the scene is as far away as its focus.
    distance = float((scene.focus - cameras.centers[1]).norm())
    viewmats[2, 2, 3] -= 0.55 * distance
    nearer = Cameras(viewmats, cameras.Ks, WIDTH, HEIGHT)
    return render(scene, nearer)[0], nearer


def write_scenes(folder: Path, *names: str) -> Path:
    for name in names or SEEDS:
        write_transforms(folder / name, *rendered(name))
    return folder


def small(*rows: Row, **changes: object) -> EvalSettings:
    """Settings of seconds: one close-up a scene."""
    settings = EvalSettings(
        rows=[*rows] or [Warp(name="hierarchical", blur=True), Frames()],
        rules={"zooms": [2], "centers": ["centre"]},
        metrics=["psnr", "ssim"],
        size=SIZE,
        frames=3,
        splat_iterations=4,
    )
    for name, value in changes.items():
        assert hasattr(settings, name)
        setattr(settings, name, value)
    return settings


def damage(photo: Path) -> Path:
    """Spoil a photograph's pixels, not its header; returns a sound copy."""
    sound = photo.with_suffix(".sound")
    shutil.copy(photo, sound)
    # A JPEG's pixels are not looked at before they are needed, whatever the file is called.
    Image.open(sound).save(photo, format="jpeg")
    content = photo.read_bytes()
    photo.write_bytes(content[: len(content) // 2])
    return sound


def numbers(records: list[Record]) -> dict[tuple[str, str, str], object]:
    """What must not differ between two evaluations: all but the time they took."""
    return {(r.scene, r.case, r.row): (r.scores, r.error, r.group, r.picture) for r in records}
