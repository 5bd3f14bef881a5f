"""Depths in the world of given cameras: a known similarity, a wrong lens, and what cannot be brought together."""

import re
from dataclasses import replace

import pytest
import torch

from cus.cameras import Cameras, load_transforms
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.estimators.estimator import Request
from cus.estimators.known_cameras import with_known_cameras
from cus.estimators.stereo import Stereo
from tests.estimators import planes

TRUE = planes.cameras((0.0, 0.5, 0.9), width=320, height=240, focal=340.0)
IMAGES, DEPTHS = planes.render(TRUE)


def estimate(cameras: Cameras, depths: torch.Tensor) -> SceneEstimate:
    return SceneEstimate(IMAGES, cameras, depths, torch.ones_like(depths))


def smaller(cameras: Cameras, factor: float) -> Cameras:
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= factor
    return replace(cameras, viewmats=viewmats)


def test_a_right_estimate_in_another_unit_comes_back_right():
    scene = with_known_cameras(estimate(smaller(TRUE, 0.1), 0.1 * DEPTHS), TRUE, None, "it")
    assert torch.equal(scene.cameras.viewmats, TRUE.viewmats) and torch.equal(scene.cameras.Ks, TRUE.Ks)
    errors = (scene.depths / DEPTHS - 1).abs()
    assert errors.max() < 0.005
    assert "1 of its units is 10" in scene.notes[0] and not any("warning" in note for note in scene.notes)


def test_depths_seen_through_a_wrong_lens_are_fitted_view_by_view():
    wrong = torch.tensor([1.08, 0.95, 1.2])
    scene = estimate(TRUE.zoomed(wrong), DEPTHS * wrong[:, None, None])
    fitted = with_known_cameras(scene, TRUE, None, "it")
    assert (fitted.depths / DEPTHS - 1).abs().max() < 0.005
    assert "20.0% of the focal length" in fitted.notes[0] and "warning" in fitted.notes[-1]
    factors = [float(text) for text in fitted.notes[1].split("factors ")[1].split(")")[0].split(", ")]
    assert factors == pytest.approx((1 / wrong).tolist(), rel=0.01)


@pytest.mark.slow
def test_on_photographs_a_wrong_lens_neither_scales_nor_tilts_the_depths(photos):
    posed = load_transforms(photos / "fountain_p11" / "transforms.json").select([5, 7])
    images, given = posed.load(width=384)
    truth = Stereo().estimate(Request(images, given), None)
    wrong = Stereo().estimate(Request(images, focals=1.1 * given.Ks[:, 0, 0]), None)
    fitted = with_known_cameras(wrong, given, None, "it")
    ratios = (fitted.depths / truth.depths)[truth.reliable]
    assert ratios.median() == pytest.approx(1, abs=0.005)
    assert ratios.quantile(0.9) / ratios.quantile(0.1) < 1.02
    stated = re.search(r"baseline and (\S+)% of the focal length", fitted.notes[0])
    assert stated and float(stated[1]) == pytest.approx(10, abs=0.2) and "known ones" not in " ".join(fitted.notes)


def test_a_view_without_matches_takes_the_correction_of_the_others():
    images = IMAGES.clone()
    images[2] = 0.5
    scene = replace(estimate(TRUE, 1.1 * DEPTHS), images=images)
    fitted = with_known_cameras(scene, TRUE, None, "it")
    assert float((fitted.depths[2] / DEPTHS[2]).median()) == pytest.approx(1, abs=0.01)


def test_without_any_match_the_alignment_alone_gives_the_scale():
    scene = replace(estimate(smaller(TRUE, 0.5), 0.5 * DEPTHS), images=torch.full_like(IMAGES, 0.5))
    fitted = with_known_cameras(scene, TRUE, None, "it")
    torch.testing.assert_close(fitted.depths, DEPTHS, rtol=1e-4, atol=0)
    assert "too few features" in fitted.notes[1]


def test_cameras_of_other_photographs_are_refused():
    shuffled = TRUE[[2, 0, 1]]
    with pytest.raises(InputError, match="do not fit the photographs|other way round"):
        with_known_cameras(estimate(TRUE, DEPTHS), shuffled, None, "it")
    there = replace(TRUE, viewmats=TRUE.viewmats[[0, 0, 0]])
    with pytest.raises(InputError, match="stand in one place"):
        with_known_cameras(estimate(TRUE, DEPTHS), there, None, "it")
