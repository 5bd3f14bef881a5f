"""The registry of conditioning kinds: each by its name, with its own options."""

import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning import agree, conditioning_kind, fused_warp, hierarchical_warp, render_scene_points
from cus.conditioning.kinds import KINDS
from cus.conditioning.kinds.fused import Fused
from cus.conditioning.kinds.points import Points
from cus.errors import InputError
from cus.scene import SceneEstimate
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths
from tests.conftest import ROOT


def wall() -> SceneEstimate:
    cameras = Cameras.cat([pinhole((x, 0.0, 0.0), 40, 48, 32) for x in (-0.3, 0.3)])
    depths = plane_depths(cameras, (0.1, 0.1, 1.0))
    return estimate(render_depths(cameras, depths), cameras, depths)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_shows_the_scene_to_every_target_and_counts_them(name):
    scene, targets, told = wall(), pinhole((0.1, 0.0, 0.3), 60, 40, 24), []
    kind = conditioning_kind(name)
    shown = kind.show(scene, targets, on_progress=lambda done, total: told.append((done, total)))
    assert kind.name == name and shown.images.shape == (1, 3, 24, 40) and told == [(1, 1)]


def test_a_name_stands_for_the_function_of_its_kind():
    scene, targets = wall(), pinhole((0.1, 0.0, 0.3), 60, 40, 24)
    expected = {
        "hierarchical": hierarchical_warp(scene, targets),
        "points": render_scene_points(scene, targets),
        "fused": fused_warp(scene, targets),
    }
    for name, direct in expected.items():
        kind = conditioning_kind(name)
        known = agree(scene) if kind.wants_agreement else scene
        assert torch.equal(kind.show(known, targets).images, direct.images)


def test_a_kind_takes_its_own_options_and_leaves_out_those_of_others():
    options = {"suppress_background": False, "shrink_references": True, "scales": None}
    assert conditioning_kind("points", **options) == Points(shrink_references=True)
    assert conditioning_kind("fused", **options) == Fused(suppress_background=False) != Fused()


def test_an_unknown_kind_is_refused_with_all_that_there_are():
    with pytest.raises(InputError, match="no conditioning kind 'warp'; expected one of hierarchical, points, fused"):
        conditioning_kind("warp")


def test_the_command_tells_of_every_kind():
    text = (ROOT / "cus" / "inference" / "settings.py").read_text()
    assert all(name in text for name in KINDS)
