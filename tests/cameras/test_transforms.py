"""What programs put into `transforms.json`: all of it is read as they mean it, or refused by file, frame and field."""

import codecs
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras import Lens, PosedPhotos, load_transforms, save_transforms
from cus.cameras.transforms_json import read_json
from cus.errors import InputError
from tests.cameras.test_cameras import random_cameras

EYE = np.eye(4).tolist()
UTM = [448251.3, 5411932.7, 35.2]


def picture(path: Path, width: int = 64, height: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).copy()).save(path)
    return path


def frame(name: str = "images/a.png", **fields: Any) -> dict[str, Any]:
    return {"file_path": name, "transform_matrix": EYE, **fields}


def written(folder: Path, frames: list[Any] | None = None, **shared: Any) -> Path:
    """A file of two frames of 64x48 pixels with a focal length of 50, and what is given."""
    defaults = {"w": 64, "h": 48, "fl_x": 50.0}
    content = {**defaults, **shared, "frames": [frame(), frame("images/b.png")] if frames is None else frames}
    file = folder / "transforms.json"
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return file


def loaded(folder: Path, *frames: Any, **shared: Any) -> PosedPhotos:
    return load_transforms(written(folder, list(frames) or None, **shared))


def shifted(cameras: Any, offset: list[float]) -> list[dict[str, Any]]:
    """Frames of cameras in a world whose origin is elsewhere, in float64."""
    c2w = torch.linalg.inv(cameras.viewmats.double()) @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    c2w[:, :3, 3] += torch.tensor(offset, dtype=torch.float64)
    return [{"file_path": f"images/{i}.png", "transform_matrix": matrix.tolist()} for i, matrix in enumerate(c2w)]


@pytest.mark.parametrize(
    ("fields", "fx", "fy"),
    [
        ({"camera_angle_x": 0.748, "camera_angle_y": 1.0}, 32 / math.tan(0.374), 24 / math.tan(0.5)),
        ({"camera_angle_x": 0.748}, 32 / math.tan(0.374), 32 / math.tan(0.374)),
        ({"camera_angle_y": 1.0}, 24 / math.tan(0.5), 24 / math.tan(0.5)),
        ({"x_fov": 60, "y_fov": 40}, 32 / math.tan(math.pi / 6), 24 / math.tan(math.pi / 9)),
        ({"fl_x": 50, "camera_angle_y": 1.0}, 50, 24 / math.tan(0.5)),
        ({"fl_y": 40, "camera_angle_x": 0.748}, 32 / math.tan(0.374), 40),
        ({"fl_y": 40}, 40, 40),
        ({"fl_x": 50, "fl_y": 40, "camera_angle_x": 0.748, "x_fov": 60}, 50, 40),
    ],
)
def test_focal_lengths_come_from_pixels_before_angles_each_direction_on_its_own(tmp_path, fields, fx, fy):
    for posed in (loaded(tmp_path, **{"fl_x": None, **fields}), loaded(tmp_path, frame(**fields), fl_x=None)):
        assert posed.Ks[0, 0, 0].item() == pytest.approx(fx, rel=1e-6)
        assert posed.Ks[0, 1, 1].item() == pytest.approx(fy, rel=1e-6)
        assert posed.Ks[0, :2, 2].tolist() == [32, 24]


def test_a_frame_overrides_what_the_top_level_says_for_all(tmp_path):
    own = frame(fl_x=70, cx=30.5, w=128, h=96, k1=0.02)
    posed = loaded(tmp_path, own, frame("images/b.png"), k1=0.01, cx=31)
    assert posed.Ks[:, 0, 0].tolist() == [70, 50] and posed.Ks[:, 0, 2].tolist() == [30.5, 31]
    assert posed.sizes == ((128, 96), (64, 48)) and posed.distortion[:, 0].tolist() == [0.02, 0.01]


@pytest.mark.parametrize(
    ("fields", "lens"),
    [
        ({}, Lens()),
        ({"camera_model": "PINHOLE"}, Lens()),
        ({"k1": 0.01, "p2": 0.001}, Lens("OPENCV", (0.01, 0, 0, 0.001))),
        ({"camera_model": "SIMPLE_RADIAL", "k1": 0.01}, Lens("OPENCV", (0.01, 0, 0, 0))),
        ({"k1": 0.01, "k3": 0.001}, Lens("FULL_OPENCV", (0.01, 0, 0, 0, 0.001, 0, 0, 0))),
        ({"camera_model": "FULL_OPENCV", "k4": 0.1}, Lens("FULL_OPENCV", (0, 0, 0, 0, 0, 0.1, 0, 0))),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.01}, Lens("OPENCV_FISHEYE", (0.1, 0, 0, 0.01))),
        ({"is_fisheye": True, "k1": 0.1, "p1": 0}, Lens("OPENCV_FISHEYE", (0.1, 0, 0, 0))),
        ({"camera_model": "RADIAL_FISHEYE", "k1": 0.1}, Lens("OPENCV_FISHEYE", (0.1, 0, 0, 0))),
        ({"camera_model": "FOV", "omega": 0.9}, Lens("FOV", (0.9,))),
    ],
)
def test_lenses_of_a_frame_and_of_the_file_are_read_alike(tmp_path, fields, lens):
    assert loaded(tmp_path, **fields).lenses == (lens, lens)
    other = {"camera_model": "OPENCV"} if "camera_model" in fields else {}
    assert loaded(tmp_path, frame(**fields), frame("images/b.png"), **other).lenses == (lens, Lens())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model EQUIRECTANGULAR is not supported"),
        ({"camera_model": "VR180_L"}, "camera_model VR180_L is not supported"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "is_fisheye is true, but camera_model is OPENCV"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.1}, "OPENCV_FISHEYE has no p1"),
        ({"k1": 0.1, "k4": 0.1}, "k4 = 0.1 .* ambiguous"),
        ({"k1": -50}, r"lens OPENCV \(k1 = -50.* folds"),
        ({"k1": float("nan")}, "k1 must be a finite number"),
        ({"k1": "0.1"}, "k1 must be a valid number, got '0.1'"),
        ({"fl_x": 0}, "fl_x must be greater than 0, got 0"),
        ({"fl_x": -50}, "fl_x must be greater than 0, got -50"),
        ({"fl_y": float("inf")}, "fl_y must be"),
        ({"fl_x": 10**400}, "fl_x must be"),
        ({"fl_x": True}, "fl_x must be a valid number"),
        ({"fl_x": [50]}, "fl_x must be a valid number"),
        ({"cx": 1e9}, "cx must be less than"),
        ({"camera_angle_y": 4}, "camera_angle_y must be less than"),
        ({"camera_angle_x": 0}, "camera_angle_x must be greater than 0"),
        ({"x_fov": 180}, "x_fov must be less than 180"),
        ({"w": 0}, "w must be greater than or equal to 1"),
        ({"h": -48}, "h must be greater"),
        ({"h": 48.5}, "h must be a multiple of 1"),
        ({"w": 10**9}, "w must be less than"),
        ({"w": "64"}, "w must be a valid number"),
        ({"is_fisheye": "no"}, "is_fisheye must be a valid boolean"),
        ({"file_path": 3}, "file_path must be a valid string"),
        ({"file_path": ""}, "file_path"),
        ({"file_path": "a\0.png"}, "file_path"),
        ({"mask_path": {}}, "mask_path must be a valid string"),
        ({"transform_matrix": None}, "matrix is not made of numbers"),
        ({"transform_matrix": "eye"}, "matrix is not made of numbers"),
        ({"transform_matrix": [["1"] * 4] * 4}, "matrix is not made of numbers"),
        ({"transform_matrix": [[1, 2], [3]]}, "rows of different lengths"),
        ({"transform_matrix": [[1.0] * 3] * 3}, r"expected a 4x4 camera matrix, got shape \(3, 3\)"),
        ({"transform_matrix": [[float("nan")] * 4] * 4}, "finite 4x4 camera matrix"),
        ({"transform_matrix": [[1, 0, 0, 1e300], *EYE[1:]]}, "finite 4x4 camera matrix"),
        ({"transform_matrix": [*EYE[:3], [0, 0, 0, 0]]}, r"last row must be 0 0 0 1, got \[0.0, 0.0, 0.0, 0.0\]"),
        ({"transform_matrix": [*EYE[:3], [0, 0, 5, 1]]}, "last row must be 0 0 0 1"),
        ({"transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}, "axes are scaled .*2, 2, 2"),
        ({"transform_matrix": np.diag([-1.0, 1, 1, 1]).tolist()}, "contains a reflection"),
        ({"transform_matrix": np.diag([0.0, 0, 0, 1]).tolist()}, "not rigid"),
        ({"transform_matrix": [[1, 0.5, 0, 0], *EYE[1:]]}, "not a rotation"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_file_frame_and_name(tmp_path, fields, message):
    wrong = frame("images/b.png") | fields
    with pytest.raises(InputError, match=rf"transforms\.json, frame 1 .*{message}"):
        loaded(tmp_path, frame(), wrong)
    shared = {key: value for key, value in fields.items() if key not in wrong or key not in frame()}
    if shared and "mask_path" not in shared:
        with pytest.raises(InputError, match=rf"transforms\.json, frame 0 .*{message}"):
            loaded(tmp_path, **shared)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "non-empty list"),
        ({}, "non-empty list"),
        ("frames", "non-empty list"),
        ([3], "frame 0: expected an object"),
        ([frame(), None], "frame 1: expected an object"),
        ([{"file_path": "a"}], "expected file_path and transform_matrix, got file_path"),
        ([frame(), frame("images/b.png"), frame()], r"frame 2 \(images/a.png\): file_path is that of an earlier frame"),
    ],
)
def test_frames_that_are_none_are_refused(tmp_path, frames, message):
    with pytest.raises(InputError, match=message):
        load_transforms(written(tmp_path, frames))


def test_a_camera_path_may_name_a_picture_twice(tmp_path):
    assert len(load_transforms(written(tmp_path, [frame(), frame()]), is_path=True)) == 2


def test_files_that_are_no_json_or_too_large_are_refused_at_once(tmp_path):
    file = tmp_path / "transforms.json"
    for content in ("", "{", "[" * 100_000, '{"frames":' * 50_000, "9" * 5000, "\x80", "[]"):
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=r"not valid JSON|JSON object"):
            load_transforms(file)
    with file.open("wb") as large:
        large.truncate(2**40)
    with pytest.raises(InputError, match="at most 64"):
        load_transforms(file)
    file.write_text('{"frames": [' + "0," * 199_999 + "0]}")
    with pytest.raises(InputError, match="200,000 frames"):
        load_transforms(file)
    with pytest.raises(InputError, match="it is a device"):
        read_json("/dev/zero")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_files_of_windows_editors_are_read(tmp_path, encoding):
    file = written(tmp_path, [frame("images/ä.png")])
    text = json.dumps(json.loads(file.read_text()), ensure_ascii=False)
    file.write_bytes(text.encode(encoding))
    assert load_transforms(file).paths[0].name == "ä.png"
    file.write_bytes(codecs.BOM_UTF16_BE + text.encode("utf-16-be"))
    assert len(load_transforms(file)) == 1


@pytest.mark.parametrize(
    ("listed", "on_disk", "beside"),
    [
        ("images/0001", "images/0001.png", ["images/0001.depth.npy", "images/0001.txt", "images/00012.png"]),
        ("images/frame.0001", "images/frame.0001.jpg", ["images/frame.0002.jpg"]),
        ("./images/0001.png", "images/0001.JPG", []),
        ("images/0001.png", "images/0001.png", ["images/0001.jpg"]),
        ("images/A.png", "images/a.png", []),
        ("images\\0001.jpg", "images/0001.jpg", []),
        ("images\\0001.jpg", "images\\0001.jpg", ["images/0001.jpg"]),
        (".\\images\\0001", "images/0001.jpg", []),
        ("C:\\shoot\\images\\0001.jpg", "images/0001.jpg", []),
        ("/home/other/scene/images/0001.jpg", "images/0001.jpg", []),
    ],
)
def test_a_photograph_is_found_by_the_name_that_was_meant(tmp_path, listed, on_disk, beside):
    for name in (on_disk, *beside):
        picture(tmp_path / "made.png")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((tmp_path / "made.png").read_bytes())
    posed = loaded(tmp_path, frame(listed), w=None, h=None)
    assert posed.paths[0].resolve() == (tmp_path / on_disk).resolve() and posed.sizes == ((64, 48),)


@pytest.mark.parametrize("names", [("0001.jpg", "0001.png"), ("Ab.png", "aB.png")])
def test_a_name_that_two_photographs_fit_is_refused(tmp_path, names):
    for name in names:
        picture(tmp_path / "images" / name)
    listed = {"0001.jpg": "images/0001", "Ab.png": "images/ab.png"}[names[0]]
    with pytest.raises(InputError, match="both fit"):
        loaded(tmp_path, frame(listed))


def test_poses_already_hold_the_applied_transform(tmp_path):
    turned = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]]
    plain, told = loaded(tmp_path), loaded(tmp_path, applied_transform=turned, applied_scale=0.1)
    assert torch.equal(plain.viewmats, told.viewmats)


@pytest.mark.parametrize("offset", [UTM, [4177000.0, 855000.0, 4728000.0]])
def test_cameras_far_from_zero_keep_their_places_in_double_precision(tmp_path, offset):
    cameras = random_cameras(3, width=64, height=48)
    posed = loaded(tmp_path, *shifted(cameras, offset))
    centers = -(posed.viewmats[:, :3, :3].double().mT @ posed.viewmats[:, :3, 3:].double())[..., 0] + posed.origin
    expected = cameras.centers.double() + torch.tensor(offset, dtype=torch.float64)
    assert (centers - expected).abs().max() < 1e-5
    assert posed.origin.dtype == torch.float64 and "far from zero" in posed.notes[0]
    near = loaded(tmp_path, *shifted(cameras, [0.0, 0.0, 0.0]))
    assert not near.origin.any() and not near.notes
    assert (posed.viewmats[:, :3, :3] - near.viewmats[:, :3, :3]).abs().max() < 1e-6


def test_a_far_world_is_written_as_it_was_and_read_with_one_origin_for_all_lists(tmp_path):
    cameras = random_cameras(3, width=64, height=48)
    posed = loaded(tmp_path, *shifted(cameras, UTM))
    _, local = posed.select([0, 1]).match(["images/0.png", "images/1.png"]), cameras
    save_transforms(tmp_path / "out.json", local, ["0.png", "1.png", "2.png"], None, posed.origin)
    again = load_transforms(tmp_path / "out.json")
    assert torch.equal(again.origin, posed.origin)
    torch.testing.assert_close(again.viewmats, local.viewmats, atol=1e-5, rtol=1e-5)
    matrix = json.loads((tmp_path / "out.json").read_text())["frames"][1]["transform_matrix"]
    expected = local.centers[1].double() + posed.origin
    assert np.abs(np.array(matrix)[:3, 3] - expected.numpy()).max() < 1e-6
    for value in ("no", [1, 2], [1, 2, float("nan")]):
        with pytest.raises(InputError, match="local_origin"):
            loaded(tmp_path, local_origin=value)


def test_photographs_shrunk_by_one_factor_get_intrinsics_that_follow(tmp_path):
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png", 64, 48)
    posed = loaded(tmp_path, w=256, h=192, fl_x=200, cx=130, k1=0.05)
    images, cameras = posed.load(64)
    assert images.shape == (2, 3, 48, 64)
    assert cameras.Ks[0, 0, 0] == 50 and cameras.Ks[0, 0, 2] == 32.5
    at_size = posed.at_file_size()
    assert at_size.sizes == ((64, 48),) * 2 and "64x48 for 256x192" in at_size.notes[0]
    with pytest.raises(InputError, match="another shape"):
        loaded(tmp_path, w=192, h=192).load(64)


def test_a_view_gets_the_camera_whose_path_ends_like_its_own(tmp_path):
    names = ["images/cam0/0.png", "images/cam1/0.png", "images/cam0/1.png", "images/x.PNG"]
    posed = loaded(tmp_path, *(frame(name, fl_x=index + 1) for index, name in enumerate(names)))
    for view, index in (
        ("cam1/0.png", 1),
        ("elsewhere/images/cam0/0.png", 0),
        (tmp_path / "images/cam1/0.png", 1),
        ("1.png", 2),
        ("cam0/0", 0),
        ("X.png", 3),
    ):
        assert posed.find(view) == index
    assert posed.match(["cam1/0.png", "cam0/0.png"]).Ks[:, 0, 0].tolist() == [2, 1]
    assert posed.names == ["cam0/0.png", "cam1/0.png", "cam0/1.png", "x.PNG"]
    with pytest.raises(InputError, match=r"more than one .* is called 0.png .*cam0.*cam1"):
        posed.find("0.png")
    with pytest.raises(InputError, match="no photograph with a camera is called y.png"):
        posed.find("y.png")
    with pytest.raises(InputError, match="fits both"):
        posed.match(["1.png", "other/1.png"])


@pytest.mark.parametrize("kind", ["png", "labels", "rgb", "jpg", "small"])
def test_pixels_that_a_mask_blackens_are_not_valid(tmp_path, kind):
    for name in "ab":
        picture(tmp_path / "images" / f"{name}.png")
    keep = np.zeros((48, 64), np.uint8)
    keep[:, 32:] = 1 if kind == "labels" else 255
    mask = Image.fromarray(keep)
    mask = mask.convert("RGB") if kind == "rgb" else mask.resize((16, 12), 0) if kind == "small" else mask
    name = f"mask.{'jpg' if kind == 'jpg' else 'png'}"
    mask.save(tmp_path / name)
    photos, _ = loaded(tmp_path, frame(mask_path=name), frame("images/b.png")).read(64)
    assert photos.valid[0, :, 32:].all() and not photos.valid[0, :, :32].any() and photos.valid[1].all()


def test_masks_of_another_shape_or_that_are_none_are_refused(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "wide.png", 96, 48)
    (tmp_path / "text.png").write_text("no mask")
    for name, message in (
        ("wide.png", "another shape"),
        ("text.png", "cannot read the mask"),
        ("no.png", "No such file"),
    ):
        with pytest.raises(InputError, match=message):
            loaded(tmp_path, frame(mask_path=name)).read(64)
