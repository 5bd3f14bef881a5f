"""What a run says of its own close-up: measures that are identities on made scenes, and the grades that follow."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cus.cameras import Cameras, trajectories
from cus.conditioning import Conditioning
from cus.estimators import SceneEstimate
from cus.inference.measures import (
    Measures,
    closest_frame,
    depth_agreement,
    held_out,
    measure,
    plain_crop,
    sight,
)
from cus.inference.verdict import judge
from tests.estimators import planes

GOOD = Measures(4, 0, 0.99, 0.95, 1.2, 0.8, 0.9, 0.9, 0.95)


@pytest.fixture(scope="module")
def scene() -> SceneEstimate:
    """Two exact views of a wall with a board before it."""
    cameras = planes.cameras((0.0, 0.4), width=160, height=120, focal=170.0)
    images, depths = planes.render(cameras)
    return SceneEstimate(images, cameras, depths, torch.full_like(depths, 0.8))


def everywhere(scene: SceneEstimate) -> torch.Tensor:
    return torch.ones_like(scene.depths, dtype=torch.bool)


def test_the_plain_crop_of_a_zoom_is_the_window_of_the_photograph(scene: SceneEstimate):
    camera = trajectories.zoom(scene.cameras, 4.0, (0.5, 0.25), 1)
    photograph = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, 480, 640), dtype=np.uint8))
    depth = torch.full((120, 160), float(scene.depths[0].median()))
    seen = sight(scene, camera, depth, [4.0, 4.0])
    crop = plain_crop(photograph, seen, 0, (160, 120))
    assert crop is not None
    # A quarter of 640 x 480 around (320, 120) is 160 x 120 pixels: its own, not resampled at all.
    window = photograph[:, 60:180, 240:400].permute(1, 2, 0).numpy()
    assert np.abs(crop.astype(int) - window).max() <= 1


def test_a_frame_that_reaches_beyond_the_photograph_is_black_there(scene: SceneEstimate):
    wide = scene.cameras[:1].cropped(-40, 0, 160, 120)
    depth = torch.full((120, 160), float(scene.depths[0].median()))
    photograph = torch.full((3, 120, 160), 200, dtype=torch.uint8)
    crop = plain_crop(photograph, sight(scene, wide, depth, [1.0, 1.0]), 0, (160, 120))
    assert crop is not None and crop[:, :36].max() == 0 and crop[:, 44:].min() == 200


def test_photograph_pixels_are_counted_along_a_side_at_the_photographs_own_resolution(scene: SceneEstimate):
    cameras = trajectories.zoom(scene.cameras, 4.0, None, 3)
    depths = torch.full((3, 120, 160), float(scene.depths[0, 60, 80]))
    warped = Conditioning(torch.zeros(3, 3, 120, 160), torch.ones(3, 120, 160, dtype=torch.bool), depths)
    found, seen = measure(scene, cameras, warped, everywhere(scene), [6.0, 3.0], 160.0)
    assert (found.frame, found.view) == (2, 0), "the last frame, seen with most pixels in the larger photograph"
    assert found.photo_pixels == pytest.approx(6.0 / 4.0, rel=0.02)
    assert found.seen_by_one == pytest.approx(float(seen.masks.any(dim=0).float().mean()))
    holes = warped.masks.clone()
    holes[2, :60] = False
    half, _ = measure(scene, cameras, replace(warped, masks=holes), everywhere(scene), [6.0, 3.0], 160.0)
    assert half.seen_by_one <= 0.5, "nobody sees what the warp left open"


def test_the_closest_frame_is_the_one_with_most_pixels_a_scene_unit():
    cameras = trajectories.zoom(planes.cameras((0.0, 0.4), width=16, height=12, focal=17.0), 3.0, None, 4)
    back = Cameras(cameras.viewmats.flip(0), cameras.Ks.flip(0), 16, 12)
    depths, masks = torch.ones(4, 12, 16), torch.ones(4, 12, 16, dtype=torch.bool)
    assert closest_frame(depths, masks, cameras) == 3 and closest_frame(depths, masks, back) == 0
    assert closest_frame(depths, torch.zeros_like(masks), cameras) == 3, "of equals the last"


def test_right_geometry_predicts_a_photograph_from_the_other_and_wrong_geometry_does_not(scene: SceneEstimate):
    assert held_out(scene, everywhere(scene)) > 0.8
    assert depth_agreement(scene, everywhere(scene))[1] > 0.9
    viewmats = scene.cameras.viewmats.clone()
    viewmats[1, :3, 3] += torch.tensor([0.5, 0.5, 0.0])
    wrong = replace(scene, cameras=replace(scene.cameras, viewmats=viewmats))
    assert held_out(wrong, everywhere(scene)) < 0.3
    assert not judge(replace(GOOD, held_out=held_out(wrong, everywhere(scene)))).trusted


def test_exposure_does_not_count_against_the_geometry(scene: SceneEstimate):
    dark = scene.images * torch.tensor([1.0, 0.6])[:, None, None, None]
    assert held_out(replace(scene, images=dark), everywhere(scene)) > 0.8


def test_the_grade_is_that_of_the_worst_finding_and_says_what_to_do():
    assert judge(GOOD).grade == "good" and judge(GOOD).advice == []
    sparse = judge(replace(GOOD, seen_by_one=0.7))
    assert sparse.grade == "fair" and sparse.trusted and "add photographs" in sparse.advice[0]
    imagined = judge(replace(GOOD, photo_pixels=0.1))
    assert imagined.grade == "poor" and imagined.trusted and "smaller --zoom" in imagined.advice[0]
    failed = judge(replace(GOOD, held_out=0.1, confidence=0.09))
    assert failed.grade == "poor" and not failed.trusted
    assert "was not found" in failed.headline and "nearer to each other" in failed.advice[0]
    assert judge(replace(GOOD, held_out=math.nan)).grade == "fair", "what could not be measured is not good"


def test_a_path_that_shows_less_on_the_way_than_at_its_end_says_so():
    orbit = judge(replace(GOOD, seen_mean=0.86, seen_least=0.71))
    assert orbit.grade == "fair" and "86 %" in orbit.findings[1].told and "71 %" in orbit.findings[1].told
    assert "the rest is imagined" in orbit.findings[1].told and "--trajectory" in orbit.advice[0]
    zoom = judge(replace(GOOD, seen_mean=1.0, seen_least=GOOD.seen_by_one))
    assert zoom.grade == "good" and "all frames" not in zoom.findings[1].told


def test_a_weak_guess_of_the_focal_length_asks_for_it():
    weak, sure = (judge(replace(GOOD, focal_low=low, focal_high=800.0, width=1000.0)) for low in (500.0, 700.0))
    assert weak.grade == "fair" and "give --fov" in weak.advice[0]
    assert "64 to 90 degrees" in weak.findings[-1].told
    # Pictures that match hardly tell that the shape is right where nobody knows the lens.
    half = [judge(replace(GOOD, held_out=0.5, focal_low=low, focal_high=800.0, width=1000.0)) for low in (500.0, 700.0)]
    assert [verdict.trusted for verdict in half] == [False, True] and "--fov" in half[0].advice[0]
    assert sure.grade == "good" and sure.findings[-1].name == "focal length"


def test_measures_are_recorded_and_read_again():
    whole = replace(GOOD, focal_low=3.0, focal_high=4.0, width=5.0, views=3, seen_mean=0.8, seen_least=0.7)
    assert Measures.from_tensor(whole.to_tensor()) == whole
    # As runs of earlier versions recorded them.
    before = Measures.from_tensor(whole.to_tensor()[:12])
    assert before.width == 5 and before.views == 2 and math.isnan(before.seen_mean)
    assert judge(GOOD).to_json()["measures"]["focal_low"] is None


def test_one_photograph_is_never_better_than_fair_and_its_coverage_is_that_of_all_frames():
    alone = replace(GOOD, views=1, held_out=math.nan, depth_agreement=math.nan, seen_by_two=0.0, seen_by_one=1.0)
    verdict = judge(replace(alone, seen_mean=0.97, seen_least=0.93))
    geometry, coverage = verdict.findings[:2]
    assert verdict.trusted and verdict.grade == "fair" and geometry.grade == "fair" and "step aside" in geometry.advice
    assert coverage.grade == "good" and "97 %" in coverage.told and "93 %" in coverage.told
    assert "the rest is imagined" in coverage.told
    assert judge(replace(alone, seen_mean=0.5, seen_least=0.4)).grade == "poor"
    assert not judge(replace(alone, seen_mean=0.97, confidence=0.05)).trusted
