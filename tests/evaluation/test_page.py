"""The page of an evaluation as a browser shows it."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from cus.evaluation.page import EMBED_BUDGET, page_html, page_pictures, picture_size
from cus.evaluation.records import Record
from cus.evaluation.results import summary_json, write_results
from cus.evaluation.tables import summarise
from tests.evaluation.made_records import METRICS, PSNR, Made, made_records, save
from tests.report.browser import Browser, find_chromium

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no chromium or chrome is installed")
SETTLE = "new Promise(done => setTimeout(done, 250))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Two scenes, six cases each, four rows, one failure."""
    folder, made = tmp_path_factory.mktemp("page"), Made()
    write_results(
        folder, made_records(folder, made), METRICS, made.row_names, {"title": "A <table>"},
        axes=["protocol", "level"], baseline="row0",
    )  # fmt: skip
    return folder / "page.html"


def gray_page(folder: Path, levels: dict[str, int], budget: int = EMBED_BUDGET) -> Path:
    """One case whose pictures are flat grays; "target" is the truth."""
    place = "pictures/a b%/c#1"
    for name, level in levels.items():
        save(folder / f"{place}/{name}.png", np.full((60, 90, 3), level, np.uint8))
    rows = [name for name in levels if name != "target"]
    scores = {"frame": {"psnr": 20.0}}
    records = [Record("a b%", "c#1", row, row, {}, scores, f"{place}/{row}.png", 1.0) for row in rows]
    tables = summary_json(summarise(records, [PSNR], rows))
    context = {"title": "Grays", "settings": {}, "versions": {}}
    (folder / "page.html").write_text(page_html(folder, records, tables, context, budget))
    return folder / "page.html"


def opened(browser: Browser, page: Path, **window: int | float | bool) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(page, **({"width": 1200, "height": 900} | window))  # type: ignore[arg-type]
    browser.evaluate(SETTLE)


def texts(browser: Browser, selector: str) -> list[str]:
    return browser.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")


def choose(browser: Browser, name: str, value: str) -> None:
    browser.evaluate(f"get('{name}').value = '{value}'; get('{name}').dispatchEvent(new Event('change'))")


def color_at(browser: Browser, selector: str, u: float, v: float) -> np.ndarray:
    """RGB in the middle of 3 x 3 pixels at a place (fractions) of an element."""
    x, y, width, height = browser.evaluate(
        f"(b => [b.x, b.y, b.width, b.height])(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
    )
    column, row = round(x + u * width), round(y + v * height)
    return browser.screenshot()[row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(axis=0)


def heat(level: float) -> np.ndarray:
    """RGB of the colour map at a level in [0, 1]."""
    picture = np.full((1, 1), round(255 * level), np.uint8)
    return cv2.applyColorMap(picture, cv2.COLORMAP_INFERNO)[0, 0, ::-1].astype(float)


@needs_browser
def test_the_page_shows_the_table_and_every_case_without_network_or_problems(browser, page):
    opened(browser, page)
    assert texts(browser, "h1") == ["A <table>"]
    assert len(texts(browser, "#scores tbody tr")) == 4
    heads = texts(browser, "#scores th[scope=colgroup]")
    assert heads == ["Close-up view", "Regular view", "Easy set", "Hard set", "Easy set", "Hard set"]
    assert texts(browser, "#shown") == ["12 of 12 cases."]
    assert texts(browser, ".case")[0].startswith("attic / case 0")
    assert not browser.problems
    assert {address.split(":")[0] for address in browser.requests} <= {"file", "data"}
    assert [a for a in browser.requests if a.startswith("file")] == [page.resolve().as_uri()], "all in one file"


@needs_browser
def test_failures_stand_on_the_page_with_their_reason_as_text(browser, page):
    opened(browser, page)
    reason = "the fit diverged: <b>NaN</b> & 100 % of it"
    assert reason in texts(browser, ".failures li")[0]
    assert texts(browser, "td.bad") == ["3 of 4, 1 failed"]
    assert "1 of 48 records failed" in texts(browser, ".note.failed")[0]
    browser.evaluate("articles[6].scrollIntoView()")
    browser.wait("document.querySelector('.frame.failure') !== null")
    assert texts(browser, ".frame.failure") == [f"failed: {reason}"]
    assert browser.evaluate("document.querySelector('.failures li b b')") is None


@needs_browser
def test_columns_sort_best_first_then_worst_first_then_as_given(browser, page):
    opened(browser, page)
    labels = texts(browser, "#scores tbody th")
    press = "document.querySelector('#scores button[data-key=\"0:2\"]').click()"
    orders = []
    for state in ("ascending", "descending", "none"):
        browser.evaluate(press)
        orders.append(texts(browser, "#scores tbody th"))
        sort = "document.querySelector('#scores button[data-key=\"0:2\"]').parentElement.getAttribute('aria-sort')"
        assert browser.evaluate(sort) == state
    assert orders == [labels[::-1], labels, labels], "LPIPS falls with the row's number"


@needs_browser
def test_the_table_changes_with_region_scope_and_what_is_shown(browser, page):
    opened(browser, page)
    first = "#scores tbody tr:nth-child(2) td"
    overall = texts(browser, first)[0]
    choose(browser, "scope", "attic")
    scene = texts(browser, first)[0]
    choose(browser, "region", "covisible")
    assert len({overall, scene, texts(browser, first)[0]}) == 3
    choose(browser, "numbers", "differences")
    assert texts(browser, first)[0].startswith("+") and texts(browser, "#scores tbody tr:first-child td")[0] == "–"
    assert not browser.problems


@needs_browser
def test_filters_leave_the_cases_and_rows_that_are_chosen(browser, page):
    opened(browser, page)
    assert texts(browser, "#filters label select option")[:3] == ["all", "attic", "court_yard"]
    browser.evaluate(
        "filters.get('scene').value = 'attic'; filters.get('level').value = 'hard';"
        "filters.get('level').dispatchEvent(new Event('change'))"
    )
    assert texts(browser, "#shown") == ["2 of 12 cases."]
    assert all("Hard set" in text and "attic" in text for text in texts(browser, ".case:not([hidden])"))
    browser.evaluate(f"document.querySelector('#rows input[value=row2]').click(); {SETTLE}")
    shown = "[...document.querySelector('.case:not([hidden])').querySelectorAll('figure')].map(f => f.dataset.row)"
    assert browser.evaluate(shown) == ["truth", "row0", "row1", "row3"]


@needs_browser
@pytest.mark.parametrize("linked", [False, True])
def test_the_divider_parts_the_two_pictures_and_the_error_map_shows_their_difference(browser, tmp_path, linked):
    opened(browser, gray_page(tmp_path, {"target": 200, "near": 190, "far": 168}, 0 if linked else EMBED_BUDGET))
    assert browser.evaluate("document.images[0].src.startsWith('file:')") is linked
    browser.evaluate("document.querySelector('[data-row=far] button').click()")
    browser.wait("get('compare').open")
    browser.evaluate(SETTLE)
    assert color_at(browser, "#stage", 0.25, 0.5) == pytest.approx(168, abs=1)
    assert color_at(browser, "#stage", 0.75, 0.5) == pytest.approx(200, abs=1)
    for _ in range(20):
        browser.key("ArrowLeft", "ArrowLeft")
    browser.evaluate(SETTLE)
    assert browser.evaluate("get('divider').getAttribute('aria-valuenow')") == "10"
    assert color_at(browser, "#stage", 0.25, 0.5) == pytest.approx(200, abs=1)
    browser.key("KeyE", "e")
    browser.evaluate(SETTLE)
    assert color_at(browser, "#stage", 0.75, 0.5) == pytest.approx(heat(32 / 255 / 0.25), abs=6)
    choose(browser, "right", "near")
    browser.evaluate(SETTLE)
    assert color_at(browser, "#stage", 0.75, 0.5) == pytest.approx(heat(22 / 255 / 0.25), abs=6)
    # The browser itself closes dialogs, by the key's number.
    browser.call("Input.dispatchKeyEvent", type="keyDown", code="Escape", key="Escape", windowsVirtualKeyCode=27)
    browser.wait("!get('compare').open")
    assert not browser.problems


@needs_browser
def test_error_maps_of_all_rows_at_once_follow_the_scale(browser, tmp_path):
    opened(browser, gray_page(tmp_path, {"target": 120, "same": 120, "off": 145}))
    browser.evaluate("document.querySelector('.case').scrollIntoView(); get('errors').click()")
    for scale in (0.25, 0.1):
        choose(browser, "gain-at", str(scale))
        browser.evaluate(SETTLE)
        assert color_at(browser, "[data-row=truth] .frame", 0.5, 0.5) == pytest.approx(120, abs=1)
        assert color_at(browser, "[data-row=same] .frame", 0.5, 0.5) == pytest.approx(heat(0), abs=6)
        assert color_at(browser, "[data-row=off] .frame", 0.5, 0.5) == pytest.approx(heat(25 / 255 / scale), abs=6)


@needs_browser
def test_dragging_moves_the_divider_and_once_zoomed_the_picture(browser, page):
    opened(browser, page)
    browser.evaluate("document.querySelector('[data-row=row3] button').click()")
    browser.wait("get('compare').open")
    x, y, width, height = browser.evaluate("(b => [b.x, b.y, b.width, b.height])(get('stage').getBoundingClientRect())")
    browser.drag((x + width / 2, y + height / 2), (x + 0.2 * width, y + height / 2))
    assert browser.evaluate("view.split") == pytest.approx(0.2, abs=0.01)
    browser.mouse("mouseWheel", x + 0.9 * width, y + 0.5 * height, deltaX=0, deltaY=-200)
    browser.wait("view.zoom === 2")
    assert browser.evaluate("[view.x, view.y]") == pytest.approx([-0.9, -0.5], abs=0.01), "what is under it stays"
    browser.drag((x + 0.6 * width, y + 0.5 * height), (x + 0.7 * width, y + 0.6 * height))
    assert browser.evaluate("[view.x, view.y]") == pytest.approx([-0.8, -0.4], abs=0.01)
    assert browser.evaluate("view.split") == pytest.approx(0.2, abs=0.01)
    browser.key("KeyN", "n")
    assert texts(browser, "#which")[0].startswith("attic / case 1")
    assert browser.evaluate("[view.zoom, get('left').value]") == [1, "row3"]


@needs_browser
def test_the_pointer_enlarges_the_same_place_in_all_pictures_of_a_case(browser, page):
    opened(browser, page)
    browser.evaluate(f"document.querySelector('.case').scrollIntoView(); get('hover').value = '3'; {SETTLE}")
    x, y, width, height = browser.evaluate(
        "(b => [b.x, b.y, b.width, b.height])(document.querySelector('[data-row=row1] .frame').getBoundingClientRect())"
    )
    browser.mouse("mouseMoved", x + width / 4, y + height / 2)
    style = (
        "(s => [s.transform, s.transformOrigin])(getComputedStyle(document.querySelector('[data-row=row0] .stack')))"
    )
    browser.wait(f"{style}[0] === 'matrix(3, 0, 0, 3, 0, 0)'")
    origin = [float(part.removesuffix("px")) for part in browser.evaluate(style)[1].split()]
    assert origin == pytest.approx([width / 4, height / 2], abs=1)
    browser.mouse("mouseMoved", 2, 2)
    browser.wait(f"{style}[0] === 'matrix(1, 0, 0, 1, 0, 0)'")


@needs_browser
def test_the_page_fits_a_phone_and_follows_a_dark_scheme(browser, page):
    opened(browser, page, width=390, height=800, mobile=True)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    light = browser.screenshot()[-5:, :5].mean()
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = browser.screenshot()[-5:, :5].mean()
    browser.call("Emulation.setEmulatedMedia", features=[])
    assert light > 200 and dark < 60


@needs_browser
def test_only_cases_near_the_window_hold_pictures(browser, tmp_path):
    made = Made(scenes=("one",), cases=60, rows=4, size=(48, 32))
    write_results(tmp_path, made_records(tmp_path, made), METRICS, made.row_names, {})
    opened(browser, tmp_path / "page.html")
    assert 0 < browser.evaluate("document.images.length") < 100
    browser.evaluate(f"articles[59].scrollIntoView(); {SETTLE}")
    browser.wait("articles[59].querySelectorAll('img').length === 5 && !articles[0].built")
    assert browser.evaluate("document.images.length") < 100


def test_pictures_too_many_to_embed_are_linked_beside_the_page(tmp_path):
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (40, 60, 3), np.uint8)
        save(tmp_path / f"pictures/a b/{index}%.png", noise)
    paths = [f"pictures/a b/{index}%.png" for index in range(4)]
    inside = page_pictures(tmp_path, [*paths, "pictures/none.png"])
    assert inside.embedded and list(inside.addresses) == paths
    assert all(address.startswith("data:image/jpeg;base64,") for address in inside.addresses.values())
    for budget in (inside.bytes - 1, 1):
        linked = page_pictures(tmp_path, paths, budget)
        assert not linked.embedded and linked.addresses[paths[0]] == "pictures/a%20b/0%25.png"
        assert "keep it together" in linked.explanation
    assert page_pictures(tmp_path, paths, inside.bytes).embedded


def test_the_size_of_a_picture_is_read_off_its_header(tmp_path):
    save(tmp_path / "a.png", np.zeros((20, 31, 3), np.uint8))
    assert picture_size(tmp_path, "a.png") == (31, 20)
    (tmp_path / "b.png").write_bytes(b"none")
    assert picture_size(tmp_path, "b.png") is None and picture_size(tmp_path, "c.png") is None


def test_no_text_of_a_record_can_end_a_script(tmp_path):
    evil = "</script><script>alert(1)</script>"
    record = Record(evil, evil, "a", evil, {"level": evil}, {}, None, 1.0, evil)
    write_results(tmp_path, [record], [PSNR], ["a"], {"title": evil, evil: evil}, axes=["level"])
    assert "<script>alert" not in (tmp_path / "page.html").read_text()
