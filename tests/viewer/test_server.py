"""The page, with and without a browser that looks at it."""

import time
import urllib.request

import numpy as np
import pytest
import torch

from cus.cameras import Cameras
from cus.errors import InputError
from cus.report.video import read_video
from cus.splats import render
from cus.viewer import load_scene
from tests.viewer.browser import CHROMIUM, opened, wait_until
from tests.viewer.scenes import HEIGHT, WIDTH, photographs, wall, write_folder

pytest.importorskip("viser", reason="the viewer in the browser needs viser")
from cus.viewer.server import Viewer  # noqa: E402
from cus.viewer.stage import NEAR, most_visible  # noqa: E402

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    with Viewer(load_scene(write_folder(tmp_path_factory.mktemp("server"))), port=0) as viewer:
        yield viewer


@pytest.fixture(scope="module")
def page(viewer, tmp_path_factory):
    with opened(viewer.address, tmp_path_factory.mktemp("browser")) as browser:
        wait_until(viewer.server.get_clients, "a client")
        yield browser


@pytest.fixture
def client(viewer, page):
    (client,) = viewer.server.get_clients().values()
    viewer.panel.player.pause()
    viewer.stage.place(client, viewer.stage.scene.first_camera())
    return client


def status(viewer) -> str:
    return viewer.panel.controls["status"].content


def close_to(camera: Cameras, other: Cameras, tolerance: float = 2e-3) -> bool:
    return torch.allclose(camera.viewmats, other.viewmats, atol=tolerance)


def test_the_page_is_served(viewer):
    with urllib.request.urlopen(viewer.address) as answer:
        assert answer.status == 200 and b"<html" in answer.read(2000).lower()


def test_every_part_of_the_scene_has_a_node(viewer):
    nodes = ["/gaussians", "/points", "/photographs/0000/picture", "/photographs/0001/edges"]
    nodes += [f"/path/{i:04d}/picture" for i in range(5)]
    for node in nodes:
        assert viewer.server.scene.get_handle_by_name(node) is not None, node


def test_frusta_stand_where_their_cameras_do_and_end_at_their_pictures_corners(viewer):
    import viser.transforms as vt

    for frustum in viewer.stage.frusta:
        turn = vt.SO3(np.asarray(frustum.frame.wxyz)).as_matrix()
        ends = np.asarray(frustum.lines.points)[:4, 1] @ turn.T + np.asarray(frustum.frame.position)
        pixels, depths = frustum.camera.project(torch.from_numpy(ends / viewer.stage.scale).float())
        corners = torch.tensor([[0.0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]])
        torch.testing.assert_close(pixels[0], corners, atol=0.02, rtol=0)
        assert (depths > 0).all()
        # The picture fills the frustum's end: as wide and as high, about the same middle.
        size = np.ptp(np.asarray(frustum.lines.points)[:4, 1], axis=0)
        np.testing.assert_allclose([frustum.picture.render_width, frustum.picture.render_height], size[:2], rtol=1e-5)


def test_frusta_change_their_size_about_their_cameras(viewer):
    before = np.asarray(viewer.stage.frusta[0].lines.points).copy()
    size = viewer.stage.size
    viewer.stage.resize_frusta(2 * size)
    np.testing.assert_allclose(viewer.stage.frusta[0].lines.points, 2 * before, rtol=1e-6)
    viewer.stage.resize_frusta(size)


def test_toggles_hide_what_they_name(viewer):
    controls, stage = viewer.panel.controls, viewer.stage
    controls["gaussians"].value = False
    controls["points"].value = True
    controls["path"].value = False
    wait_until(lambda: not stage.gaussians.visible and stage.points.visible, "toggles")
    wait_until(lambda: not any(f.frame.visible for f in stage.frusta if f.group == "path"), "frusta")
    for name, value in (("gaussians", True), ("points", False), ("path", True)):
        controls[name].value = value
    wait_until(lambda: stage.gaussians.visible and not stage.points.visible, "toggles")


def test_fewer_gaussians_are_the_most_visible_ones(tmp_path):
    gaussians = wall(0.5)
    scales = gaussians.scales.clone()
    scales[::2] *= 3
    shown = most_visible(type(gaussians)(**{**vars(gaussians), "scales": scales}), len(scales) // 2)
    torch.testing.assert_close(shown.means, gaussians.means[::2][: len(shown)])
    assert most_visible(gaussians, None) is gaussians and most_visible(gaussians, 10**9) is gaussians


def test_a_second_viewer_on_the_same_port_is_refused(viewer):
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{viewer.port}"):
        Viewer(viewer.stage.scene, port=viewer.port)


@needs_browser
def test_a_client_starts_at_the_first_photograph(viewer, client):
    wait_until(lambda: close_to(viewer.stage.camera_of_client(client), photographs()[0]), "the first view")
    # The whole width of the picture fits: the window is at least as wide.
    camera = viewer.stage.camera_of_client(client)
    assert camera.width / camera.Ks[0, 0, 0] >= 0.999 * WIDTH / 100
    assert client.camera.near == pytest.approx(NEAR)


@needs_browser
def test_a_picture_fits_its_window_when_that_becomes_narrower(viewer, page, client):
    def fitted(narrow: bool) -> bool:
        camera = viewer.stage.camera_of_client(client)
        across, down = camera.width / camera.Ks[0, 0, 0].item(), camera.height / camera.Ks[0, 1, 1].item()
        touches = across / (WIDTH / 100) if narrow else down / (HEIGHT / 100)
        return (camera.width < camera.height) == narrow and abs(touches - 1) < 5e-3

    page.call("Emulation.setDeviceMetricsOverride", width=800, height=900, deviceScaleFactor=1, mobile=False)
    wait_until(lambda: fitted(True), "the narrow window")
    page.call("Emulation.setDeviceMetricsOverride", width=1600, height=640, deviceScaleFactor=1, mobile=False)
    wait_until(lambda: fitted(False), "the wide window")


@needs_browser
def test_the_browsers_picture_is_that_of_our_rasterizer(viewer, client):
    """Right side up and not mirrored: the wall is red to the right and green at the bottom."""
    time.sleep(1)
    camera = viewer.stage.camera_of_client(client).resized(120, 80)
    fits = Cameras(photographs().viewmats[:1], camera.Ks, 120, 80)
    ours = render(viewer.stage.scene.gaussians, fits, torch.ones(3))[0].permute(1, 2, 0).numpy() * 255

    def difference() -> float:
        seen = client.get_render(80, 120, timeout=30).astype(float)
        return float(np.abs(seen - ours).mean())

    wait_until(lambda: difference() < 10, f"a like picture, difference {difference():.1f}", seconds=30)
    assert np.abs(ours[:, ::-1] - ours).mean() > 20, "a mirrored picture would be told apart"


@needs_browser
def test_a_jump_in_the_browser_moves_its_camera(viewer, page, client):
    page.choose("choose ...", "photo b.png")
    moved = wait_until(
        lambda: (
            close_to(viewer.stage.camera_of_client(client), photographs()[1], 0.2)
            and viewer.stage.camera_of_client(client)
        ),
        "the jump",
    )
    torch.testing.assert_close(moved.centers, photographs().centers[1:], atol=2e-3, rtol=0)


@needs_browser
def test_the_frusta_that_a_client_stands_in_are_hidden(viewer, client):
    time.sleep(0.5)
    visible = {f.name: f.frame.visible for f in viewer.stage.frusta}
    assert not visible["a.png"] and not visible["0000.png"] and visible["b.png"]


@needs_browser
def test_a_path_is_made_played_and_recorded(viewer, page, client, tmp_path, monkeypatch):
    sent: list[tuple[str, bytes]] = []
    monkeypatch.setattr(type(client), "send_file_download", lambda self, name, content: sent.append((name, content)))
    controls = viewer.panel.controls
    controls["frames"].value, controls["width"].value, controls["factor"].value = 6, 90, 2.0
    page.press("Make the path")
    wait_until(lambda: "walk_x2, 6 frames" in status(viewer), "the path")
    page.press("Play / pause")
    wait_until(lambda: controls["frame"].value == 5, "the path's end")
    end = viewer.panel.path.cameras[-1].centers
    wait_until(lambda: torch.allclose(viewer.stage.camera_of_client(client).centers, end, atol=2e-2), "the walk")
    page.press("Record")
    wait_until(lambda: "Recorded" in status(viewer), "the recording")
    name, content = sent[0]
    (tmp_path / name).write_bytes(content)
    aspect = client.camera.aspect
    frames = read_video(tmp_path / name)
    assert name == "walk_x2.mp4" and len(frames) == 6
    assert max(frames.shape[1:3]) == 90 and frames.shape[2] / frames.shape[1] == pytest.approx(aspect, rel=0.05)


@needs_browser
def test_while_a_video_is_made_the_page_answers_a_second_is_refused_and_it_can_be_cancelled(viewer, page, client):
    controls = viewer.panel.controls
    controls["frames"].value, controls["width"].value, controls["factor"].value = 400, 1600, 2.0
    page.press("Make the path")
    wait_until(lambda: "400 frames" in status(viewer), "the path")
    page.press("Record")
    wait_until(lambda: controls["progress"].visible and controls["progress"].value > 0, "the first frame")
    started = time.monotonic()
    with urllib.request.urlopen(viewer.address) as answer:
        assert answer.status == 200 and time.monotonic() - started < 5
    # A browser that draws in software has to share the processor with the recording.
    wait_until(lambda: "Recording walk_x2" in page.text(), "the page")
    page.press("Record")
    wait_until(lambda: "a recording is being made" in status(viewer), "the refusal")
    page.press("Cancel")
    wait_until(lambda: "cancelled" in status(viewer) and not controls["progress"].visible, "the end")


@needs_browser
def test_a_clicked_point_is_walked_to(viewer, page, client):
    controls = viewer.panel.controls
    controls["towards"].value, controls["frames"].value, controls["factor"].value = "a point that I click", 5, 2.0
    page.press("Make the path")
    wait_until(lambda: "Click the point" in status(viewer), "the question")
    window = viewer.stage.camera_of_client(client)
    time.sleep(0.5)
    page.click(0.3 * window.width, 0.6 * window.height)
    wait_until(lambda: "walk_x2, 5 frames" in status(viewer), "the path")
    pixel = torch.tensor([[0.3 * window.width, 0.6 * window.height]])
    slopes = (pixel - window.Ks[0, :2, 2]) / window.Ks[0, (0, 1), (0, 1)]
    clicked = torch.cat([slopes * 4, torch.tensor([[4.0]])], dim=1)
    end = viewer.panel.path.cameras[-1]
    torch.testing.assert_close(end.centers, clicked / 2, atol=0.05, rtol=0)
    controls["towards"].value = "the middle of this view"


@needs_browser
def test_what_goes_wrong_is_said_on_the_page(viewer, page, client):
    away = photographs()[0]
    turned = Cameras(torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None], away.Ks, WIDTH, HEIGHT)
    viewer.stage.place(client, turned)
    wait_until(lambda: close_to(viewer.stage.camera_of_client(client), turned, 0.05), "turning away")
    page.press("Make the path")
    wait_until(lambda: "no surface is seen" in page.text(), "the error")


def test_one_recording_is_made_at_a_time_and_ends_with_the_viewer():
    from cus.viewer.panel import OneAtATime

    recorder, seen = OneAtATime(), []

    def job(check):
        while True:
            check()
            seen.append(1)
            time.sleep(0.01)

    assert recorder.start(job)
    assert not recorder.start(job)
    recorder.stop()
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count
    assert recorder.start(lambda check: seen.append(2)), "free again"


def test_a_player_shows_every_part_of_a_path_in_its_time_and_can_be_paused():
    from cus.viewer.panel import Player

    player, shown = Player(), []
    started = time.monotonic()
    player.start(2, 12, 100, shown.append)
    wait_until(lambda: not player.playing, "the end")
    assert shown[0] == 2 and shown[-1] == 11 and shown == sorted(set(shown))
    assert time.monotonic() - started >= 0.09
    player.start(0, 10**6, 50, shown.append)
    player.pause()
    assert not player.playing
