"""Photographs and videos without cameras become scenes with them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cus.datasets.scenes import open_scene
from cus.errors import InputError
from cus.report.video import write_video
from cus.training.pose_scene import SceneToPose, build, jumps
from cus.training.scripts import settings_of
from procedural.tracer import random_scene, render, sample_reference_cameras


def posed(out: Path, photographs: Path, *more: str) -> list[str]:
    said: list[str] = []
    given = [f"out={out}", f"photographs={photographs}", "threads=1", *more]
    build(settings_of(SceneToPose, given), lambda done, total, words: None, said.append)
    return said


@pytest.fixture(scope="module")
def walk() -> tuple[np.ndarray, torch.Tensor]:
    """Six frames [T, H, W, 3] uint8 past a scene, and their true viewmats."""
    scene = random_scene(3)
    cameras = sample_reference_cameras(scene, 3, 320, 216, views=6)
    images = render(scene, cameras)[0]
    return (images.permute(0, 2, 3, 1) * 255).round().byte().numpy(), cameras.viewmats


def turns(viewmats: torch.Tensor) -> torch.Tensor:
    """Degrees between each camera and the first one."""
    traces = torch.einsum("nij,ij->n", viewmats[1:, :3, :3].double(), viewmats[0, :3, :3].double())
    return torch.rad2deg(((traces - 1) / 2).clamp(-1, 1).acos())


def test_frames_of_a_video_are_placed_where_they_were_taken(walk, tmp_path) -> None:
    frames, viewmats = walk
    write_video(tmp_path / "walk.mp4", frames, fps=2)
    said = posed(tmp_path / "out", tmp_path / "walk.mp4", "frames=6", "longest_side=320")
    assert said[-1].startswith("6 of 6 photographs placed"), said
    scene = open_scene(tmp_path / "out")
    assert len(scene) == 6 and [path.name for path in scene.paths] == [f"{n * 500:08d}.png" for n in range(6)]
    torch.testing.assert_close(turns(scene.viewmats), turns(viewmats), atol=1.0, rtol=0)
    found = torch.linalg.inv(scene.viewmats.double())[:, :3, 3]
    true = torch.linalg.inv(viewmats.double())[:, :3, 3]
    shares = [torch.linalg.norm(places[1:] - places[0], dim=1) for places in (found, true)]
    torch.testing.assert_close(shares[0] / shares[0].max(), shares[1] / shares[1].max(), atol=0.05, rtol=0)
    assert posed(tmp_path / "out", tmp_path / "walk.mp4", "frames=6", "longest_side=320")[0].endswith(
        "to pose it again"
    )


def test_what_cannot_be_placed_is_refused(walk, tmp_path) -> None:
    with pytest.raises(InputError, match="there is no .*nothing; give a video"):
        posed(tmp_path / "out", tmp_path / "nothing")
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, value in enumerate((10, 120, 240)):
        Image.fromarray(np.full((64, 96, 3), value, np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(InputError, match=r"only 0 of 3 photographs .* could be placed .*overlap, texture"):
        posed(tmp_path / "out", folder)
    (folder / "2.png").unlink()
    with pytest.raises(InputError, match="has 2 photographs; at least three"):
        posed(tmp_path / "other", folder)


def test_a_camera_that_seems_to_turn_around_between_frames_is_told() -> None:
    import pycolmap

    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(model="PINHOLE", width=8, height=8, params=[8, 8, 4, 4], camera_id=1)
    )
    for number, degrees in enumerate((0, 10, 175, 180)):
        half = math.radians(degrees) / 2
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, math.sin(half), 0, math.cos(half)])), np.zeros(3))
        image = pycolmap.Image(name=f"{number}.png", camera_id=1, image_id=number + 1)
        model.add_image_with_trivial_frame(image, pose)
    (note,) = jumps(model)
    assert note.startswith("between 1.png and 2.png the camera turns by 165 degrees")
