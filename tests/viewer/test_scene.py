import json
import shutil

import numpy as np
import pytest
import torch

from cus.errors import InputError
from cus.splats import save_ply, save_point_cloud, save_splats
from cus.viewer import ViewScene, load_scene
from cus.viewer.recording import Recording, shots, sized
from cus.viewer.scene import camera_of, default_camera, picture_of
from tests.viewer.scenes import photographs, run_path, wall, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def test_a_folder_gives_gaussians_photographs_frames_and_points(folder):
    scene = load_scene(folder)
    assert len(scene.gaussians) == len(wall()) and not scene.notes
    assert scene.photos is not None and [p.name for p in scene.photos.paths] == ["a.png", "b.png"]
    torch.testing.assert_close(camera_of(scene.photos, 1).Ks, photographs().Ks[1:])
    torch.testing.assert_close(scene.first_camera().viewmats, photographs().viewmats[:1])
    assert scene.frames is not None
    torch.testing.assert_close(scene.frames.viewmats, run_path().viewmats)
    assert scene.points is not None and scene.points.positions.shape == (len(wall()), 3)
    assert scene.unit() == pytest.approx(4)


def test_a_splat_file_takes_its_cameras_from_another_file(folder, tmp_path):
    scene = load_scene(folder / "splat.ply", folder / "transforms.json")
    assert scene.photos is not None and scene.frames is not None and scene.points is None


@pytest.mark.parametrize("suffix", [".ply", ".spz", ".splat"])
def test_a_folder_may_hold_any_splat_format(folder, suffix):
    gaussians = load_scene(folder).gaussians
    (folder / "splat.ply").unlink()
    save_splats(folder / f"splat{suffix}", gaussians)
    torch.testing.assert_close(load_scene(folder).gaussians.means, gaussians.means, atol=2e-3, rtol=0)


def test_another_programs_cameras_are_photographs_and_no_path(folder):
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"] = content.pop("photos")
    (folder / "transforms.json").write_text(json.dumps(content))
    scene = load_scene(folder)
    assert scene.photos is not None and len(scene.photos) == 2 and scene.frames is None


def test_without_cameras_the_bulk_of_the_gaussians_is_in_view_and_the_user_is_told(tmp_path):
    gaussians = wall()
    stray = gaussians.means.clone()
    stray[:40] = torch.tensor([500.0, -900.0, 3000.0])
    save_ply(tmp_path / "splat.ply", type(gaussians)(stray, *list(vars(gaussians).values())[1:]))
    scene = load_scene(tmp_path / "splat.ply")
    assert "no cameras" in scene.notes[0]
    camera = scene.first_camera()
    pixels, depths = camera.project(scene.gaussians.means)
    size = torch.tensor([camera.width, camera.height])
    inside = (depths > 0) & ((pixels > 0) & (pixels < size)).all(dim=-1)
    assert inside.float().mean() > 0.85, "5 % beyond either percentile may stick out"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_few_gaussians_in_one_place_have_a_camera_too(count):
    gaussians = wall().select(torch.zeros(count, dtype=torch.long))
    camera = default_camera(gaussians)
    _, depths = camera.project(gaussians.means)
    assert (depths > 0).all()
    assert ViewScene("dot", gaussians).unit() > 0


def test_a_camera_inside_the_gaussians_renders(tmp_path):
    gaussians = wall()
    viewmat = torch.eye(4)
    viewmat[2, 3] = -4.0
    camera = photographs()[0]
    inside = type(camera)(viewmat[None], camera.Ks, camera.width, camera.height)
    for shot, needles in shots(ViewScene("wall", gaussians), inside):
        assert torch.isfinite(shot.picture).all() and 0 <= needles <= 1


def test_a_photograph_that_is_gone_has_no_picture(folder):
    scene = load_scene(folder)
    assert scene.photos is not None
    first = picture_of(scene.photos, 0, 48)
    assert first is not None and first.shape == (32, 48, 3) and first.dtype == np.uint8
    (folder.parent / "a.png").unlink()
    assert picture_of(scene.photos, 0, 48) is None and picture_of(scene.photos, 1, 48) is not None
    load_scene(folder)


def test_what_cannot_be_looked_at_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        load_scene(tmp_path / "nothing")
    with pytest.raises(InputError, match="no such cameras file"):
        load_scene(folder, tmp_path / "none.json")
    with pytest.raises(InputError, match="not in|unknown|expected|suffix|ends"):
        load_scene(folder / "transforms.json")
    with pytest.raises(InputError, match="missing"):
        load_scene(folder / "points.ply")
    (folder / "splat.ply").unlink()
    with pytest.raises(InputError, match="holds no Gaussian scene"):
        load_scene(folder)


def test_a_cloud_that_is_none_is_refused_by_name(folder):
    shutil.copy(folder / "splat.ply", folder / "points.ply")
    with pytest.raises(InputError, match="points.ply is no coloured point cloud"):
        load_scene(folder)
    save_point_cloud(folder / "points.ply", torch.zeros(0, 3), torch.zeros(0, 3))
    assert load_scene(folder).points is not None


def test_videos_have_even_sides_and_the_pictures_aspect():
    cameras = sized(photographs(), 151)
    assert (cameras.width, cameras.height) == (152, 100)
    torch.testing.assert_close(cameras.Ks[0, 0, 0] / cameras.width, photographs().Ks[0, 0, 0] / 96)


@pytest.mark.parametrize(
    "recording", [Recording(size=4), Recording(size=10**5), Recording(fps=0), Recording(background=(0.0, 2.0, 0.0))]
)
def test_recordings_that_cannot_be_are_refused(recording):
    with pytest.raises(InputError):
        recording.check(1)
    with pytest.raises(InputError, match="fit into memory"):
        Recording(size=4000).check(5000)
