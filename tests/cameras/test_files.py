import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras import load_transforms, read_photos, save_transforms
from cus.cameras.colmap import load_colmap, save_colmap
from cus.cameras.conversions import focal_from_35mm, focal_from_fov, opencv_c2w_from_opengl_c2w, viewmats_from_c2w
from cus.cameras.lenses import Lens, undistort
from cus.cameras.photos import inspect_photo
from cus.errors import InputError
from tests.cameras.test_cameras import random_cameras


def write_photo(path: Path, width: int = 64, height: int = 48, orientation: int = 1, focal_35mm: int = 0) -> Path:
    ramp = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
    image = Image.fromarray(np.broadcast_to(ramp, (height, width, 3)).copy())
    exif = Image.Exif()
    exif[0x0112] = orientation
    if focal_35mm:
        exif.get_ifd(0x8769)[0xA405] = focal_35mm
    image.save(path, exif=exif)
    return path


def test_transforms_json_gives_back_what_was_written(tmp_path):
    cameras = random_cameras(3, width=64, height=48)
    names = [write_photo(tmp_path / f"{i}.jpg").name for i in range(3)]
    save_transforms(tmp_path / "transforms.json", cameras, names)
    posed = load_transforms(tmp_path)
    torch.testing.assert_close(posed.viewmats, cameras.viewmats)
    torch.testing.assert_close(posed.Ks, cameras.Ks)
    images, loaded = posed.load(32)
    assert images.shape == (3, 3, 24, 32) and 0 <= images.min() and images.max() <= 1
    torch.testing.assert_close(loaded.Ks, cameras.resized(32, 24).Ks)


def test_opengl_looks_down_minus_z_with_y_up():
    c2w = torch.eye(4, dtype=torch.float64)
    converted = opencv_c2w_from_opengl_c2w(c2w)
    assert converted[:3, 2].tolist() == [0, 0, -1] and converted[:3, 1].tolist() == [0, -1, 0]


def test_matrices_that_are_not_rigid_are_refused():
    with pytest.raises(ValueError, match="not rigid"):
        viewmats_from_c2w(torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0])))
    with pytest.raises(ValueError, match="reflection"):
        viewmats_from_c2w(torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])))


def test_undistorted_pixels_lie_where_opencv_projects_them():
    """A dot drawn at the distorted projection of a ray moves to the pinhole projection of that ray."""
    K = np.array([[300.0, 0, 160.5], [0, 310.0, 119.0], [0, 0, 1]])
    lens = np.array([-0.2, 0.05, 0.002, -0.001, 0, 0, 0, 0])
    K_cv = K.copy()
    K_cv[:2, 2] -= 0.5
    ray = np.array([[[0.35, -0.22, 1.0]]])
    (u, v), _ = cv2.projectPoints(ray, np.zeros(3), np.zeros(3), K_cv, lens)[0].reshape(2), None
    ys, xs = np.mgrid[:240, :320]
    dot = (255 * np.exp(-((xs - u) ** 2 + (ys - v) ** 2) / 8)).astype(np.uint8)
    straight, mask = undistort(np.repeat(dot[..., None], 3, axis=2), K, Lens.from_opencv(lens))
    weights = straight[..., 0].astype(float)
    centre = np.array([(weights * (xs + 0.5)).sum(), (weights * (ys + 0.5)).sum()]) / weights.sum()
    expected = (K @ ray[0, 0])[:2]
    assert np.abs(centre - expected).max() < 0.1
    assert mask is not None and mask[120, 160]


def test_real_lens_distortion_is_not_ignored(photos):
    posed = load_transforms(photos / "berlin").select([0])
    assert posed.distortion.abs().max() > 0
    batch, cameras = posed.read(400)
    assert batch.images.shape == (1, 3, 300, 400) and cameras.width == 400
    plain = read_photos([inspect_photo(posed.paths[0])], 400)
    assert (batch.images - plain.images).abs().mean() > 1e-3


def test_orientation_and_focal_length_come_from_exif(tmp_path):
    photo = inspect_photo(write_photo(tmp_path / "a.jpg", 64, 48, orientation=6, focal_35mm=50))
    assert (photo.width, photo.height) == (48, 64) and photo.pixels().shape == (64, 48, 3)
    assert photo.focal == pytest.approx(50 / 43.2666 * 80, rel=1e-4)
    assert inspect_photo(write_photo(tmp_path / "b.jpg")).focal is None
    assert focal_from_35mm(43.2666, 3000, 4000) == pytest.approx(5000, rel=1e-4)
    assert focal_from_fov(90, 100) == pytest.approx(50)


def test_photographs_of_other_shapes_are_padded_and_never_cropped(tmp_path):
    files = [write_photo(tmp_path / "wide.jpg", 128, 64), write_photo(tmp_path / "tall.png", 50, 100)]
    batch = read_photos([inspect_photo(f) for f in files], 64)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.valid[0].sum() == 64 * 32 and batch.valid[1].sum() == 32 * 64
    assert batch.images[0, :, 32:].abs().max() == 0
    torch.testing.assert_close(batch.scales, torch.tensor([[0.5, 0.5], [0.64, 0.64]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "frames"),
        ({"frames": [{"file_path": "a.jpg"}]}, "transform_matrix"),
        ({"frames": [{"file_path": "a.jpg", "w": 4, "h": 4, "transform_matrix": np.eye(4).tolist()}]}, "focal length"),
        ({"fl_x": 1, "frames": [{"file_path": "a.jpg", "w": 4, "h": 4, "transform_matrix": [[1]]}]}, "4x4"),
        (
            {"fl_x": -1, "frames": [{"file_path": "a", "w": 4, "h": 4, "transform_matrix": np.eye(4).tolist()}]},
            "fl_x must be greater than 0, got -1",
        ),
        (
            {
                "camera_model": "EQUIRECTANGULAR",
                "fl_x": 1,
                "frames": [{"file_path": "a", "w": 4, "h": 4, "transform_matrix": np.eye(4).tolist()}],
            },
            "EQUIRECTANGULAR is not supported",
        ),
    ],
)
def test_a_transforms_file_that_lacks_something_says_what(tmp_path, content, message):
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_transforms(tmp_path)


def test_bad_photographs_are_refused_with_the_reason(tmp_path):
    (tmp_path / "text.jpg").write_text("not a picture")
    tiny = write_photo(tmp_path / "tiny.png", 8, 8)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(write_photo(tmp_path / "whole.jpg", 256, 256).read_bytes()[:1500])
    for path, message in [
        (tmp_path / "none.jpg", "no such"),
        (tmp_path, "folder"),
        (tmp_path / "text.jpg", "not a picture"),
        (tiny, "8x8"),
    ]:
        with pytest.raises(InputError, match=message):
            inspect_photo(path)
    with pytest.raises(InputError, match="damaged"):
        inspect_photo(cut).pixels()


def test_photographs_are_matched_to_cameras_by_name(tmp_path):
    cameras = random_cameras(2)
    save_transforms(tmp_path / "transforms.json", cameras, ["images/a.jpg", "images/b.jpg"])
    posed = load_transforms(tmp_path).match(["elsewhere/b.jpg"])
    torch.testing.assert_close(posed.viewmats, cameras.viewmats[1:])
    with pytest.raises(InputError, match=r"no photograph with a camera is called c.jpg"):
        load_transforms(tmp_path).match(["c.jpg"])


def test_a_colmap_model_gives_back_the_cameras_and_pycolmap_reprojects_its_points(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    cameras = random_cameras(2)
    point = cameras.c2w[0, :3, 3] + 3 * cameras.c2w[0, :3, 2]
    save_colmap(tmp_path / "sparse", cameras, ["a.jpg", "b.jpg"], point[None], torch.ones(1, 3))
    posed = load_colmap(tmp_path / "sparse", tmp_path)
    torch.testing.assert_close(posed.viewmats, cameras.viewmats)
    torch.testing.assert_close(posed.Ks, cameras.Ks)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse"))
    image = next(i for i in model.images.values() if i.name == "a.jpg")
    pixel = image.project_point(next(iter(model.points3D.values())).xyz)
    assert np.abs(pixel - cameras.project(point[None])[0][0, 0].numpy()).max() < 0.01
    with pytest.raises(InputError, match="no COLMAP model"):
        load_colmap(tmp_path, tmp_path)


def test_a_real_colmap_model_loads(photos):
    posed = load_colmap(photos / "video_beer" / "sparse" / "0", photos)
    assert len(posed) == 71 and posed.sizes[0] == (720, 1280)
