"""Every layout gives back the same cameras and pictures, and what is wrong with a folder is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras import PosedPhotos
from cus.cameras.alignment import align_cameras
from cus.cameras.colmap import load_colmap
from cus.datasets.llff import load_llff
from cus.datasets.realestate import load_realestate
from cus.datasets.scenes import find_scenes, open_scene, open_scenes
from cus.errors import InputError
from tests.datasets.layouts import (
    procedural_views,
    write_colmap,
    write_dl3dv,
    write_kitti_odometry,
    write_kitti_raw,
    write_llff,
    write_realestate,
    write_transforms,
)

HASH = "032dee9fb0a8bc1b90871dc5fe950080d0bcd3caf166447f44e60ca50ac04ec7"


def agrees(posed: PosedPhotos) -> bool:
    """Whether a scene's cameras and pictures are those that were rendered."""
    images, cameras = procedural_views()
    loaded, found = posed.load(cameras.width)
    torch.testing.assert_close(found.viewmats, cameras.viewmats, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.Ks, cameras.Ks, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(loaded, images, atol=0.6 / 255, rtol=0)
    return True


WRITERS = {
    "nerfstudio": write_transforms,
    "colmap": write_colmap,
    "colmap-flat": lambda folder, *views: write_colmap(folder, *views, model="sparse"),
    "colmap-text": lambda folder, *views: colmap_as_text(folder, *views),
    "colmap-shrunk": lambda folder, *views: write_colmap(folder, *views, scale=4),
    "llff": write_llff,
    "llff-shrunk": lambda folder, *views: write_llff(folder, *views, scale=8),
    "dl3dv-benchmark": write_dl3dv,
    "dl3dv-10k": lambda folder, *views: write_dl3dv(folder, *views, scale=8, below="."),
    "dl3dv-sample": lambda folder, *views: write_dl3dv(folder, *views, scale=2, below="colmap"),
    "dl3dv-splat": lambda folder, *views: write_colmap(folder / "gaussian_splat", *views, scale=4),
    "realestate": lambda folder, *views: write_realestate(folder / "id.txt", folder / "id", *views),
    "kitti-odometry": write_kitti_odometry,
}


def colmap_as_text(folder: Path, *views) -> None:
    import pycolmap

    write_colmap(folder, *views)
    model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
    shutil.rmtree(folder / "sparse")
    (folder / "sparse" / "0").mkdir(parents=True)
    model.write_text(str(folder / "sparse" / "0"))


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_gives_the_same_scene(tmp_path, layout):
    WRITERS[layout](tmp_path / "scene", *procedural_views())
    (posed,) = open_scenes(tmp_path / "scene").values()
    assert agrees(posed)


def test_the_largest_scale_that_is_complete_is_taken(tmp_path):
    images, cameras = procedural_views()
    write_dl3dv(tmp_path / HASH, images, cameras, scale=4)
    shutil.copytree(tmp_path / HASH / "nerfstudio" / "images_4", tmp_path / HASH / "nerfstudio" / "images_8")
    (tmp_path / HASH / "nerfstudio" / "images_4" / "frame_00002.png").unlink()
    posed = open_scene(tmp_path / HASH)
    assert {path.parent.name for path in posed.paths} == {"images_8"} and agrees(posed)


def test_a_raw_kitti_drive_gives_the_cameras_relative_to_each_other(tmp_path):
    images, cameras = procedural_views()
    write_kitti_raw(tmp_path, images, cameras)
    ((name, posed),) = open_scenes(tmp_path).items()
    assert name == "2011_09_26/2011_09_26_drive_0001_sync" and posed.sizes[0] == (cameras.width, cameras.height)
    torch.testing.assert_close(posed.Ks.float(), cameras.Ks, atol=1e-4, rtol=1e-5)
    moved, true = (v.double() @ v[:1].double().inverse() for v in (posed.viewmats, cameras.viewmats))
    torch.testing.assert_close(moved, true, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("calib_imu_to_velo.txt", "R: 1 0 0 0 1 0 0 0 1\n", "no line T of 3 numbers"),
        ("calib_cam_to_cam.txt", "R_rect_00: 1 0 0 0 1 0 0 0 nan\n", "no line P_rect_02"),
        ("2011_09_26_drive_0001_sync/oxts/data/0000000001.txt", "49 8\n", "expected latitude, longitude"),
        ("2011_09_26_drive_0001_sync/image_02/data/left.png", None, "named by their number"),
    ],
)
def test_a_damaged_kitti_drive_says_what_is_wrong(tmp_path, file, content, message):
    write_kitti_raw(tmp_path, *procedural_views())
    place = tmp_path / "2011_09_26" / file
    if content is None:
        shutil.copy(place.parent / "0000000000.png", place)
    else:
        place.write_text(content)
    with pytest.raises(InputError, match=message):
        open_scene(tmp_path)


def test_a_kitti_sequence_without_poses_says_which_have_them(tmp_path):
    write_kitti_odometry(tmp_path, *procedural_views())
    (tmp_path / "poses" / "00.txt").unlink()
    with pytest.raises(InputError, match="sequences 00 to 10"):
        open_scene(tmp_path)


def test_a_benchmark_folder_gives_its_scenes_by_their_hash(tmp_path):
    write_dl3dv(tmp_path / HASH, *procedural_views())
    (tmp_path / "benchmark-meta.csv").write_text("hash\n")
    write_dl3dv(tmp_path / "1K" / ("f" * 64), *procedural_views(), below=".")
    scenes = open_scenes(tmp_path)
    assert list(scenes) == [HASH, "1K/" + "f" * 64]
    assert all(agrees(posed) for posed in scenes.values())


@pytest.mark.parametrize(
    ("cameras", "frames"),
    [
        ("test/id.txt", "test/id"),
        ("test/id.txt", "test/id/images"),
        ("cameras/test/id.txt", "frames/test/id"),
        ("RealEstate10K/test/id.txt", "dataset/test/id"),
    ],
)
def test_frames_of_a_camera_file_are_found_in_the_usual_places(tmp_path, cameras, frames):
    write_realestate(tmp_path / cameras, tmp_path / frames, *procedural_views())
    ((name, posed),) = open_scenes(tmp_path).items()
    assert name == cameras.removesuffix(".txt") and agrees(posed)
    assert agrees(load_realestate(tmp_path / cameras, tmp_path / frames))


def test_normalised_intrinsics_take_the_size_of_the_frames(tmp_path):
    images, cameras = procedural_views()
    write_realestate(tmp_path / "id.txt", tmp_path / "id", images, cameras)
    for path in (tmp_path / "id").iterdir():
        with Image.open(path) as image:
            image.resize((192, 96)).save(path)
    posed = load_realestate(tmp_path / "id.txt")
    assert set(posed.sizes) == {(192, 96)}
    torch.testing.assert_close(posed.Ks, cameras.resized(192, 96).Ks, atol=1e-3, rtol=1e-4)


def test_a_scene_that_cannot_be_read_is_listed_with_its_reason(tmp_path):
    write_transforms(tmp_path / "good", *procedural_views())
    write_llff(tmp_path / "short", *procedural_views())
    (tmp_path / "short" / "images" / "0001.png").unlink()
    failures: dict[str, str] = {}
    assert list(open_scenes(tmp_path, failures)) == ["good"]
    assert "3 cameras, but there are 2 photographs" in failures["short"]
    with pytest.raises(InputError, match="3 cameras"):
        open_scenes(tmp_path)
    with pytest.raises(InputError, match="holds 2 scenes"):
        open_scene(tmp_path)


@pytest.mark.parametrize("layout", ["nerfstudio", "colmap", "dl3dv-benchmark", "realestate"])
def test_missing_photographs_are_left_out_and_counted_down_to_two(tmp_path, layout):
    WRITERS[layout](tmp_path / "scene", *procedural_views())
    pictures = sorted(tmp_path.rglob("*.png"))
    pictures[0].unlink()
    posed = open_scene(tmp_path / "scene")
    assert posed.paths == tuple(pictures[1:])
    assert any("1 of 3" in note and "left out" in note for note in posed.notes)
    pictures[1].unlink()
    with pytest.raises(InputError, match=r"2 of 3 .* missing"):
        open_scene(tmp_path / "scene")


@pytest.mark.parametrize("layout", WRITERS)
def test_pictures_that_are_none_are_told(tmp_path, layout):
    WRITERS[layout](tmp_path / "scene", *procedural_views())
    sorted(tmp_path.rglob("*.png"))[1].write_text("not a picture")
    with pytest.raises(InputError, match="not a picture"):
        open_scene(tmp_path / "scene")


def test_photographs_of_another_shape_are_told(tmp_path):
    write_transforms(tmp_path, *procedural_views())
    Image.new("RGB", (64, 96)).save(tmp_path / "images" / "0001.png")
    with pytest.raises(InputError, match="64x96 pixels, but its camera is for 96x64"):
        open_scene(tmp_path)


def test_folders_without_a_scene_say_what_was_expected(tmp_path):
    with pytest.raises(InputError, match="there is no"):
        find_scenes(tmp_path / "none")
    with pytest.raises(InputError, match="no scene: expected transforms.json"):
        find_scenes(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="photographs but no cameras: .*data/pose_scene.py"):
        find_scenes(tmp_path)
    (tmp_path / "notes.txt").write_text("see https://example.org\nfor more\n")
    with pytest.raises(InputError, match="no cameras"):
        find_scenes(tmp_path)


@pytest.mark.parametrize("layout", ["nerfstudio", "llff", "realestate"])
def test_one_photograph_is_no_scene(tmp_path, layout):
    images, cameras = procedural_views()
    WRITERS[layout](tmp_path / "scene", images[:1], cameras[:1])
    with pytest.raises(InputError, match="one photograph"):
        open_scene(tmp_path / "scene")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :15], "expected \\[N, 17\\]"),
        (lambda rows: rows.astype(str), "expected \\[N, 17\\]"),
        (lambda rows: np.where(np.arange(17) == 2, np.nan, rows), "not finite"),
        (lambda rows: np.where(np.arange(17) == 0, 5.0, rows), "not rigid|reflection"),
        (lambda rows: np.where(np.arange(17) == 14, -1.0, rows), "must be positive"),
    ],
)
def test_a_damaged_llff_file_says_what(tmp_path, change, message):
    write_llff(tmp_path, *procedural_views())
    np.save(tmp_path / "poses_bounds.npy", change(np.load(tmp_path / "poses_bounds.npy")))
    with pytest.raises(InputError, match=message):
        load_llff(tmp_path)


def test_an_llff_file_that_is_no_array_says_so(tmp_path):
    (tmp_path / "poses_bounds.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read"):
        load_llff(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], lines[1], lines[2].rsplit(" ", 1)[0]], "line 3: .* got 18 fields"),
        (lambda lines: [lines[0], lines[1].replace("0.0", "zero")], "expected numbers"),
        (lambda lines: lines[:1], "no frames"),
        (lambda lines: [lines[0], lines[1], lines[1]], "twice"),
        (lambda lines: [lines[0], lines[1].rsplit(" ", 12)[0] + 12 * " 0.5"], "not rigid|reflection|singular|inver"),
    ],
)
def test_a_damaged_camera_file_says_what_and_where(tmp_path, change, message):
    file = tmp_path / "id.txt"
    write_realestate(file, tmp_path / "id", *procedural_views())
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    with pytest.raises(InputError, match=message):
        load_realestate(file)


def test_camera_files_without_frames_are_told(tmp_path):
    write_realestate(tmp_path / "id.txt", tmp_path / "elsewhere", *procedural_views())
    with pytest.raises(InputError, match="there are no frames for"):
        open_scene(tmp_path)


def test_a_scene_with_one_distorted_photograph_keeps_its_lens(tmp_path):
    write_dl3dv(tmp_path, *procedural_views())
    file = tmp_path / "nerfstudio" / "transforms.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"k1": 0.05}))
    assert open_scene(tmp_path).distortion[:, 0].tolist() == [0.05] * 3


def test_llff_and_colmap_agree_on_a_real_scene_up_to_a_similarity(photos, tmp_path):
    """Both were made from one reconstruction: the axes of `poses_bounds.npy` are checked by COLMAP's."""
    colmap = load_colmap(photos / "video_beer" / "sparse" / "0", tmp_path / "images")
    shutil.copy(photos / "video_beer" / "poses_bounds.npy", tmp_path)
    (tmp_path / "images").mkdir()
    for path in colmap.paths:
        Image.new("RGB", (72, 128)).save(path)
    llff = load_llff(tmp_path)
    assert llff.sizes[0] == (72, 128)
    # LLFF gives all photographs the first camera's focal length.
    torch.testing.assert_close(10 * llff.Ks[:, :2], colmap.Ks[:1, :2].expand(71, 2, 3), atol=0.05, rtol=1e-4)
    _, given = PosedPhotos(llff.paths, colmap.viewmats, colmap.Ks, colmap.sizes).load(72)
    _, found = llff.load(72)
    alignment = align_cameras(found, given)
    assert alignment.rotation_errors.max() < 0.1 and alignment.position_errors.max() < 1e-3
    wrong = llff.viewmats.clone()
    wrong[:, [0, 1]] = wrong[:, [1, 0]]
    assert align_cameras(type(found)(wrong, found.Ks, 72, 128), given).rotation_errors.min() > 45
