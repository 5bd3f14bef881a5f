from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cus.cameras import load_transforms
from cus.errors import InputError
from cus.estimators import poses
from cus.estimators.matches import Pair, build_tracks, detect, thinned
from cus.estimators.reconstruction import rotation_residual
from cus.estimators.sfm import Features, Intrinsics, Observations, adjust_bundle, relative_pose
from cus.estimators.structure import reprojection, triangulate
from tests.estimators import planes

CAMERA = Intrinsics(focal=500.0, cx=320.0, cy=240.0, width=640, height=480)


def degrees_between(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Angle between the rotations, and between the translations, of two [4, 4] poses."""
    turn = np.clip((np.trace(a[:3, :3] @ b[:3, :3].T) - 1) / 2, -1, 1)
    ta, tb = a[:3, 3] / np.linalg.norm(a[:3, 3]), b[:3, 3] / np.linalg.norm(b[:3, 3])
    return float(np.degrees(np.arccos(turn))), float(np.degrees(np.arccos(np.clip(ta @ tb, -1, 1))))


def random_structure(views: int = 3, noise: float = 0.0) -> tuple[dict[int, np.ndarray], np.ndarray, Observations]:
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -1.5, 4], [2, 1.5, 8], (200, 3))
    viewmats = {}
    for view in range(views):
        angle = -0.08 * view
        viewmat = np.eye(4)
        viewmat[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        viewmat[:3, 3] = [-0.5 * view, 0.05 * view, 0.1 * view]
        viewmats[view] = viewmat
    track = np.tile(np.arange(200), views)
    view = np.repeat(np.arange(views), 200)
    local = np.stack([points @ viewmats[v][:3, :3].T + viewmats[v][:3, 3] for v in range(views)]).reshape(-1, 3)
    pixels = CAMERA.focal * local[:, :2] / local[:, 2:] + [CAMERA.cx, CAMERA.cy]
    return viewmats, points, Observations(track, view, pixels + noise * rng.standard_normal(pixels.shape))


def test_triangulation_finds_the_points_again():
    viewmats, points, seen = random_structure()
    found, good = triangulate(viewmats, [CAMERA] * 3, seen, threshold=1.0)
    np.testing.assert_allclose(found, points, atol=1e-6)
    assert good.all()


def test_a_wrong_observation_is_not_good():
    viewmats, _, seen = random_structure()
    seen.pixels[7] += 60.0
    _, good = triangulate(viewmats, [CAMERA] * 3, seen, threshold=1.0)
    assert not good[7] and good.sum() >= 3 * 199


def test_unregistered_views_do_not_count():
    viewmats, points, seen = random_structure()
    del viewmats[2]
    found, good = triangulate(viewmats, [CAMERA] * 3, seen, threshold=1.0)
    np.testing.assert_allclose(found, points, atol=1e-6)
    assert not good[seen.view == 2].any()


def test_relative_pose_of_exact_matches_is_exact():
    viewmats, _, seen = random_structure(views=2)
    result = relative_pose(seen.pixels[:200], seen.pixels[200:], CAMERA, CAMERA, max_error=1.0)
    assert result is not None
    turn, shift = degrees_between(result[0], viewmats[1])
    assert turn < 0.01 and shift < 0.05
    assert result[1].all()


def test_bundle_adjustment_recovers_poses_and_the_shared_focal_length():
    viewmats, points, seen = random_structure()
    rng = np.random.default_rng(1)
    moved = {view: pose.copy() for view, pose in viewmats.items()}
    moved[2][:3, 3] += 0.02
    start = [replace(CAMERA, focal=560.0, known=False)] * 3
    refined, cameras, found = adjust_bundle(
        moved, start, points + 0.02 * rng.standard_normal(points.shape), seen, refine_focals=True
    )
    errors, _ = reprojection(refined, cameras, found, seen)
    assert np.median(errors) < 0.05
    assert cameras[0].focal == cameras[2].focal == pytest.approx(500.0, rel=0.01)


def test_known_focal_lengths_stay():
    viewmats, points, seen = random_structure(noise=0.5)
    cameras = [CAMERA, replace(CAMERA, known=False), replace(CAMERA, known=False)]
    _, refined, _ = adjust_bundle(viewmats, cameras, points, seen, refine_focals=True)
    assert refined[0] == CAMERA
    assert refined[1].focal != CAMERA.focal


def test_tracks_join_matches_through_all_views_and_drop_contradictions():
    pixels = np.arange(8.0).reshape(4, 2)
    features = [Features(pixels, torch.zeros(4, 128), np.ones(4)) for _ in range(3)]
    pairs = [
        Pair(0, 1, np.array([[0, 0], [1, 1]])),
        Pair(1, 2, np.array([[0, 2], [1, 1]])),
        Pair(0, 2, np.array([[0, 2], [1, 3]])),  # feature 1 of view 0 would be both 1 and 3 of view 2
    ]
    tracks = build_tracks(features, pairs)
    assert len(tracks) == 3
    assert sorted(tracks.view.tolist()) == [0, 1, 2]
    assert len(thinned(tracks, 1)) == 3


def test_turning_the_camera_leaves_no_residual_and_moving_does():
    viewmats, points, seen = random_structure(views=2)
    moved = rotation_residual(seen.pixels[:200], seen.pixels[200:], CAMERA, CAMERA)
    turned = points @ viewmats[1][:3, :3].T
    pixels = CAMERA.focal * turned[:, :2] / turned[:, 2:] + [CAMERA.cx, CAMERA.cy]
    still = rotation_residual(seen.pixels[:200], pixels, CAMERA, CAMERA)
    assert still < 0.01 < 1.0 < moved


def test_poses_of_a_rendered_pair_are_found_from_its_pixels():
    views = planes.cameras((0.0, 0.6), width=320, height=240, focal=340.0)
    images, _ = planes.render(views)
    structure = poses.estimate_poses(images, focals=torch.tensor([340.0, 340.0]))
    turn, shift = degrees_between(structure.viewmats[1], views.viewmats[1].double().numpy())
    assert turn < 0.5 and shift < 3.0
    np.testing.assert_allclose(structure.viewmats[0], np.eye(4), atol=1e-12)
    assert structure.notes == ()


def test_padding_moves_the_principal_point_and_hides_features():
    views = planes.cameras((0.0, 0.6), width=320, height=240, focal=340.0)
    images, _ = planes.render(views)
    valid = torch.ones(2, 240, 320, dtype=torch.bool)
    valid[1, :, 200:] = False
    cameras = poses.initial_intrinsics(images, None, valid)
    assert (cameras[0].cx, cameras[1].cx) == (160.0, 100.0)
    features = detect(images, valid, 1.0)
    assert features[1].pixels[:, 0].max() < 201 < features[0].pixels[:, 0].max()


def test_photos_of_different_things_share_too_little():
    textures = torch.stack([planes.texture(seed, 256) for seed in (0, 5)])
    with pytest.raises(InputError, match="view 2 cannot be placed.*shares too little.*matches.*overlap"):
        poses.estimate_poses(textures)


def test_identical_photos_show_no_parallax():
    picture = planes.texture(0, 256)
    with pytest.raises(InputError, match="no parallax.*use the estimator 'da3'"):
        poses.estimate_poses(torch.stack([picture, picture]))


def test_a_black_photo_is_named():
    images = torch.stack([planes.texture(0, 256), torch.zeros(3, 256, 256)])
    with pytest.raises(InputError, match="view 2 cannot be placed.*blank.*use the estimator 'da3'"):
        poses.estimate_poses(images)


def test_a_focal_length_must_be_positive():
    with pytest.raises(InputError, match="focal length of view 2 must be positive"):
        poses.estimate_poses(torch.rand(2, 3, 64, 64), focals=torch.tensor([100.0, -5.0]))


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(5, 7), (3, 5), (6, 10), (4, 9)])
def test_calibrated_pairs_of_the_fountain_agree_with_the_survey(photos: Path, pair: tuple[int, int]):
    images, cameras = load_transforms(photos / "fountain_p11" / "transforms.json").select(list(pair)).load(1024, 683)
    structure = poses.estimate_poses(images, focals=cameras.Ks[:, 0, 0])
    true = (cameras.viewmats[1].double() @ torch.linalg.inv(cameras.viewmats[0].double())).numpy()
    turn, shift = degrees_between(structure.viewmats[1], true)
    assert turn < 0.5 and shift < 1.0


@pytest.mark.slow
def test_three_uncalibrated_views_of_the_fountain_agree_with_the_survey(photos: Path):
    images, cameras = load_transforms(photos / "fountain_p11" / "transforms.json").select([4, 5, 6]).load(512, 341)
    structure = poses.estimate_poses(images)
    for view in (1, 2):
        true = (cameras.viewmats[view].double() @ torch.linalg.inv(cameras.viewmats[0].double())).numpy()
        turn, shift = degrees_between(structure.viewmats[view], true)
        assert turn < 0.5 and shift < 1.0
    assert structure.cameras[0].focal == pytest.approx(float(cameras.Ks[0, 0, 0]), rel=0.02)
    assert "focal length estimated" in structure.notes[0]
