import json

import pytest
import torch

from cus.cameras import Cameras, save_transforms
from cus.cameras import trajectories as paths
from cus.cameras.conversions import opengl_c2w_from_opencv_c2w
from cus.cameras.path_files import read_camera_path
from cus.errors import InputError


@pytest.fixture
def pair() -> Cameras:
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = -1.0  # the second camera stands one unit to the right
    K = torch.tensor([[100.0, 0, 48.0], [0, 100.0, 37.0], [0, 0, 1]])
    return Cameras(viewmats, K.repeat(2, 1, 1), 100, 80)


def visible_window(path: Cameras, reference: Cameras) -> torch.Tensor:
    """[T, 4] left, top, right, bottom of what each frame shows, in pixels of the reference (same pose)."""
    corners = torch.tensor([[0.0, 0.0, 1.0], [path.width, path.height, 1.0]])
    rays = corners @ torch.linalg.inv(path.Ks).transpose(1, 2)
    return (rays @ reference.Ks[0].T)[..., :2].reshape(len(path), 4)


@pytest.mark.parametrize("target", [None, (0.5, 0.4), (0.0, 1.0), (0.97, 0.03)])
def test_zoom_starts_at_the_photograph_and_ends_on_a_window_inside_it(pair, target):
    windows = visible_window(paths.zoom(pair, 4.0, target, frames=7), pair)
    torch.testing.assert_close(windows[0], torch.tensor([0.0, 0.0, 100.0, 80.0]), atol=1e-3, rtol=0)
    assert windows[:, :2].min() > -1e-3 and (windows[:, 2] < 100 + 1e-3).all() and (windows[:, 3] < 80 + 1e-3).all()
    width = windows[-1, 2] - windows[-1, 0]
    torch.testing.assert_close(width, torch.tensor(25.0), atol=1e-3, rtol=0)
    if target == (0.5, 0.4):
        torch.testing.assert_close(windows[-1], torch.tensor([37.5, 22.0, 62.5, 42.0]), atol=1e-3, rtol=0)


def test_zoom_magnifies_in_equal_ratios(pair):
    focal = paths.zoom(pair, 8.0, frames=4).Ks[:, 0, 0]
    torch.testing.assert_close(focal[1:] / focal[:-1], torch.full((3,), 2.0))


def test_a_single_frame_is_the_end_of_the_path(pair):
    assert paths.zoom(pair, 4.0, frames=1).Ks[0, 0, 0].item() == pytest.approx(400)


def test_interpolate_passes_through_the_references(pair):
    path = paths.interpolate(pair, frames=5)
    torch.testing.assert_close(path.viewmats[[0, -1]], pair.viewmats)
    torch.testing.assert_close(path.Ks, pair.Ks[:1].expand(5, -1, -1))
    torch.testing.assert_close(path.centers[2], torch.tensor([0.5, 0.0, 0.0]))


def test_dolly_makes_the_target_larger_by_the_zoom_and_brings_it_to_the_middle(pair):
    path = paths.dolly(pair, 2.5, (0.2, 0.7), frames=5, depth=4.0)
    pixel = torch.tensor([20.0, 56.0, 1.0])
    point = torch.linalg.inv(pair.Ks[0]) @ pixel * 4.0
    distances = (path.centers - point).norm(dim=1)
    assert (distances[0] / distances[-1]).item() == pytest.approx(2.5, rel=1e-4)
    pixels, depths = path.project(point[None])
    torch.testing.assert_close(pixels[0, 0], pixel[:2], atol=1e-3, rtol=0)
    torch.testing.assert_close(pixels[-1, 0], torch.tensor([48.0, 37.0]), atol=1e-3, rtol=0)
    assert (depths > 0).all()


def test_orbit_keeps_its_distance_and_comes_back(pair):
    path = paths.orbit(pair, depth=4.0, frames=9, degrees=12)
    aim = torch.linalg.inv(pair.Ks[0]) @ torch.tensor([50.0, 40.0, 1.0]) * 4
    distances = (path.centers - aim).norm(dim=1)
    torch.testing.assert_close(distances, distances[:1].expand(9))
    torch.testing.assert_close(path.viewmats[0], path.viewmats[-1], atol=1e-5, rtol=0)
    assert path.centers[2, 0] > 0.5 and path.centers[6, 0] < -0.5


def test_a_path_file_gives_back_the_cameras_it_was_written_from(pair, tmp_path):
    path = paths.interpolate(pair, 2.0, frames=3)
    save_transforms(tmp_path / "path.json", path, ["0", "1", "2"])
    read = read_camera_path(tmp_path / "path.json", 100, 80).cameras
    torch.testing.assert_close(read.viewmats, path.viewmats)
    torch.testing.assert_close(read.Ks, path.Ks)
    assert read_camera_path(tmp_path / "path.json", 50, 40).cameras.Ks[0, 0, 0] == path.Ks[0, 0, 0] / 2


def test_a_nerfstudio_camera_path_is_read_with_its_vertical_field_of_view(pair, tmp_path):
    c2w = opengl_c2w_from_opencv_c2w(pair.c2w[1])
    entry = {"camera_to_world": c2w.flatten().tolist(), "fov": 90.0}
    (tmp_path / "path.json").write_text(json.dumps({"camera_path": [entry]}))
    read = read_camera_path(tmp_path / "path.json", 100, 80).cameras
    torch.testing.assert_close(read.viewmats, pair.viewmats[1:])
    assert read.Ks[0, 1, 1].item() == pytest.approx(40.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"zoom": 0.0}, "above 0"),
        ({"zoom": float("nan")}, "above 0"),
        ({"zoom": 1e6}, "at most"),
        ({"target": (1.2, 0.5)}, "outside the picture"),
        ({"frames": 0}, "at least one frame"),
    ],
)
def test_paths_that_cannot_be_are_refused_with_the_reason(pair, arguments, message):
    with pytest.raises(InputError, match=message):
        paths.zoom(pair, **arguments)


def test_other_refusals(pair, tmp_path):
    with pytest.raises(InputError, match="at least two"):
        paths.interpolate(pair[0])
    with pytest.raises(InputError, match="walks in"):
        paths.dolly(pair, 0.5, depth=1.0)
    with pytest.raises(InputError, match="depth"):
        paths.dolly(pair, depth=0.0)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_camera_path(tmp_path / "bad.json", 10, 10)
    with pytest.raises(InputError, match="cannot read"):
        read_camera_path(tmp_path / "none.json", 10, 10)


@pytest.mark.parametrize("move", [paths.zoom, lambda *a, **k: paths.dolly(*a, depth=2.0, **k)])
def test_an_eased_path_has_the_same_ends_and_starts_and_stops_at_rest(move):
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[100.0, 0, 64], [0, 100, 48], [0, 0, 1]]]), 128, 96)
    even, eased = (move(camera, 3.0, None, 41, eased=eased) for eased in (False, True))
    for end in (0, -1):
        torch.testing.assert_close(even.viewmats[end], eased.viewmats[end])
        torch.testing.assert_close(even.Ks[end], eased.Ks[end])
    # What changes along either path: the position in z, and the logarithm of the focal length.
    way = eased.centers[:, 2] + eased.Ks[:, 0, 0].log()
    speed = way.diff()
    assert (speed > 0).all() and max(speed[0], speed[-1]) < 0.25 * speed.max()
