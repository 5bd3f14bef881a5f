import base64
import re

import cv2
import numpy as np
import pytest

from cus.report.html import Pane, ReportData, jpeg_uri, write_report_html


def pictures(frames: int = 3, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


def test_a_full_report_holds_all_parts_and_nothing_outside_itself(tmp_path):
    data = ReportData(
        "A <scene>",
        {"zoom": 4.0},
        notes=["focal length guessed"],
        inputs=[("a", pictures()[0]), ("b", pictures()[1])],
        depths=np.random.default_rng(0).uniform(1, 3, (2, 24, 32)),
        confidences=np.random.default_rng(1).uniform(0, 1, (2, 24, 32)),
        sequences={"Conditioning": pictures(), "Generated frames": pictures(), "Gaussian scene": pictures()},
        coverage=np.array([1.0, 0.9, 0.8]),
        timings={"Cameras and depth": 3.0, "Report": 1.0},
        reused=["Cameras and depth"],
        peak_memory_bytes=2**30,
        files=["points.ply"],
    )
    write_report_html(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "A &lt;scene&gt;" in page and "focal length guessed" in page and "1.00 GiB" in page and "(reused)" in page
    assert page.count("data:video/mp4") == 3 and page.count("data:image/jpeg") == 6 + 9
    assert not re.search(r"https?://", page)


def test_a_run_that_stopped_early_says_what_is_missing(tmp_path):
    data = ReportData("t", {}, missing=["Frames, final pass"], inputs=[("a", pictures()[0])])
    write_report_html(tmp_path / "report.html", data)
    page = (tmp_path / "report.html").read_text()
    assert "Missing: Frames, final pass" in page and "--resume" in page and "<script>" not in page


def test_sequences_out_of_step_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same number"):
        write_report_html(tmp_path / "r.html", ReportData("t", {}, sequences={"a": pictures(2), "b": pictures(3)}))


def test_an_embedded_picture_is_the_picture_at_most_720_pixels_long():
    ramp = np.broadcast_to(np.linspace(0, 255, 1440, dtype=np.uint8)[None, :, None], (100, 1440, 3))
    encoded = base64.b64decode(jpeg_uri(np.ascontiguousarray(ramp)).split(",")[1])
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (50, 720, 3)
    assert np.abs(picture[25, :, 1].astype(float) - np.linspace(0, 255, 720)).max() < 6


def verdict(**changes) -> dict:
    finding = {"name": "geometry", "grade": "poor", "told": "12 % is predicted", "advice": "use sharper photographs"}
    told = {"grade": "poor", "trusted": False, "forced": False, "headline": "the geometry was not found"}
    return told | {"advice": ["use sharper photographs"], "findings": [finding]} | changes


def test_the_page_opens_with_the_plain_crop_the_close_up_and_the_verdict(tmp_path):
    panes = [
        Pane("Plain crop of a.jpg", "no more", pictures()[0]),
        Pane("Generated close-up", "frame 3", pictures()[1]),
    ]
    data = ReportData("t", {}, notes=["a note"], opening=panes, verdict=verdict(grade="fair", trusted=True))
    write_report_html(tmp_path / "r.html", data)
    page = (tmp_path / "r.html").read_text()
    order = ["Plain crop of a.jpg", "Generated close-up", "The geometry was not found.", "12 % is predicted", "a note"]
    assert [page.index(words) for words in order] == sorted(page.index(words) for words in order)
    assert "Use sharper photographs." in page and 'role="alert"' not in page and not re.search(r"https?://", page)


def test_what_is_not_to_be_trusted_stands_in_red_above_the_pictures_unless_it_was_forced(tmp_path):
    panes = [Pane("Generated close-up", "frame 3", pictures()[1])]
    pages = []
    for forced in (False, True):
        write_report_html(tmp_path / "r.html", ReportData("t", {}, opening=panes, verdict=verdict(forced=forced)))
        pages.append((tmp_path / "r.html").read_text())
    plain, forced = pages
    assert plain.index('role="alert"') < plain.index("Generated close-up") and "--force" not in plain
    assert 'role="alert"' not in forced and "<code>--force</code> asked" in forced
