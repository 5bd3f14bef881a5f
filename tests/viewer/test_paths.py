import dataclasses

import pytest
import torch

from cus.errors import InputError
from cus.viewer import PathRequest, ViewScene, build_path, load_scene, view_depth
from cus.viewer.paths import run_target
from tests.viewer.scenes import DISTANCE, photographs, run_path, wall, write_folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> ViewScene:
    return load_scene(write_folder(tmp_path_factory.mktemp("paths")))


@pytest.mark.parametrize("target", [None, (0.2, 0.3), (0.9, 0.8)])
def test_the_depth_under_a_target_is_the_walls(scene, target):
    for index in (0, 1):
        assert view_depth(scene.gaussians, photographs()[index], target) == pytest.approx(DISTANCE, rel=2e-3)


@pytest.mark.parametrize("factor", [3.0, 9.0])
def test_a_walk_ends_at_the_factors_share_of_the_distance_to_the_surface_and_faces_it(scene, factor):
    path = build_path(scene, PathRequest("walk", factor, (0.3, 0.6), 9))
    point = torch.tensor([(0.3 * 96 - 48) / 100 * DISTANCE, (0.6 * 64 - 32) / 100 * DISTANCE, DISTANCE])
    distances = (path.centers - point).norm(dim=1)
    assert distances[0] / distances[-1] == pytest.approx(factor, rel=2e-3)
    pixels, _ = path.project(point[None])
    torch.testing.assert_close(pixels[-1, 0], torch.tensor([48.0, 32.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(path.viewmats[0], scene.first_camera().viewmats[0])


def test_a_walk_starts_and_stops_at_rest(scene):
    path = build_path(scene, PathRequest("walk", 3.0, None, 41))
    # Equal steps of the distance's logarithm look equally fast.
    speeds = -(DISTANCE - path.centers[:, 2]).log().diff()
    assert (speeds > 0).all() and max(speeds[0], speeds[-1]) < 0.2 * speeds.max()


def test_a_zoom_stands_still_and_lengthens_the_lens(scene):
    path = build_path(scene, PathRequest("zoom", 4.0, None, 7))
    assert len(path) == 7 and path.centers.std(dim=0).max() == 0
    assert path.Ks[-1, 0, 0] / path.Ks[0, 0, 0] == pytest.approx(4)


def test_an_orbit_keeps_its_distance_from_the_surface_and_comes_back(scene):
    path = build_path(scene, PathRequest("orbit", 1.0, None, 9))
    distances = (path.centers - torch.tensor([0, 0, DISTANCE])).norm(dim=1)
    torch.testing.assert_close(distances, torch.full((9,), DISTANCE), rtol=1e-3, atol=0)
    torch.testing.assert_close(path.viewmats[0], path.viewmats[-1], atol=1e-5, rtol=0)
    assert path.centers[:, 0].abs().max() > 0.3


def test_the_runs_path_is_its_frames_cameras_and_more_of_them_have_the_same_ends(scene):
    own = build_path(scene, PathRequest("run"))
    torch.testing.assert_close(own.viewmats, run_path().viewmats)
    torch.testing.assert_close(own.Ks, run_path().Ks)
    more = build_path(scene, PathRequest("run", frames=17))
    assert len(more) == 17
    for end in (0, -1):
        torch.testing.assert_close(more.Ks[end], own.Ks[end])
    torch.testing.assert_close(more.Ks[4], own.Ks[1], atol=1e-3, rtol=0)


def test_a_path_may_start_anywhere(scene):
    start = photographs()[1]
    path = build_path(scene, PathRequest("walk", 2.0, None, 5), start)
    torch.testing.assert_close(path.viewmats[0], start.viewmats[0], atol=1e-6, rtol=0)


def test_the_end_of_a_runs_zoom_is_found_in_the_first_picture(scene):
    last = run_path()[-1]
    u, v = run_target(scene)
    # The middle of the last window, in the first picture.
    expected = ((48 - last.Ks[0, 0, 2]) / 2 + 48 - 0) / 96
    assert u == pytest.approx(float(expected), abs=2e-3) and v == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (PathRequest("walk", 0.5), "at least 1"),
        (PathRequest("zoom", 100.0), "at most 64"),
        (PathRequest("walk", 3.0, (0.5, 1.2)), "outside the picture"),
        (PathRequest("walk", frames=0), "at least one frame"),
        (PathRequest("walk", frames=10**6), "at most 5000"),
        (PathRequest("spiral"), "unknown path"),  # type: ignore[arg-type]
    ],
)
def test_a_path_that_cannot_be_is_refused(scene, request_, message):
    with pytest.raises(InputError, match=message):
        build_path(scene, request_)


def test_without_a_run_there_is_no_run_path(scene):
    bare = dataclasses.replace(scene, frames=None)
    with pytest.raises(InputError, match="no path of a run"):
        build_path(bare, PathRequest("run"))
    with pytest.raises(InputError, match="no path of a run"):
        run_target(bare)


def test_walking_to_where_nothing_is_says_so():
    camera = photographs()[0]
    behind = dataclasses.replace(camera, viewmats=torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None])
    with pytest.raises(InputError, match="no surface is seen around the target 0.5,0.5"):
        build_path(ViewScene("wall", wall()), PathRequest("walk"), behind)
