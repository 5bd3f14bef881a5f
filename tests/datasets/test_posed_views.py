"""Sets of posed views: what is written is read, items repeat, and a mirrored world is a world."""

from pathlib import Path

import pytest
import torch

from cus.datasets.posed_views import PosedViews, ViewItems, load_views, mirrored, save_views
from cus.errors import InputError
from cus.training.self_supervision import projected, sampled
from procedural.posed_views import ProceduralViews, build, views_of
from tests.estimators import planes


def made(depths: bool = True) -> PosedViews:
    cameras = planes.cameras((0.0, 0.2, 0.4), width=96, height=64, focal=90.0)
    images, exact = planes.render(cameras)
    return PosedViews(images, cameras, exact if depths else None, {"seed": 3})


def test_a_set_comes_back_as_it_was_written(tmp_path):
    views = made()
    save_views(tmp_path / "a.safetensors", views)
    again = load_views(tmp_path / "a.safetensors")
    assert torch.equal(again.cameras.viewmats, views.cameras.viewmats) and again.info == {"seed": 3}
    assert again.depths is not None and views.depths is not None and torch.equal(again.depths, views.depths)
    assert float((again.images - views.images).abs().max()) <= 0.5 / 255 + 1e-6


def test_items_are_functions_of_their_number_and_the_same_with_and_without_depths(tmp_path):
    for name, depths in (("with", True), ("without", False)):
        save_views(tmp_path / name / "a.safetensors", made(depths))
    first, second = (ViewItems(tmp_path / name, 2, seed=5) for name in ("with", "without"))
    for index in (0, 1, 7):
        a, b, again = first[index], second[index], first[index]
        assert set(a) == {"image", "others", "viewmats", "Ks"}
        assert all(torch.equal(a[key], b[key]) and torch.equal(a[key], again[key]) for key in a)
    assert a["others"].shape == (2, 3, 64, 96) and a["viewmats"].shape == (2, 4, 4) and a["Ks"].shape == (3, 3, 3)
    with pytest.raises(InputError, match="has 3 views; others=3 needs 4"):
        _ = ViewItems(tmp_path / "with", 3, seed=5)[0]


def test_the_mirrored_pictures_are_seen_by_the_mirrored_cameras():
    views = made()
    assert views.depths is not None
    images, depths, cameras = views.images.flip(-1), views.depths.flip(-1), mirrored(views.cameras)
    way = cameras.viewmats[1:2] @ cameras.c2w[:1]
    pixels, _, inside = projected(depths[:1, None], cameras.Ks[:1], cameras.Ks[1:2], way)
    error = (sampled(images[1:2], pixels) - images[:1]).abs().mean(1)[inside[:, 0]]
    assert float(error.median()) < 0.25 * float((images[1] - images[0]).abs().mean())


def test_procedural_sets_are_built_once_each_and_depths_only_where_asked(tmp_path):
    settings = ProceduralViews(out=str(tmp_path / "a"), sets=2, width=32, height=32, views=2)
    build(settings, lambda done, total: None)
    files = sorted(Path(tmp_path / "a").glob("views-*.safetensors"))
    assert len(files) == 2 and load_views(files[0]).depths is None
    stamps = [file.stat().st_mtime_ns for file in files]
    build(settings, lambda done, total: None)
    assert [file.stat().st_mtime_ns for file in files] == stamps
    settings.depths = True
    exact = views_of(settings, 0)
    assert exact.depths is not None and bool((exact.depths > 0).any())
    with pytest.raises(InputError, match="part must be less than parts"):
        build(ProceduralViews(out=str(tmp_path / "b"), part=1), lambda done, total: None)
