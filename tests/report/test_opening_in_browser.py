"""The two pictures that a report opens with, magnified together and laid over each other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cus.report.html import Pane, ReportData, write_report_html
from tests.report.browser import Browser, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no chromium or chrome is installed")

TRANSFORMS = "[...document.querySelectorAll('.window img')].map(image => image.style.transform)"
MIDDLE = """(() => { const box = document.querySelector('.window').getBoundingClientRect();
return [box.x + box.width / 2, box.y + box.height / 2, box.width]; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    folder: Path = tmp_path_factory.mktemp("opening")
    panes = [Pane(f"picture {n}", "", np.full((90, 160, 3), 60 + 120 * n, np.uint8)) for n in range(2)]
    write_report_html(folder / "report.html", ReportData("t", {}, opening=panes))
    with Browser(folder) as opened:
        opened.open(folder / "report.html")
        yield opened


def click(browser: Browser, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, x, y, button="left", clickCount=1)


def test_a_click_magnifies_both_pictures_and_a_drag_moves_both(browser: Browser):
    x, y, width = browser.evaluate(MIDDLE)
    click(browser, x, y)
    assert set(browser.evaluate(TRANSFORMS)) == {"translate(-50%, -50%) scale(2)"}
    browser.drag((x, y), (x + width / 4, y))
    assert set(browser.evaluate(TRANSFORMS)) == {"translate(-25%, -50%) scale(2)"}
    assert not browser.problems and all(address.startswith(("file:", "data:")) for address in browser.requests)


def test_laid_over_each_other_a_drag_moves_the_divider(browser: Browser):
    browser.evaluate("document.getElementById('overlay').click()")
    x, y, width = browser.evaluate(MIDDLE)
    browser.drag((x, y), (x + width / 4, y))
    picture = browser.screenshot()
    row = picture[round(y), :, 0].astype(int)
    left, right = row[round(x - width / 2) + 8 : round(x + width / 4) - 10], row[round(x + width / 4) + 10 :]
    assert abs(left - 60).max() < 6 and abs(right[: round(width / 5)] - 180).max() < 6
