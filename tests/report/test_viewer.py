import json
import re

import numpy as np
import pytest

from cus.report.html import ReportData, write_report_html
from cus.report.viewer import ROW, Packed, Splats, ViewerData, Views, bytes_each, contributions, pack, thinned


def splats(count: int = 500, degree: int = 3, seed: int = 0) -> Splats:
    rng = np.random.default_rng(seed)
    return Splats(
        means=rng.normal(0, 0.5, (count, 3)).astype(np.float32),
        quats=rng.normal(size=(count, 4)).astype(np.float32),
        scales=np.exp(rng.uniform(-9, -1, (count, 3))).astype(np.float32),
        opacities=rng.uniform(0.01, 0.9999, count).astype(np.float32),
        sh=rng.normal(0, 0.4, (count, (degree + 1) ** 2, 3)).astype(np.float32),
    )


def views(count: int = 1, distance: float = 3.0, width: int = 96, height: int = 64) -> Views:
    viewmat = np.eye(4, dtype=np.float32)
    viewmat[2, 3] = distance
    K = np.array([[80, 0, width / 2], [0, 80, height / 2], [0, 0, 1]], dtype=np.float32)
    return Views(
        [f"view {i}" for i in range(count)],
        np.stack([viewmat] * count),
        np.stack([K] * count),
        [(width, height)] * count,
    )


def unpacked_quats(fields: np.ndarray) -> np.ndarray:
    """Written from the description in `Packed`, one Gaussian at a time."""
    quats = []
    for a, b, c in fields.astype(int):
        others = [((value & 0x7FFF) / 32767 * 2 - 1) / np.sqrt(2) for value in (a, b, c)]
        largest = (a >> 15) + 2 * (b >> 15)
        others.insert(largest, np.sqrt(max(0.0, 1 - sum(value**2 for value in others))))
        quats.append(others)
    return np.array(quats)


def unpacked_coefficients(packed: Packed) -> np.ndarray:
    """[N, K - 1, 3] of degrees 1 and above."""
    bands = (packed.degree + 1) ** 2 - 1
    values = packed.harmonics.view(np.int8)[:, : 3 * bands].reshape(-1, bands, 3) / 127
    largest = [packed.bands[int(np.sqrt(k)) - 1] for k in range(1, bands + 1)]
    return values * np.array(largest)[None, :, None]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_packing_loses_less_than_a_picture_shows(degree):
    scene = splats(degree=degree)
    packed = pack(scene)
    fields = packed.rows["fields"].astype(np.float64)
    np.testing.assert_array_equal(packed.rows["position"], scene.means)

    low, high = packed.log_scales
    scales = np.exp(low + fields[:, 3:6] / 65535 * (high - low))
    np.testing.assert_allclose(scales, scene.scales, rtol=1e-4)
    low, high = packed.colors
    np.testing.assert_allclose(low + fields[:, 6:9] / 65535 * (high - low), scene.sh[:, 0], atol=1e-4)
    np.testing.assert_allclose(fields[:, 9] / 65535, scene.opacities, atol=1e-5)

    quats = scene.quats.astype(np.float64) / np.linalg.norm(scene.quats.astype(np.float64), axis=1, keepdims=True)
    unpacked = unpacked_quats(packed.rows["fields"][:, :3])
    same_sign = np.sign((quats * unpacked).sum(axis=1, keepdims=True))
    assert np.linalg.norm(quats - same_sign * unpacked, axis=1).max() < 1e-4
    if degree:
        assert np.abs(unpacked_coefficients(packed) - scene.sh[:, 1:]).max() <= max(packed.bands) / 250
    assert packed.rows.itemsize + packed.harmonics.shape[1] == bytes_each(degree)


def test_a_gaussian_takes_32_bytes_without_view_dependence():
    assert ROW.itemsize == bytes_each(0) == 32


def test_equal_values_are_packed_exactly():
    scene = splats(3, degree=0)
    flat = Splats(scene.means, scene.quats, np.full((3, 3), 0.01), np.full(3, 0.5), np.full((3, 1, 3), 0.25))
    packed = pack(flat)
    assert packed.log_scales == (np.log(0.01), np.log(0.01)) and packed.colors == (0.25, 0.25)


def test_nothing_cannot_be_packed():
    with pytest.raises(ValueError, match="no Gaussian"):
        pack(splats(0))


def test_a_large_scene_keeps_what_the_views_show_most_of():
    scene = splats(400, degree=0)
    behind = scene.means.copy()
    behind[::2, 2] -= 10
    scene = Splats(behind, scene.quats, scene.scales, scene.opacities, scene.sh)
    worth = contributions(scene, views())
    assert not worth[::2].any() and worth[1::2].any()
    kept = thinned(scene, [views()], largest_data=100 * 32)
    assert len(kept) == 100
    assert worth[np.isin(scene.means[:, 0], kept.means[:, 0])].min() >= np.sort(worth)[-100]
    assert thinned(scene, [views()], largest_data=400 * 32) is scene


def test_the_page_says_how_many_gaussians_were_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("cus.report.viewer.LARGEST_DATA", 300 * 32)
    poster = np.zeros((64, 96, 3), np.uint8)
    for count, said in ((300, False), (1500, True)):
        data = ReportData("t", {}, viewer=ViewerData(splats(count, degree=0), views(2), views(), poster))
        write_report_html(tmp_path / "report.html", data)
        page = (tmp_path / "report.html").read_text()
        assert ("300 of 1,500 Gaussians" in page) == said


def test_names_cannot_break_out_of_the_page_or_its_scripts(tmp_path):
    photos = Views(["</script><b>"], *[getattr(views(), name) for name in ("viewmats", "Ks", "sizes")])
    viewer = ViewerData(splats(5), views(), photos, np.zeros((64, 96, 3), np.uint8))
    write_report_html(tmp_path / "report.html", ReportData("t", {}, viewer=viewer))
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page
    scene = re.search(r'id="viewer-scene">(.*?)</script>', page, re.DOTALL)
    assert scene and json.loads(scene[1])["photos"][0]["name"] == "</script><b>"


def test_the_page_loads_nothing_from_elsewhere(tmp_path):
    viewer = ViewerData(splats(5), views(), views(), np.zeros((64, 96, 3), np.uint8))
    write_report_html(tmp_path / "report.html", ReportData("t", {}, viewer=viewer))
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?://|\bimport\b|\bfetch\(", page)
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
