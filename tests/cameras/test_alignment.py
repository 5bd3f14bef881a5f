"""Alignment of estimated to given cameras: identities on random similarities, and what cannot be aligned."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.cameras.alignment import align_cameras
from cus.errors import InputError
from cus.estimators import SceneEstimate
from tests.cameras.test_cameras import random_cameras


def random_rotation(seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    return q * torch.det(q)


def moved(cameras: Cameras, scale: float, rotation: Tensor, translation: Tensor) -> Cameras:
    """Cameras of a world whose points x are scale * rotation @ x + translation in the new one, by the definition."""
    c2w = torch.linalg.inv(cameras.viewmats.double())
    new = c2w.clone()
    new[:, :3, :3] = rotation @ c2w[:, :3, :3]
    new[:, :3, 3] = scale * c2w[:, :3, 3] @ rotation.T + translation
    return Cameras(torch.linalg.inv(new).float(), cameras.Ks, cameras.width, cameras.height)


def turned(cameras: Cameras, view: int, degrees: float) -> Cameras:
    """The same cameras, one of them turned about its own vertical axis."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    viewmats = cameras.viewmats.clone().double()
    viewmats[view] = turn @ viewmats[view]
    return Cameras(viewmats.float(), cameras.Ks, cameras.width, cameras.height)


@pytest.mark.parametrize("views", [2, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_any_similarity_is_found_and_leaves_no_residual(views, seed):
    given = random_cameras(views)
    scale, translation = 0.03 * 10**seed, torch.tensor([5.0, -3.0, 2.0 * seed], dtype=torch.float64)
    estimated = moved(given, scale, random_rotation(seed), translation)
    found = align_cameras(estimated, given)
    assert found.scale == pytest.approx(1 / scale, rel=1e-4)
    torch.testing.assert_close(found.rotation, random_rotation(seed).T, atol=1e-4, rtol=0)
    assert found.rotation_errors.max() < 0.01 and found.position_errors.max() < 1e-4
    torch.testing.assert_close(found.cameras(estimated).viewmats, given.viewmats, atol=2e-4, rtol=1e-3)


def test_cameras_on_a_line_are_aligned_by_their_orientations():
    given = random_cameras(4)
    viewmats = given.viewmats.clone()
    centers = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.5, 0.2])
    viewmats[:, :3, 3] = -(viewmats[:, :3, :3] @ centers[:, :, None])[..., 0]
    given = replace(given, viewmats=viewmats)
    found = align_cameras(moved(given, 2.0, random_rotation(1), torch.zeros(3, dtype=torch.float64)), given)
    torch.testing.assert_close(found.rotation, random_rotation(1).T, atol=1e-4, rtol=0)
    assert found.rotation_errors.max() < 0.01


def test_a_turned_camera_shows_as_its_angle():
    given = random_cameras(6)
    errors = align_cameras(turned(given, 2, 3.0), given).rotation_errors
    assert errors[2] == pytest.approx(3.0, abs=0.01) and errors[[0, 1, 3, 4, 5]].max() < 0.01
    # Of two cameras each bears half: nothing says which of them is right.
    errors = align_cameras(turned(given[:2], 1, 3.0), given[:2]).rotation_errors
    assert errors.tolist() == pytest.approx([1.5, 1.5], abs=0.01)


def test_positions_are_measured_in_baselines_whatever_the_unit():
    given = random_cameras(5)
    viewmats = given.viewmats.clone()
    viewmats[3, :3, 3] += torch.tensor([0.2, 0.0, 0.0])
    estimated = replace(given, viewmats=viewmats)
    errors = align_cameras(estimated, given).position_errors
    baseline = torch.cdist(given.centers, given.centers).max()
    assert errors.argmax() == 3 and 0.5 * 0.2 / baseline < errors[3] < 0.2 / baseline
    far = moved(given, 1000.0, random_rotation(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(align_cameras(estimated, far).position_errors, errors, atol=1e-4, rtol=1e-3)


def test_a_scene_is_moved_with_its_depths():
    given = random_cameras(2, width=16, height=12)
    rotation, translation = random_rotation(5), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    cameras = moved(given, 0.25, rotation, translation)
    depths = torch.full((2, 12, 16), 2.0)
    scene = SceneEstimate(torch.zeros(2, 3, 12, 16), cameras, depths, torch.ones(2, 12, 16))
    found = align_cameras(cameras, given)
    aligned = scene.moved(found)
    points = found.points(cameras.backproject(depths))
    torch.testing.assert_close(aligned.cameras.backproject(aligned.depths), points, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(aligned.depths, 4 * depths, rtol=1e-4, atol=0)


def test_a_wrong_focal_length_is_told_and_moves_nothing():
    given = random_cameras(3)
    errors = align_cameras(given.zoomed(1.05), given)
    assert errors.focal_errors.tolist() == pytest.approx([0.05] * 3, abs=1e-6)
    assert errors.position_errors.max() < 1e-5 and errors.scale == pytest.approx(1)
    # The same lens on smaller pictures is no error.
    assert align_cameras(given.resized(16, 12), given.resized(32, 24)).focal_errors.abs().max() < 1e-6


def test_what_cannot_be_aligned_is_refused():
    given = random_cameras(3)
    with pytest.raises(ValueError, match="as many"):
        align_cameras(given[:2], given)
    with pytest.raises(InputError, match="from two on"):
        align_cameras(given[:1], given[:1])
    for pair in ((given[[0, 0]], given[:2]), (given[:2], given[[1, 1]])):
        with pytest.raises(InputError, match="stand in one place"):
            align_cameras(*pair)
    swapped = given[:2].viewmats.clone()
    centers = given.centers[[1, 0]]
    swapped[:, :3, 3] = -(swapped[:, :3, :3] @ centers[:, :, None])[..., 0]
    with pytest.raises(InputError, match="the other way round"):
        align_cameras(Cameras(swapped, given.Ks[:2], given.width, given.height), given[:2])
