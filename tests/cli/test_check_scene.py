"""`cus-check-scene` on right, wrong and missing cameras and photographs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cus.cli.check_scene import main
from cus.datasets.scene_check import BAD, GOOD, UNKNOWN, draw_cameras
from tests.datasets.layouts import procedural_views, write_transforms


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    folder = tmp_path / "door"
    write_transforms(folder, *procedural_views(3, 240, 160))
    return folder


def result(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_right_cameras_fit_and_are_drawn(scene, tmp_path, capsys):
    picture = tmp_path / "cameras.png"
    assert main([str(scene), "--json", "--quiet", "--picture", str(picture)]) == 0
    (found,) = result(capsys)["scenes"]
    assert found["error"] < 0.5 and found["refusal"] is None and found["pairs"] == [3, 3]
    assert not found["missing"] and not found["unmatched"] and not found["misplaced"]
    drawn = {color for _, color in Image.open(picture).getcolors(1 << 20) or []}
    assert GOOD in drawn and BAD not in drawn
    assert main([str(scene), "--quiet", "--picture", str(picture)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_cameras_of_other_photographs_end_with_status_3_and_say_why(scene, capsys):
    file = scene / "transforms.json"
    content = json.loads(file.read_text())
    matrices = [frame["transform_matrix"] for frame in content["frames"]]
    for frame, matrix in zip(content["frames"], [*matrices[1:], matrices[0]], strict=True):
        frame["transform_matrix"] = matrix
    file.write_text(json.dumps(content))
    assert main([str(scene), "--quiet"]) == 3
    assert "door is not usable: the cameras do not fit the photographs" in capsys.readouterr().err


def test_photographs_that_are_nowhere_are_listed(scene, capsys):
    (scene / "images" / "0001.png").unlink()
    assert main([str(scene), "--json", "--quiet"]) == 0
    assert result(capsys)["scenes"][0]["missing"] == ["0001.png"]


def test_each_scene_of_a_folder_is_told_of_and_a_broken_one_is_status_3(scene, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "transforms.json").write_text("{")
    assert main([str(tmp_path), "--json", "--quiet"]) == 3
    found = {entry["scene"]: entry["refusal"] for entry in result(capsys)["scenes"]}
    assert found["door"] is None and "not valid JSON" in found["broken"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--pairs", "0"], "--pairs must be 1 or more"),
        (["--largest-error", "nan"], "--largest-error must be above 0"),
        (["--images", "nowhere"], "there is no folder of photographs nowhere"),
    ],
)
def test_options_that_cannot_be_are_refused(scene, options, message, capsys):
    assert main([str(scene), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_camera_is_drawn_where_it_stands_as_seen_from_above():
    # Three cameras in a row along x that look along z; y is down, so z points down the page from above.
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, 0, 3] = torch.tensor([1.0, 0.0, -1.0])
    pixels = draw_cameras(viewmats, [0.1, float("nan"), 9.0], 1.5).load()
    colors = [pixels[x, 300] for x in (60, 300, 540)]  # pyright: ignore[reportOptionalSubscript]
    assert colors in ([GOOD, UNKNOWN, BAD], [BAD, UNKNOWN, GOOD])
