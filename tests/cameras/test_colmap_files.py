"""COLMAP's files: pycolmap's are read as it reads them, and damaged ones end in one sentence, never in pycolmap."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from cus.cameras.colmap import load_colmap, save_colmap
from cus.cameras.colmap_files import image_count, read_model
from cus.cameras.lenses import MODELS
from cus.errors import InputError
from tests.cameras.test_cameras import random_cameras
from tests.cameras.test_lenses import PARAMS

pycolmap = pytest.importorskip("pycolmap")


@pytest.fixture
def every_lens(tmp_path: Path) -> Path:
    """A model with a photograph of each lens, and points that two of them see."""
    folder = tmp_path / "model"
    folder.mkdir()
    made = pycolmap.Reconstruction()
    poses = random_cameras(len(MODELS)).viewmats.double()
    for index, (name, model) in enumerate(MODELS.items(), start=1):
        params = [300.0, 310.0][: model.focals] + [160.5, 119.0, *PARAMS[name]]
        made.add_camera_with_trivial_rig(
            pycolmap.Camera(model=name, width=320, height=240, params=params, camera_id=index)
        )
        keypoints = np.zeros((index % 3, 2))
        image = pycolmap.Image(name=f"a b/{name}.jpg", keypoints=keypoints, camera_id=index, image_id=index)
        made.add_image_with_trivial_frame(image, pycolmap.Rigid3d(poses[index - 1, :3].numpy()))
    made.write(str(folder))
    return folder


@pytest.mark.parametrize("form", ["binary", "text"])
def test_cameras_and_poses_are_those_that_pycolmap_reads(every_lens, form):
    known = pycolmap.Reconstruction(str(every_lens))
    if form == "text":
        known.write_text(str(every_lens))
        for file in every_lens.glob("*.bin"):
            file.unlink()
    posed = load_colmap(every_lens, "images")
    assert len(posed) == len(MODELS) == image_count(every_lens)
    rays = np.array([[0.1, -0.2, 1.0], [-0.3, 0.15, 1.0]])
    for image in known.images.values():
        index = posed.find(image.name)
        assert posed.paths[index] == Path("images") / image.name
        assert np.abs(posed.viewmats[index, :3].numpy() - image.cam_from_world().matrix()).max() < 1e-6
        bent = posed.lenses[index].distort(rays[:, :2]) @ posed.Ks[index, :2, :2].double().numpy()
        pixels = bent + posed.Ks[index, :2, 2].numpy()
        assert np.abs(pixels - image.camera.img_from_cam(rays)).max() < 1e-4


def test_a_world_far_from_zero_comes_back_to_a_tenth_of_a_millimetre(tmp_path):
    cameras = random_cameras(4)
    offset = torch.tensor([448251.3, 5411932.7, 35.2], dtype=torch.float64)
    points = torch.randn(20, 3)
    save_colmap(tmp_path, cameras, [f"{i}.png" for i in range(4)], points, None, None, offset)
    model = pycolmap.Reconstruction(str(tmp_path))
    stored = np.array([model.points3D[i].xyz for i in sorted(model.points3D)])
    assert np.abs(stored - (points.double() + offset).numpy()).max() < 1e-8
    posed = load_colmap(tmp_path, tmp_path)
    for index in range(4):
        exact = model.images[index + 1].projection_center()
        assert np.abs(exact - (cameras.centers[index].double() + offset).numpy()).max() < 1e-5
        center = -posed.viewmats[index, :3, :3].T @ posed.viewmats[index, :3, 3]
        assert (center.double() + posed.origin - torch.from_numpy(exact)).abs().max() < 1e-5


def damaged(folder: Path, name: str, at: int, layout: str, *values: float) -> Path:
    file = folder / name
    data = bytearray(file.read_bytes())
    struct.pack_into(layout, data, at, *values)
    file.write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("name", "at", "layout", "values", "message"),
    [
        ("cameras.bin", 0, "<Q", (2**62,), "cameras.bin is cut or damaged"),
        ("images.bin", 0, "<Q", (2**40,), "images.bin is cut or damaged"),
        ("images.bin", 0, "<Q", (1,), "bytes after its 1 entries"),
        ("images.bin", 0, "<Q", (0,), "bytes after its 0 entries"),
        ("cameras.bin", 12, "<i", (77,), "number 77 is not supported"),
        ("cameras.bin", 16, "<Q", (0,), "0x48 pixels cannot be"),
        ("cameras.bin", 24, "<Q", (2**50,), "pixels cannot be"),
        ("cameras.bin", 32, "<d", (-5.0,), "focal lengths positive"),
        ("cameras.bin", 32, "<d", (float("nan"),), "finite numbers"),
        ("cameras.bin", 48, "<d", (float("inf"),), "finite numbers"),
        ("images.bin", 12, "<4d", (0.0, 0.0, 0.0, 0.0), "quaternion that is not 0"),
        ("images.bin", 12, "<d", (float("nan"),), "quaternion that is not 0"),
        ("images.bin", 44, "<d", (float("inf"),), "translation of finite numbers"),
        ("images.bin", 44, "<d", (1e300,), "image 0.png: the camera stands at"),
        ("images.bin", 68, "<I", (99,), "its camera 99 is not among"),
        ("images.bin", 78, "<Q", (2**60,), "points of 0.png need"),
    ],
)
def test_a_damaged_binary_model_is_refused_by_what_is_wrong(tmp_path, name, at, layout, values, message):
    save_colmap(tmp_path, random_cameras(2, width=64, height=48), ["0.png", "1.png"])
    with pytest.raises(InputError, match=message):
        load_colmap(damaged(tmp_path, name, at, layout, *values), tmp_path)


def test_a_model_that_is_cut_anywhere_is_refused(tmp_path):
    save_colmap(tmp_path, random_cameras(2, width=64, height=48), ["0.png", "1.png"])
    for name in ("cameras.bin", "images.bin"):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(InputError, match=f"no COLMAP model in .*{name}"):
                load_colmap(tmp_path, tmp_path)
        (tmp_path / name).write_bytes(whole)
    assert len(load_colmap(tmp_path, tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cameras.txt", "1 PINHOLE 64 48 50 50 32", "PINHOLE has 4 parameters, got 3"),
        ("cameras.txt", "1 PINHOLE 64 wide 50 50 32 24", "cameras.txt, line 1: expected ID MODEL"),
        ("cameras.txt", "1 PINHOLE 64 48 50 nan 32 24", "finite numbers"),
        ("cameras.txt", "1 EQUIRECTANGULAR 64 48 64 48", "EQUIRECTANGULAR is not supported"),
        ("cameras.txt", "1 OPENCV 64 48 50 50 32 24 -50 0 0 0", "folds"),
        ("cameras.txt", "\udc80", "is no text"),
        ("images.txt", "1 1 0 0 0 0 0 zero 1 a.png\n\n", "images.txt, line 1: expected ID QW"),
        ("images.txt", "1 0 0 0 0 0 0 0 1 a.png\n\n", "quaternion that is not 0"),
        ("images.txt", "1 1 0 0 0 0 0 0 2 a.png\n\n", "its camera 2 is not among"),
        ("images.txt", "# no images\n", "no registered image"),
    ],
)
def test_a_damaged_text_model_is_refused_by_file_and_line(tmp_path, name, content, message):
    (tmp_path / "cameras.txt").write_text("# Cameras\n\n1 PINHOLE 64 48 50 50 32 24\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a b.png\n\n2 1 0 0 0 1 0 0 1 c.png\n1 2 -1\n")
    assert [path.name for path in load_colmap(tmp_path, tmp_path).paths] == ["a b.png", "c.png"]
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        load_colmap(tmp_path, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_pipes_and_devices_are_no_models(tmp_path):
    save_colmap(tmp_path / "a", random_cameras(2), ["0.png", "1.png"])
    for kind in ("pipe", "device"):
        shutil.copytree(tmp_path / "a", tmp_path / kind)
        (tmp_path / kind / "images.bin").unlink()
    os.mkfifo(tmp_path / "pipe" / "images.bin")
    (tmp_path / "device" / "images.bin").symlink_to("/dev/zero")
    for kind in ("pipe", "device"):
        with pytest.raises(InputError, match="no COLMAP model"):
            read_model(tmp_path / kind)
