"""Held-out cameras found in scenes that are estimated a little wrong."""

from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.alignment import align_cameras
from cus.conditioning import hierarchical_warp
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.evaluation.resection import reference_features, resected
from cus.training.pictures import psnr
from procedural.tracer import random_scene, render, sample_reference_cameras

SEED, WIDTH, HEIGHT, ZOOM = 2, 288, 192, 4
WINDOW = (0.375, 0.375, 0.625, 0.625)
WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def truth() -> tuple[SceneEstimate, Tensor, Cameras, Tensor, Cameras]:
    """A scene of two references; the held-out photograph with its camera; its x4 crop with its camera."""
    scene = random_scene(SEED)
    cameras = sample_reference_cameras(scene, SEED, WIDTH, HEIGHT, views=3)
    images, depths = render(scene, cameras)[:2]
    close_up = cameras[1].zoomed(float(ZOOM))
    crop = render(scene, close_up)[0][0]
    ends = [0, 2]
    references = SceneEstimate(images[ends], cameras[ends], depths[ends], torch.ones_like(depths[ends]))
    return references, images[1], cameras[1], crop, close_up


def score(scene: SceneEstimate, camera: Cameras, crop: Tensor) -> float:
    return psnr(hierarchical_warp(scene, camera).images, crop[None])


def test_a_photograph_is_placed_where_it_was_taken(truth):
    scene, photo, camera, _, _ = truth
    found = resected(scene, reference_features(scene), photo, camera, WHOLE)
    given = camera.viewmats[0]
    turn = (found.viewmats[0, :3, :3] @ given[:3, :3].mT).double().numpy()
    assert Rotation.from_matrix(turn).magnitude() < 1e-3
    center = Cameras(found.viewmats, camera.Ks, WIDTH, HEIGHT).centers[0]
    baseline = (scene.cameras.centers[0] - scene.cameras.centers[1]).norm()
    assert (center - camera.centers[0]).norm() < 0.02 * baseline
    assert found.error < 0.5 and found.matches >= 20


def test_its_own_pose_plays_no_part(truth):
    scene, photo, camera, _, _ = truth
    features = reference_features(scene)
    elsewhere = replace(camera, viewmats=torch.eye(4)[None])
    found, same = (resected(scene, features, photo, one, WINDOW) for one in (camera, elsewhere))
    assert torch.equal(found.viewmats, same.viewmats)


def test_close_ups_of_an_estimate_that_is_a_little_wrong_score_nearly_as_with_the_given_poses(truth):
    scene, photo, camera, crop, close_up = truth
    known = estimate_scene(scene.images, scene.cameras, "stereo")
    guess = estimate_scene(scene.images, None, "stereo", focals=1.04 * scene.cameras.Ks[:, 0, 0])
    aligned = guess.moved(align_cameras(guess.cameras, scene.cameras))
    found = resected(aligned, reference_features(aligned), photo, camera, WINDOW)
    given, beside = score(known, close_up, crop), score(aligned, close_up, crop)
    assert beside < given - 1
    assert score(aligned, replace(close_up, viewmats=found.viewmats), crop) > given - 0.5


def test_the_place_says_nothing_of_a_picture_that_lies_beside_it(truth):
    # The camera is found without any row's picture, so that one that is shifted stays so.
    scene, photo, camera, crop, close_up = truth
    found = resected(scene, reference_features(scene), photo, camera, WINDOW)
    picture = hierarchical_warp(scene, replace(close_up, viewmats=found.viewmats)).images
    assert psnr(picture.roll((8, 8), dims=(-2, -1)), crop[None]) < psnr(picture, crop[None]) - 1


def test_a_photograph_of_something_else_is_refused(truth):
    scene, photo, camera, _, _ = truth
    other = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="cannot be placed in the estimated scene: .* at least 20"):
        resected(scene, reference_features(scene), other, camera, WHOLE)


def test_padding_shows_no_features(truth):
    scene, photo, camera, _, _ = truth
    with pytest.raises(InputError, match="0 of its features"):
        resected(scene, reference_features(scene), photo, camera, WHOLE, torch.zeros(HEIGHT, WIDTH, dtype=torch.bool))
