"""The example that ships: what its files say is what its script renders."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cus.cameras import load_transforms
from cus.cameras.photos import inspect_photo
from procedural.tracer import render

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PICTURES = ("a.jpg", "b.jpg", "close_zoom2.jpg", "close_zoom4.jpg", "close_between4.jpg", "close_dolly2.jpg")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_example", EXAMPLES / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_is_complete_and_small():
    posed = load_transforms(EXAMPLES / "courtyard" / "transforms.json")
    assert [path.name for path in posed.paths] == list(PICTURES)
    assert set(posed.sizes) == {(1280, 720)}
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) <= 3 * 2**20


def test_the_photographs_say_their_focal_length_as_a_camera_does():
    posed = load_transforms(EXAMPLES / "courtyard" / "transforms.json")
    for index, path in enumerate(posed.paths[:2]):
        photo = inspect_photo(path)
        assert (photo.width, photo.height) == (1280, 720)
        assert photo.focal == pytest.approx(float(posed.Ks[index, 0, 0]), rel=1e-4)


@pytest.mark.parametrize("name", ["a.jpg", "close_zoom4.jpg", "close_dolly2.jpg"])
def test_pictures_and_cameras_are_those_of_the_script(script, name):
    posed = load_transforms(EXAMPLES / "courtyard" / "transforms.json")
    images, cameras = posed.load(1280, 720)
    index = PICTURES.index(name)
    x, y, width, height = 560, 330, 160, 96
    rendered, _ = render(script.courtyard(), cameras[index].cropped(x, y, width, height), supersample=2)
    stored = images[index, :, y : y + height, x : x + width]
    # What is left is JPEG (half-resolution colour) and fewer samples.
    assert (rendered[0] - stored).abs().mean() < 0.05
    shifted = torch.roll(rendered[0], 2, dims=-1)
    assert (shifted - stored).abs().mean() > 1.5 * (rendered[0] - stored).abs().mean()


def test_pictures_that_are_there_are_never_replaced(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "close_zoom2.jpg").write_bytes(b"a photograph")
    monkeypatch.setattr("sys.argv", ["render.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        script.main()
    assert "close_zoom2.jpg exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["close_zoom2.jpg"]
