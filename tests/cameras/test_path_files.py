"""Camera paths from files, as nerfstudio and other programs write them, and as they should not be."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cus.cameras import Cameras, save_transforms
from cus.cameras.conversions import opengl_c2w_from_opencv_c2w
from cus.cameras.path_files import MOST_CAMERAS, read_camera_path
from cus.errors import InputError


def cameras(count: int = 2, width: int = 100, height: int = 80) -> Cameras:
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = -torch.arange(count).float()  # each stands one unit to the right of the one before
    turn = torch.tensor([[0.8, 0, -0.6, 0], [0, 1, 0, 0], [0.6, 0, 0.8, 0], [0, 0, 0, 1]])
    K = torch.tensor([[120.0, 0, width / 2 + 3], [0, 120.0, height / 2 - 2], [0, 0, 1]])
    return Cameras(turn @ viewmats, K.repeat(count, 1, 1), width, height)


def matrix(index: int = 1) -> torch.Tensor:
    return opengl_c2w_from_opencv_c2w(cameras().c2w[index])


def written(folder: Path, content: Any) -> Path:
    path = folder / "path.json"
    path.write_text(json.dumps(content))
    return path


def entry(index: int = 1, **changes: Any) -> dict[str, Any]:
    return {"camera_to_world": matrix(index).flatten().tolist(), "fov": 50.0} | changes


@pytest.mark.parametrize(("width", "height"), [(384, 216), (90, 160), (200, 160), (64, 64)])
def test_pixels_stay_square_and_what_the_path_shows_stays_in_view(tmp_path: Path, width: int, height: int) -> None:
    original = cameras(width=27, height=48)
    save_transforms(tmp_path / "path.json", original, ["a", "b"])
    read = read_camera_path(tmp_path / "path.json", width, height)
    assert torch.equal(read.cameras.Ks[:, 0, 0], read.cameras.Ks[:, 1, 1])
    corners = torch.tensor([[0.0, 0, 1], [27, 0, 1], [0, 48, 1], [27, 48, 1]])
    seen = corners @ torch.linalg.inv(original.Ks[0]).T @ read.cameras.Ks[0].T
    low, high = seen[:, :2].amin(dim=0), seen[:, :2].amax(dim=0)
    torch.testing.assert_close(low + high, torch.tensor([width, height]).float())  # in the middle
    margins = torch.stack([low, torch.tensor([width, height]) - high])
    assert margins.min() == pytest.approx(0, abs=1e-3), "two sides touch, and none is cut"
    assert bool(read.notes) == (abs(width / height - 27 / 48) > 0.02)


def test_a_path_for_another_aspect_says_so(tmp_path: Path) -> None:
    save_transforms(tmp_path / "path.json", cameras(width=27, height=48), ["a", "b"])
    read = read_camera_path(tmp_path / "path.json", 384, 216)
    assert "2 of 2 cameras are for pictures of the aspect 0.562, the frames have 1.78" in read.notes[0]
    assert read.cameras.Ks[0, 0, 0] == read.cameras.Ks[0, 1, 1] == pytest.approx(120 * 216 / 48)


def test_a_camera_path_keeps_its_vertical_angle_or_in_narrower_pictures_its_horizontal_one(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, {"camera_path": [entry(fov=90, aspect=1.5)], "camera_type": "perspective"})
    wide = read_camera_path(path, 200, 80)
    assert wide.cameras.Ks[0, 0, 0] == wide.cameras.Ks[0, 1, 1] == pytest.approx(40) and len(wide.notes) == 1
    narrow = read_camera_path(path, 60, 80)
    assert narrow.cameras.Ks[0, 0, 0] == narrow.cameras.Ks[0, 1, 1] == pytest.approx(20)
    assert not read_camera_path(path, 120, 80).notes
    whole = written(tmp_path, {"camera_path": [entry(fov=90)], "render_width": 1500, "render_height": 1000})
    assert read_camera_path(whole, 60, 80).cameras.Ks[0, 0, 0] == pytest.approx(20)


@pytest.mark.parametrize("as_text", [True, False])
def test_keyframes_alone_are_a_path(tmp_path: Path, as_text: bool) -> None:
    """three.js lists a matrix column by column; files of nerfstudio's older viewer hold it as text."""
    columns = [matrix(i).T.flatten().tolist() for i in range(2)]
    frames = [{"matrix": json.dumps(c) if as_text else c, "fov": 50, "aspect": 1.25} for c in columns]
    path = written(tmp_path, {"keyframes": frames, "camera_path": []})
    read = read_camera_path(path, 100, 80)
    torch.testing.assert_close(read.cameras.viewmats, cameras().viewmats)
    assert read.notes == ("path.json: the camera path is empty; its 2 keyframes were taken as they are",)
    between = read_camera_path(path, 100, 80, 5)
    torch.testing.assert_close(between.cameras.viewmats[[0, -1]], cameras().viewmats)
    assert len(between.cameras) == 5 and "5 frames from the first to the last" in between.notes[0]
    rows = [{"matrix": matrix(i).flatten().tolist(), "fov": 50, "aspect": 1.25} for i in range(2)]
    by_row = read_camera_path(written(tmp_path, {"keyframes": rows}), 100, 80)
    torch.testing.assert_close(by_row.cameras.viewmats, cameras().viewmats)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"camera_path": [], "keyframes": []}, "camera path is empty, and there are no keyframes; add some"),
        ({"camera_path": []}, "camera path is empty"),
        ({"frames": []}, "the path is empty"),
        ({"frames": {}}, "expected a list 'frames'"),
        ({"views": []}, "is no camera path"),
        ([], "expected a JSON object"),
        ({"camera_path": 3}, "camera_path must be a valid list, got 3"),
        ({"camera_path": [3]}, "entry 0: expected an object"),
        ({"camera_path": [{}]}, "entry 0: expected camera_to_world and fov, got nothing"),
        ({"camera_path": [entry(fov=None)]}, "fov must be a valid number, got None"),
        ({"camera_path": [entry(), entry(fov="50")]}, "entry 1: fov must be a valid number, got '50'"),
        ({"camera_path": [entry(fov=True)]}, "fov must be a valid number, got True"),
        ({"camera_path": [entry(fov=0)]}, "fov must be greater than 0, got 0"),
        ({"camera_path": [entry(fov=180)]}, "fov must be less than 180"),
        ({"camera_path": [entry(fov=1e-9)]}, "no field of view"),
        ({"camera_path": [entry(fov=math.nan)]}, "fov must be"),
        ({"camera_path": [entry(aspect=0)]}, "aspect must be"),
        ({"camera_path": [entry(aspect=[])]}, "aspect must be"),
        ({"camera_path": [entry()], "render_width": -1}, "render_width must be"),
        ({"camera_path": [entry()], "camera_type": "equirectangular"}, "'equirectangular' makes no perspective"),
        ({"camera_path": [entry(camera_type="omnidirectional")]}, "entry 0: camera_type 'omnidirectional'"),
        ({"camera_path": [entry()], "camera_type": 4}, "camera_type must be a valid string, got 4"),
        ({"camera_path": [entry(camera_to_world="spam")]}, "is text, but no list of numbers"),
        ({"camera_path": [entry(camera_to_world=[])]}, "camera matrix"),
        ({"camera_path": [entry(camera_to_world=[0] * 16)]}, "last row of the camera matrix must be 0 0 0 1"),
        ({"camera_path": [entry(camera_to_world=[math.nan] * 16)]}, "finite"),
        ({"camera_path": [entry(camera_to_world=[*[0.0] * 15, 1.0])]}, "not rigid|not a rotation|rotation"),
        ({"camera_path": [entry(camera_to_world=(2 * matrix()).flatten().tolist())]}, "last row"),
        ({"camera_path": [entry(camera_to_world=["a"] * 16)]}, "not made of numbers"),
        ({"camera_path": [entry(camera_to_world={"a": 1})]}, "camera matrix"),
    ],
)
def test_paths_that_cannot_be_are_refused_by_entry_and_field(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_camera_path(written(tmp_path, content), 100, 80)


def test_long_paths_are_answered_at_once_and_some_of_their_cameras_can_be_taken(tmp_path: Path) -> None:
    path = written(tmp_path, {"camera_path": [entry()] * 20_000 + [entry(0)]})
    started = time.perf_counter()
    with pytest.raises(InputError, match=f"20,001 cameras; a path has at most {MOST_CAMERAS:,}: --frames N"):
        read_camera_path(path, 100, 80)
    taken = read_camera_path(path, 100, 80, 5).cameras
    assert len(taken) == 5 and time.perf_counter() - started < 5
    torch.testing.assert_close(taken.viewmats, cameras().viewmats[[1, 1, 1, 1, 0]])
    assert len(read_camera_path(path, 100, 80, 1).cameras) == 1


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = written(tmp_path, {"camera_path": [entry()]})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_camera_path(path, 100, 80).cameras) == 1
