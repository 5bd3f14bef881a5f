"""The viewer as a browser shows it, held to `cus.splats.rasterization`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cus.cameras import Cameras
from cus.cameras.trajectories import zoom
from cus.report.html import ReportData, write_report_html
from cus.report.viewer import Splats, ViewerData, Views
from cus.splats import Gaussians, render
from tests.report.browser import Browser, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no chromium or chrome is installed")

WIDTH, HEIGHT, FRAMES = 160, 96, 5
# Bytes round by 0.25 on average; the rest is quantisation and half floats.
MEAN_BOUND, PEAK_BOUND = 0.75, 4.0
STILL = "document.getElementById('viewer').dataset.state === 'still'"


def room(degree: int) -> Gaussians:
    """A wall and a ball before it, flat and long Gaussians in all directions, some half transparent."""
    generator = torch.Generator().manual_seed(degree)
    wall = torch.rand(1500, 3, generator=generator) * torch.tensor([4.0, 3.0, 0.1]) - torch.tensor([2.0, 1.5, -4.0])
    ball = torch.nn.functional.normalize(torch.randn(1000, 3, generator=generator), dim=1) * 0.5 + torch.tensor(
        [0.2, 0.1, 2.5]
    )
    means = torch.cat([wall, ball])
    count = len(means)
    sh = torch.randn(count, (degree + 1) ** 2, 3, generator=generator) * 0.15
    sh[:, 0] = torch.sin(3 * means) + 0.3
    return Gaussians(
        means=means,
        quats=torch.randn(count, 4, generator=generator),
        scales=torch.exp(torch.rand(count, 3, generator=generator) * 3 - 5.5),
        opacities=torch.rand(count, generator=generator) * 0.9 + 0.09,
        sh=sh,
    )


def path_cameras() -> Cameras:
    K = torch.tensor([[150.0, 0, WIDTH / 2], [0, 150.0, HEIGHT / 2], [0, 0, 1]])
    viewmat = torch.eye(4)
    viewmat[0, 3] = 0.1
    return zoom(Cameras(viewmat[None], K[None], WIDTH, HEIGHT), 4.0, (0.6, 0.5), FRAMES)


def page_of(folder: Path, gaussians: Gaussians, antialiased: bool = True) -> Path:
    path = path_cameras()
    arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    moved = path.viewmats[:1].clone()
    moved[0, 0, 3] = -0.3
    sizes = [(WIDTH, HEIGHT)] * FRAMES
    viewer = ViewerData(
        Splats(*(array.numpy() for array in arrays)),
        Views([f"frame {i}" for i in range(FRAMES)], path.viewmats.numpy(), path.Ks.numpy(), sizes),
        Views(["photo_0"], moved.numpy(), path.Ks[:1].numpy(), sizes[:1]),
        np.full((HEIGHT, WIDTH, 3), 200, np.uint8),
        antialiased=antialiased,
    )
    write_report_html(folder / "report.html", ReportData("A scene", {}, viewer=viewer))
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def opened(browser: Browser, page: Path, before: str = "") -> None:
    """Open the page with the picture at its own size, once it rests; `before` runs ahead of the page's scripts."""
    style = f""".viewer .stage {{ width: {WIDTH}px; border-radius: 0 }}
        .status {{ display: none !important }} canvas {{ outline: none !important }}""".replace("\n", " ")
    insert = f"document.head.insertAdjacentHTML('beforeend', '<style>{style}</style>')"
    add = f"addEventListener('DOMContentLoaded', () => {insert})"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=f"{before};{add}")["identifier"]
    browser.problems.clear()
    browser.requests.clear()
    browser.open(page)
    browser.wait(STILL)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)


def box(browser: Browser) -> list[float]:
    return browser.evaluate(
        "(b => [b.x, b.y, b.width, b.height])(document.querySelector('#viewer canvas').getBoundingClientRect())"
    )


def shown(browser: Browser) -> np.ndarray:
    """[HEIGHT, WIDTH, 3] of the canvas, from a screenshot."""
    x, y, width, height = (round(value) for value in box(browser))
    assert (width, height) == (WIDTH, HEIGHT)
    return browser.screenshot()[y : y + height, x : x + width].astype(float)


def to_frame(browser: Browser, frame: int) -> None:
    browser.evaluate(
        f"(s => {{ s.value = {frame}; s.dispatchEvent(new Event('input', {{ bubbles: true }})); }})"
        "(document.querySelector('#viewer input[type=range]'))"
    )
    rested(browser)


def rested(browser: Browser) -> None:
    """Once a frame has been drawn since the last event, and nothing moves."""
    browser.evaluate("new Promise(done => setTimeout(done, 200))")
    browser.wait(STILL)


def assert_shows(picture: np.ndarray, gaussians: Gaussians, camera: Cameras, antialiased: bool = True) -> None:
    expected = render(gaussians, camera, antialiased=antialiased)[0].permute(1, 2, 0).numpy() * 255
    difference = np.abs(picture - expected)
    assert expected.std() > 20, "the scene must have something to show"
    assert difference.mean() < MEAN_BOUND and np.quantile(difference, 0.999) < PEAK_BOUND


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_canvas_shows_what_render_gives_at_the_first_and_the_last_camera(browser, tmp_path, degree):
    gaussians, cameras = room(degree), path_cameras()
    opened(browser, page_of(tmp_path, gaussians))
    assert_shows(shown(browser), gaussians, cameras[0])
    to_frame(browser, FRAMES - 1)
    assert_shows(shown(browser), gaussians, cameras[-1])
    assert not browser.problems
    assert {address.split(":")[0] for address in browser.requests} <= {"file", "data", "blob"}


def test_a_scene_fitted_without_antialiasing_is_shown_without(browser, tmp_path):
    gaussians = room(0)
    opened(browser, page_of(tmp_path, gaussians, antialiased=False))
    assert_shows(shown(browser), gaussians, path_cameras()[0], antialiased=False)


def test_sorting_on_the_page_itself_shows_the_same(browser, tmp_path):
    gaussians = room(0)
    refused = "window.Worker = class { constructor() { throw new DOMException('refused', 'SecurityError'); } }"
    opened(browser, page_of(tmp_path, gaussians), refused)
    assert_shows(shown(browser), gaussians, path_cameras()[0])
    assert not browser.problems


def test_nothing_is_drawn_while_nothing_changes_or_out_of_view(browser, tmp_path):
    count = """window.frames_drawn = 0;
        const next = requestAnimationFrame;
        requestAnimationFrame = draw => next(now => { frames_drawn++; draw(now); })"""
    opened(browser, page_of(tmp_path, room(0)), count)
    rested(browser)
    drawn = browser.evaluate("frames_drawn")
    browser.evaluate("new Promise(done => setTimeout(done, 500))")
    assert browser.evaluate("frames_drawn") == drawn
    browser.evaluate("document.body.style.paddingTop = '3000px'; new Promise(done => setTimeout(done, 200))")
    drawn = browser.evaluate("frames_drawn")
    browser.evaluate("document.querySelector('[data-do=play]').click(); new Promise(done => setTimeout(done, 300))")
    assert browser.evaluate("frames_drawn") == drawn


def test_playing_ends_exactly_at_the_last_camera(browser, tmp_path):
    gaussians = room(0)
    opened(browser, page_of(tmp_path, gaussians))
    browser.evaluate("document.querySelector('[data-do=play]').click()")
    rested(browser)
    assert browser.evaluate("document.querySelector('#viewer output').textContent") == f"frame {FRAMES} of {FRAMES}"
    assert_shows(shown(browser), gaussians, path_cameras()[-1])


def test_a_button_stands_the_viewer_at_its_photograph_and_reset_brings_it_back(browser, tmp_path):
    gaussians, first = room(0), path_cameras()[0]
    opened(browser, page_of(tmp_path, gaussians))
    moved = first.viewmats.clone()
    moved[0, 0, 3] = -0.3
    browser.evaluate("document.querySelector('[data-photo]').click()")
    rested(browser)
    assert_shows(shown(browser), gaussians, Cameras(moved, first.Ks, WIDTH, HEIGHT))
    browser.evaluate("document.querySelector('[data-do=reset]').click()")
    rested(browser)
    assert_shows(shown(browser), gaussians, first)


def difference_at_middle(before: np.ndarray, after: np.ndarray) -> float:
    rows, columns = slice(HEIGHT // 2 - 2, HEIGHT // 2 + 3), slice(WIDTH // 2 - 2, WIDTH // 2 + 3)
    return float(np.abs(before[rows, columns].mean(axis=(0, 1)) - after[rows, columns].mean(axis=(0, 1))).mean())


def test_dragging_turns_and_the_wheel_walks_in_about_what_is_under_the_cursor(browser, tmp_path):
    opened(browser, page_of(tmp_path, room(0)))
    x, y, width, height = box(browser)
    middle = (x + width / 2, y + height / 2)
    start = shown(browser)
    for _ in range(2):
        browser.mouse("mouseWheel", *middle, deltaX=0, deltaY=-120)
    rested(browser)
    nearer = shown(browser)
    assert np.abs(nearer - start).mean() > 5 and difference_at_middle(start, nearer) < 25
    browser.drag(middle, (middle[0] + 25, middle[1]))
    rested(browser)
    turned = shown(browser)
    assert np.abs(turned - nearer).mean() > 5
    assert browser.evaluate("document.querySelector('#viewer output').textContent") == "free view"
    browser.drag(middle, (middle[0] + 25, middle[1]), button="right")
    rested(browser)
    panned = shown(browser)
    assert np.abs(panned[10:-10, 35:-10] - turned[10:-10, 10:-35]).mean() < np.abs(panned - turned).mean()
    assert not browser.problems


def test_a_scroll_of_the_page_that_comes_upon_the_canvas_goes_on_scrolling(browser, tmp_path):
    opened(browser, page_of(tmp_path, room(0)))
    wheel = "dispatchEvent(new WheelEvent('wheel', { bubbles: true, cancelable: true, deltaY: 100 }))"
    canvas = "document.querySelector('#viewer canvas')"
    assert browser.evaluate(f"document.body.{wheel} && {canvas}.{wheel}") is True, "the page keeps its scroll"
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    assert browser.evaluate(f"{canvas}.{wheel}") is False, "a scroll that begins on the canvas walks"
    rested(browser)
    assert browser.evaluate("document.querySelector('#viewer output').textContent") == "free view"


def test_one_finger_turns_and_two_walk_in(browser, tmp_path):
    opened(browser, page_of(tmp_path, room(0)))
    x, y, width, height = box(browser)
    x, y = x + width / 2, y + height / 2

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x + dx, "y": y + dy, "id": i} for i, (dx, dy) in enumerate(points)]
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    start = shown(browser)
    touch("touchStart", (-15, 0), (15, 0))
    touch("touchMove", (-25, 0), (25, 0))
    touch("touchEnd")
    rested(browser)
    nearer = shown(browser)
    assert np.abs(nearer - start).mean() > 5 and difference_at_middle(start, nearer) < 25
    touch("touchStart", (0, 0))
    touch("touchMove", (20, 0))
    touch("touchMove", (30, 0))
    touch("touchEnd")
    rested(browser)
    assert np.abs(shown(browser) - nearer).mean() > 5
    assert not browser.problems


def test_keys_fly_and_step_along_the_path(browser, tmp_path):
    gaussians = room(0)
    opened(browser, page_of(tmp_path, gaussians))
    browser.evaluate("document.querySelector('#viewer canvas').focus()")
    start = shown(browser)
    browser.call("Input.dispatchKeyEvent", type="keyDown", code="KeyW", key="w")
    browser.evaluate("new Promise(done => setTimeout(done, 250))")
    browser.call("Input.dispatchKeyEvent", type="keyUp", code="KeyW", key="w")
    rested(browser)
    assert np.abs(shown(browser) - start).mean() > 2
    browser.key("ArrowRight", "ArrowRight")
    rested(browser)
    assert_shows(shown(browser), gaussians, path_cameras()[1])


def test_without_webgl2_the_last_render_and_the_reason_are_shown(browser, tmp_path):
    page = page_of(tmp_path, room(0))
    lost = "HTMLCanvasElement.prototype.getContext = () => null"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=lost)["identifier"]
    browser.open(page)
    browser.wait("document.getElementById('viewer').dataset.state === 'failed'")
    browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    assert "WebGL2" in browser.evaluate("document.querySelector('.message').innerText")
    x, y, width, height = (
        round(value)
        for value in browser.evaluate(
            "(b => [b.x, b.y, b.width, b.height])(document.querySelector('#viewer img').getBoundingClientRect())"
        )
    )
    picture = browser.screenshot()[y + 2 : y + height - 2, x + 2 : x + width - 2].astype(float)
    assert np.abs(picture - 200).mean() < 2
