"""Sets of posed views of photographs: neighbours, one unit for all scenes, and what must not be trained on."""

import json
from pathlib import Path

import pytest
import torch

from cus.cameras import Cameras, load_transforms
from cus.datasets.posed_views import load_views
from cus.errors import InputError
from cus.training.scene_views import NEIGHBOURS, SceneViews, build, sets_of
from cus.training.self_supervision import projected, sampled
from tests.datasets.layouts import write_transforms
from tests.estimators import planes


def scene(folder: Path, unit: float = 7.0) -> torch.Tensor:
    """A wall with a board seen from four places, in a unit of its own; its depths in metres."""
    cameras = planes.cameras((0.0, 0.2, 0.4, 0.6), width=96, height=64, focal=90.0)
    images, depths = planes.render(cameras)
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= unit
    write_transforms(folder, images, Cameras(viewmats, cameras.Ks, 96, 64))
    return depths


def test_each_photograph_has_a_set_with_its_neighbours_in_the_common_unit(tmp_path):
    depths = scene(tmp_path)
    sets = list(sets_of(load_transforms(tmp_path), 3, (64, 64)))
    assert [views.info["photographs"] for views in sets][0] == ["0000.png", "0001.png", "0002.png"]
    assert len(sets) == 4 and sets[0].images.shape == (3, 3, 64, 64)
    centers = sets[0].cameras.centers
    assert float((centers[1] - centers[0]).norm()) == pytest.approx(NEIGHBOURS, rel=1e-4)
    # The cut pictures are seen by their cameras: with the exact depth in that unit, one becomes the other.
    depth = depths[:1, :, 16:80][:, None] * NEIGHBOURS / 0.2
    cameras = sets[0].cameras
    pixels, _, inside = projected(depth, cameras.Ks[:1], cameras.Ks[1:2], cameras.viewmats[1:2] @ cameras.c2w[:1])
    error = (sampled(sets[0].images[1:2], pixels) - sets[0].images[:1]).abs().mean(1)[inside[:, 0]]
    assert float(error.median()) < 0.3 * float((sets[0].images[1] - sets[0].images[0]).abs().mean())


def test_scenes_that_must_not_be_trained_on_are_left_out_and_the_manifest_says_so(tmp_path):
    for name in ("door", "table"):
        scene(tmp_path / "scenes" / name)
    settings = SceneViews(
        out=str(tmp_path / "out"), scenes=[str(tmp_path / "scenes")], licence="CC0", without=["table"], width=64
    )
    build(settings, lambda done, total: None)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest == {"licence": "CC0", "sets": {"door": 4}, "without": ["table"]}
    files = sorted((tmp_path / "out").glob("views-*.safetensors"))
    assert len(files) == 4 and load_views(files[0]).depths is None
    build(settings, lambda done, total: None)
    without_door = SceneViews(**{**vars(settings), "without": ["door"]})
    with pytest.raises(InputError, match=r"holds views-door-0001\.safetensors, of a scene that is not among those"):
        build(without_door, lambda done, total: None)
    with pytest.raises(InputError, match="not there: tabel"):
        build(SceneViews(out="x", scenes=settings.scenes, licence="CC0", without=["tabel"]), lambda done, total: None)
    with pytest.raises(InputError, match="no scene has 9 photographs of one size"):
        other = SceneViews(out=str(tmp_path / "b"), scenes=settings.scenes, licence="CC0", views=9)
        build(other, lambda done, total: None)
