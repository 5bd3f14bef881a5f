"""What two or three views tell of a focal length, and that they say so where they tell nothing."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cus.cameras import Cameras, load_transforms
from cus.errors import InputError
from cus.estimators import poses
from cus.estimators.focal_profile import (
    PRIOR_MEDIAN,
    WEAK_GUESS,
    PairLosses,
    PairProfile,
    guess_focal,
    most_probable,
)
from cus.estimators.reconstruction import MIN_PARALLAX, least_rotation_residual, rotation_residual
from cus.estimators.sfm import Intrinsics
from tests.estimators import planes

WIDTH, HEIGHT = 640, 480
UNIT = Intrinsics(focal=640.0, cx=320.0, cy=240.0, width=WIDTH, height=HEIGHT, known=False)


def matches(factor: float, noise: float, seed: int = 0, flat: bool = False, baseline: float = 0.7) -> list[np.ndarray]:
    """Pixels [N, 2] of random points in two views that turn towards each other and step forward."""
    rng = np.random.default_rng(seed)
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 9], (300, 3))
    if flat:
        points[:, 2] = 6.0 + 0.3 * points[:, 0]
    angle = -0.12 * baseline / 0.7
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    local = points, points @ turn.T + baseline * np.array([-1.0, 0.1, -0.5])
    return [
        factor * UNIT.focal * p[:, :2] / p[:, 2:] + [UNIT.cx, UNIT.cy] + noise * rng.standard_normal((300, 2))
        for p in local
    ]


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.5])
def test_good_matches_of_two_views_tell_the_focal_length(factor: float):
    guess = guess_focal([PairProfile(*matches(factor, 0.1), UNIT, UNIT)])
    assert guess.factor == pytest.approx(factor, rel=0.06)
    assert guess.low < factor < guess.high < 1.5 * guess.low


def test_worse_matches_widen_the_range_and_move_the_guess_inside_it():
    good, bad = (guess_focal([PairProfile(*matches(0.8, noise), UNIT, UNIT)]) for noise in (0.1, 1.0))
    assert bad.high / bad.low > good.high / good.low
    assert bad.low < 0.8 < bad.high


def test_guesses_from_other_noise_lie_in_the_range_of_each_other():
    guesses = [guess_focal([PairProfile(*matches(0.8, 0.5, seed), UNIT, UNIT)]) for seed in range(4)]
    middle = float(np.median([guess.factor for guess in guesses]))
    assert sum(guess.low < middle < guess.high for guess in guesses) >= 3


def test_a_flat_scene_tells_nothing_so_the_range_is_that_of_lenses_in_use():
    guess = guess_focal([PairProfile(*matches(1.4, 0.2, flat=True), UNIT, UNIT)])
    alone = most_probable([], np.geomspace(0.42, 2.66, 14))
    assert guess.high / guess.low > 0.75 * alone.high / alone.low
    assert alone.factor == pytest.approx(PRIOR_MEDIAN, rel=0.02)
    assert alone.low * 36 == pytest.approx(24, rel=0.05) and alone.high * 36 == pytest.approx(60, rel=0.05)


def test_a_turn_is_recognised_at_any_focal_length():
    still = matches(1.7, 0.2, baseline=0.0)
    turn = np.array([[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]])
    rays = np.column_stack([(still[0] - [320, 240]) / (1.7 * 640), np.ones(300)]) @ turn.T
    turned = 1.7 * 640 * rays[:, :2] / rays[:, 2:] + [320, 240]
    assert rotation_residual(still[0], turned, UNIT, UNIT) > MIN_PARALLAX
    assert least_rotation_residual(still[0], turned, UNIT, UNIT) < 0.1
    known = replace(UNIT, focal=1.7 * 640, known=True)
    assert least_rotation_residual(still[0], turned, known, known) < 0.1


def turning(count: int, width: int = 240, height: int = 180, focal: float = 400.0) -> Cameras:
    viewmats = []
    for index in range(count):
        angle = torch.tensor(0.1 * (index - 1))
        viewmat = torch.eye(4)
        viewmat[0, 0] = viewmat[2, 2] = angle.cos()
        viewmat[0, 2], viewmat[2, 0] = angle.sin(), -angle.sin()
        viewmats.append(viewmat)
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(torch.stack(viewmats), K.repeat(count, 1, 1), width, height)


@pytest.mark.parametrize("count", [2, 3])
def test_views_from_one_place_are_refused_though_the_focal_length_is_unknown(count: int):
    images, _ = planes.render(turning(count))
    with pytest.raises(InputError, match="no parallax"):
        poses.estimate_poses(images)


def test_a_tiny_baseline_is_refused_or_said_to_tell_hardly_any_focal_length():
    views = planes.cameras((0.0, 0.02), width=320, height=240, focal=340.0)
    images, _ = planes.render(views)
    with pytest.raises(InputError, match="parallax"):
        poses.estimate_poses(images)


def test_a_flat_wall_asks_for_the_focal_length():
    views = planes.cameras((0.0, 0.6), width=240, height=180, focal=255.0)
    images, _ = planes.render(views, board=False)
    structure = poses.estimate_poses(images)
    assert structure.focal_range is not None
    low, high = structure.focal_range
    assert low < 255.0 < high and high > 1.5 * low
    assert "focal length guessed" in structure.notes[0] and "give --fov" in structure.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(5, 7), (3, 5), (6, 10)])
def test_two_views_of_the_fountain_tell_its_focal_length_within_their_range(photos: Path, pair: tuple[int, int]):
    images, cameras = load_transforms(photos / "fountain_p11" / "transforms.json").select(list(pair)).load(512, 341)
    structure = poses.estimate_poses(images)
    assert structure.focal_range is not None
    low, high = structure.focal_range
    assert low < float(cameras.Ks[0, 0, 0]) < high < 1.3 * low


def losses(best: float, curvature: float, factors: np.ndarray) -> PairLosses:
    """Matches in 9 blocks that agree on a focal length."""
    blocks = np.arange(90) % 9
    scatter = np.random.default_rng(0).standard_normal(90) * 0.3 + 1
    return PairLosses(curvature * np.square(np.log(factors / best))[:, None] * scatter[blocks] / 90, blocks)


def test_matches_that_leave_a_wide_range_do_not_rule_out_lenses_in_use():
    factors = np.geomspace(0.42, 2.66, 14)
    alone = most_probable([], factors)
    weak = most_probable([losses(1.9, 4.0, factors)], factors)
    assert weak.high / weak.low > WEAK_GUESS and weak.low < 1.1 * alone.low
    assert alone.factor < weak.factor < 1.2 * alone.factor, "they move the guess a little"
    sure = most_probable([losses(1.9, 400.0, factors)], factors)
    assert sure.factor == pytest.approx(1.9, rel=0.03) and sure.high < WEAK_GUESS * sure.low


@pytest.mark.slow
@pytest.mark.parametrize("quality", [None, 90])
def test_the_range_of_a_pair_that_hardly_tells_holds_the_truth_however_it_was_stored(photos: Path, quality: int | None):
    images, cameras = load_transforms(photos / "fountain_p11" / "transforms.json").select([4, 9]).load(512, 341)
    if quality is not None:
        images = torch.stack([stored_as_jpeg(image, quality) for image in images])
    structure = poses.estimate_poses(images)
    assert structure.focal_range is not None
    low, high = structure.focal_range
    assert low < float(cameras.Ks[0, 0, 0]) < high and high > WEAK_GUESS * low
    assert "give --fov" in structure.notes[0]


def stored_as_jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = (255 * image.permute(1, 2, 0)).round().byte().numpy()
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return torch.from_numpy(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1].copy()).permute(2, 0, 1).float() / 255
