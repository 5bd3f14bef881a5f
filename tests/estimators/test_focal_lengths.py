"""Known focal lengths in a network's estimate, against what a network that errs would have to say."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from cus.cameras import Cameras
from cus.estimators import SceneEstimate, estimate_scene
from cus.estimators.known_cameras import with_known_focals
from tests.estimators import planes
from tests.estimators.photographs import CHECKPOINTS, photographs

TRUE = planes.cameras((0.0, 0.5, 0.9), width=96, height=72, focal=100.0)
IMAGES = torch.zeros(3, 3, 72, 96)
# Points all over the room: on planes, focal lengths and turns cannot be told apart.
DEPTHS = 2 + 3 * torch.rand(3, 72, 96, generator=torch.Generator().manual_seed(0))


def as_seen_through(factor: float) -> SceneEstimate:
    """The scene that explains the photographs best with focal lengths that are `factor` times as long.

    By bundle adjustment of dense points: each pixel's depth of a view is fitted, with the poses, to where the true
    point falls in the other views.
    """
    wrong = TRUE.zoomed(factor)
    views, (height, width) = len(TRUE), DEPTHS.shape[-2:]
    grid = torch.zeros(height, width, dtype=torch.bool)
    grid[4::10, 4::10] = True
    rays = torch.nn.functional.pad(wrong.pixel_centers()[grid], (0, 1), value=1.0) @ torch.linalg.inv(wrong.Ks[0]).T
    rays, count = rays.double().numpy(), int(grid.sum())
    points = TRUE.backproject(DEPTHS)
    targets = np.stack([TRUE.project(points[v][grid])[0].double().numpy() for v in range(views)])  # [of, in, N, 2]
    K = wrong.Ks[0].double().numpy()

    def unpacked(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        turns = np.concatenate([np.zeros((1, 3)), x[: 3 * views - 3].reshape(-1, 3)])
        shifts = np.concatenate([np.zeros((1, 3)), x[3 * views - 3 : 6 * views - 6].reshape(-1, 3)])
        return Rotation.from_rotvec(turns).as_matrix(), shifts, x[6 * views - 6 :].reshape(views, count)

    def errors(x: np.ndarray) -> np.ndarray:
        turns, shifts, depths = unpacked(x)
        found = []
        for view in range(views):
            world = (rays * depths[view][:, None] - shifts[view]) @ turns[view]
            for other in range(views):
                if other != view:
                    pixels = (world @ turns[other].T + shifts[other]) @ K.T
                    found.append(pixels[:, :2] / pixels[:, 2:] - targets[view, other])
        # The length of the baseline is free: it stays that of the truth.
        gauge = np.linalg.norm(shifts[-1]) - float(TRUE.viewmats[-1, :3, 3].norm())
        return np.append(np.concatenate(found).ravel(), 100 * gauge)

    turns = Rotation.from_matrix(TRUE.viewmats[:, :3, :3].numpy()).as_rotvec()
    start = [turns[1:].ravel(), TRUE.viewmats[1:, :3, 3].numpy().ravel(), factor * DEPTHS[:, grid].numpy().ravel()]
    turns, shifts, depths = unpacked(least_squares(errors, np.concatenate(start), x_scale="jac", max_nfev=40).x)
    viewmats = torch.eye(4).repeat(views, 1, 1)
    viewmats[:, :3, :3], viewmats[:, :3, 3] = torch.from_numpy(turns).float(), torch.from_numpy(shifts).float()
    sparse = torch.zeros_like(DEPTHS)
    sparse[:, grid] = torch.from_numpy(depths).float()
    return SceneEstimate(IMAGES, Cameras(viewmats, wrong.Ks, width, height), sparse, (sparse > 0).float())


@pytest.mark.parametrize("factor", [0.9, 1.15])
def test_an_estimate_through_a_wrong_lens_becomes_the_truth(factor):
    wrong = as_seen_through(factor)
    seen = wrong.depths > 0
    wrong_by = wrong.depths / DEPTHS / float((wrong.depths / DEPTHS)[seen].median()) - 1
    assert wrong_by[seen].abs().max() > 0.04
    right = with_known_focals(wrong, torch.full((3,), 100.0), "it")
    torch.testing.assert_close(right.cameras.Ks, TRUE.Ks)
    unit = float((right.depths / DEPTHS)[seen].median())
    assert (right.depths / DEPTHS / unit - 1)[seen].abs().max() < 0.005
    turns = (right.cameras.viewmats[:, :3, :3] @ TRUE.viewmats[:, :3, :3].mT).diagonal(dim1=1, dim2=2).sum(dim=1)
    assert torch.rad2deg(((turns - 1) / 2).clamp(-1, 1).acos()).max() < 0.1
    assert torch.equal(right.cameras.viewmats[0], torch.eye(4)) and f"{factor - 1:+.1%}" in right.notes[-1]


def test_cameras_in_one_place_bend_no_world():
    turns = torch.from_numpy(Rotation.from_euler("y", [[0.0], [0.1], [0.2]]).as_matrix()).float()
    viewmats = torch.eye(4).repeat(3, 1, 1)
    viewmats[:, :3, :3] = turns
    viewmats[1:, :3, 3] = 1e-4 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    scene = SceneEstimate(IMAGES, Cameras(viewmats, TRUE.Ks, 96, 72), DEPTHS, torch.ones_like(DEPTHS))
    seen = with_known_focals(scene, torch.full((3,), 115.0), "it")
    ratios = seen.depths[0] / DEPTHS[0]
    torch.testing.assert_close(ratios, ratios[0, 0].expand_as(ratios), rtol=1e-3, atol=0)


def test_right_focal_lengths_change_nothing():
    scene = SceneEstimate(IMAGES, TRUE, DEPTHS, torch.ones_like(DEPTHS))
    same = with_known_focals(scene, torch.full((3,), 100.0), "it")
    torch.testing.assert_close(same.depths, DEPTHS, rtol=1e-4, atol=0)
    torch.testing.assert_close(same.cameras.viewmats, TRUE.viewmats, rtol=0, atol=1e-4)


def test_unknown_focal_lengths_change_with_the_known_ones_or_not_at_all():
    scene = SceneEstimate(IMAGES, TRUE, DEPTHS, torch.ones_like(DEPTHS))
    nothing = torch.full((3,), float("nan"))
    assert with_known_focals(scene, nothing, "it") is scene
    one = with_known_focals(scene, torch.tensor([float("nan"), 110.0, float("nan")]), "it")
    torch.testing.assert_close(one.cameras.Ks[:, 0, 0], torch.full((3,), 110.0))


@pytest.mark.parametrize("network", ["vggt", "dust3r"])
def test_networks_keep_the_focal_lengths_that_are_known(stand_ins, tmp_path, network):
    photos = photographs([(160, 120)] * 2, (0.1, 0.6))
    checkpoint = CHECKPOINTS[network](tmp_path, photos)
    focals = torch.tensor([1.25 * 176.0, float("nan")])
    scene = estimate_scene(photos.images, None, checkpoint, focals=focals)
    torch.testing.assert_close(scene.cameras.Ks[:, 0, 0], torch.full((2,), 220.0), rtol=2e-3, atol=0)
    assert scene.scale == pytest.approx(1, abs=1e-4) and any("known ones" in note for note in scene.notes)
