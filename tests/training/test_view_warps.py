"""Warps and losses of the single-view stage against the exact depth of analytic scenes."""

import pytest
import torch

from cus.training.self_supervision import (
    consistency,
    photometric,
    projected,
    reprojection,
    resized,
    sampled,
    smoothness,
    splatted,
)
from cus.training.single_view import DepthScores, depth_scores
from tests.estimators import planes

Exact = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def exact() -> Exact:
    """Pictures [2, 3, H, W], depths [2, 1, H, W], Ks [2, 3, 3] and the way from the first to the second [1, 4, 4]."""
    cameras = planes.cameras((0.0, 0.25), width=96, height=64, focal=90.0)
    images, depths = planes.render(cameras)
    return images, depths[:, None], cameras.Ks, cameras.viewmats[1:] @ cameras.c2w[:1]


def test_points_land_where_the_camera_projects_them(exact):
    images, depths, Ks, way = exact
    cameras = planes.cameras((0.0, 0.25), width=96, height=64, focal=90.0)
    pixels, z, inside = projected(depths[:1], Ks[:1], Ks[1:], way)
    points = cameras[0].backproject(depths[0]).reshape(-1, 3)
    wanted, wanted_z = cameras[1].project(points)
    torch.testing.assert_close(pixels.reshape(-1, 2), wanted[0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(z.flatten(), wanted_z[0], atol=1e-4, rtol=1e-4)
    within = (wanted[0] > 0).all(-1) & (wanted[0] < torch.tensor([96.0, 64.0])).all(-1)
    assert torch.equal(inside.flatten(), within)


def test_half_the_picture_is_seen_by_half_the_lens(exact):
    _, depths, Ks, way = exact
    flat = torch.full_like(depths[:1], 3.0)
    whole = projected(flat, Ks[:1], Ks[1:], way)[0]
    half = projected(flat[..., ::2, ::2], resized(Ks[:1], 0.5), resized(Ks[1:], 0.5), way)[0]
    means = whole.reshape(1, 32, 2, 48, 2, 2).mean(dim=(2, 4))
    torch.testing.assert_close(half, means / 2, atol=1e-3, rtol=1e-4)


def test_both_warps_without_motion_change_nothing(exact):
    images, depths, Ks, _ = exact
    still = projected(depths, Ks, Ks, torch.eye(4).repeat(2, 1, 1))
    torch.testing.assert_close(sampled(images, still[0]), images, atol=1e-4, rtol=0)
    torch.testing.assert_close(splatted(images, *still), images, atol=1e-3, rtol=0)


def test_with_the_exact_depth_both_warps_give_the_other_view(exact):
    images, depths, Ks, way = exact
    there = projected(depths[:1], Ks[:1], Ks[1:], way)
    fetched = sampled(images[1:], there[0])
    error = (fetched - images[:1]).abs().mean(1, keepdim=True)[there[2]]
    unmoved = (images[1:] - images[:1]).abs().mean()
    assert float(error.median()) < 0.25 * float(unmoved)
    laid = splatted(images[:1], *there)
    arrived = (splatted(torch.ones_like(images[:1]), *there) > 0.99).all(1)[0]
    assert float(arrived.float().mean()) > 0.7
    assert float((laid - images[1:]).abs().mean(1)[0][arrived].median()) < 0.25 * float(unmoved)


def test_of_two_surfaces_that_land_in_one_place_the_nearer_shows():
    colors = torch.tensor([[[[0.0, 1.0]]]])
    pixels = torch.tensor([[[[0.5, 0.5], [0.5, 0.5]]]])
    depths = torch.tensor([[[[2.0, 1.0]]]])
    shown = splatted(colors, pixels, depths, torch.ones_like(depths, dtype=torch.bool))
    assert float(shown[0, 0, 0, 0]) > 0.99 and float(shown[0, 0, 0, 1]) == 0


def test_warps_have_gradients_that_lead_the_depth_to_the_truth(exact):
    images, depths, Ks, way = exact
    factor = torch.tensor(1.05, requires_grad=True)
    loss = reprojection(images[:1], depths[:1] * factor, Ks[:1], [(images[1:], Ks[1:], way)], automasking=False)
    loss.backward()
    assert factor.grad is not None and float(factor.grad) > 0, "farther than the truth: less depth, less loss"


def test_reprojection_is_least_at_the_true_scale_of_depth(exact):
    images, depths, Ks, way = exact
    others = [(images[1:], Ks[1:], way)]
    factors = (0.7, 0.85, 1.0, 1.15, 1.4)
    losses = [float(reprojection(images[:1], f * depths[:1], Ks[:1], others, automasking=False)) for f in factors]
    assert min(losses) == losses[2] < 0.1
    assert float(reprojection(images[:1], depths[:1], Ks[:1], others)) < 0.1


def test_the_best_of_the_other_views_counts_and_what_stands_still_does_not(exact):
    images, depths, Ks, way = exact
    good, noise = (images[1:], Ks[1:], way), (torch.rand_like(images[1:]), Ks[1:], way)
    one = reprojection(images[:1], depths[:1], Ks[:1], [good], automasking=False)
    both = reprojection(images[:1], depths[:1], Ks[:1], [good, noise], automasking=False)
    assert float(both) <= float(one) + 1e-6
    still = (images[:1], Ks[:1], way)
    assert float(reprojection(images[:1], depths[:1], Ks[:1], [still], automasking=True)) == 0
    assert float(reprojection(images[:1], depths[:1], Ks[:1], [still], automasking=False)) > 0.01


def test_photometric_error_is_none_for_equal_pictures_and_symmetric(exact):
    images = exact[0]
    assert float(photometric(images, images).abs().max()) < 1e-5
    a, b = photometric(images[:1], images[1:]), photometric(images[1:], images[:1])
    torch.testing.assert_close(a, b)
    assert 0 < float(a.mean()) < 1 and a.shape == (1, 1, 64, 96)


def test_smoothness_forgives_edges_of_the_picture_and_no_others():
    depths = torch.ones(1, 1, 8, 8)
    depths[..., 4:] = 2.0
    picture = torch.zeros(1, 3, 8, 8)
    plain = float(smoothness(depths, picture))
    picture[..., 4:] = 1.0
    assert float(smoothness(depths, picture)) < 0.01 * plain
    assert float(smoothness(3 * depths, torch.zeros(1, 3, 8, 8))) == pytest.approx(plain), "whatever the unit"
    assert float(smoothness(torch.ones(1, 1, 8, 8), picture)) == 0


def test_depths_of_one_scene_agree_and_a_wrong_scale_does_not(exact):
    _, depths, Ks, way = exact
    right = consistency(depths[:1], depths[1:], Ks[:1], Ks[1:], way)
    wrong = consistency(depths[:1], 1.5 * depths[1:], Ks[:1], Ks[1:], way)
    assert float(right) < 0.02 and float(wrong) == pytest.approx(0.2, abs=0.03)


def test_scores_do_not_depend_on_the_scale_and_leave_out_what_has_no_depth():
    exact = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
    assert depth_scores(7 * exact.clamp(min=1), exact) == DepthScores(0.0, 0.0, 1.0)
    off = depth_scores(torch.tensor([[1.0, 2.0], [8.0, 5.0]]), exact)
    assert off.abs_rel == pytest.approx(1 / 3) and off.delta == pytest.approx(2 / 3)
    assert off.rmse == pytest.approx((16 / 3) ** 0.5)
    with pytest.raises(ValueError, match="no depth"):
        depth_scores(torch.zeros(2, 2), exact)
