import pytest
import torch

from cus.estimators.consistency import FILLED_CONFIDENCE, agreeing, confidence, round_trip_errors
from cus.estimators.filling import FREE_SPACE_PENALTY, continue_smoothly, free_space_costs, smooth_surfaces
from cus.estimators.plane_sweep import Sweep
from cus.estimators.upsampling import enlarge
from tests.estimators import planes


def test_true_depth_returns_to_where_it_came_from():
    views = planes.cameras((0.0, 0.3))
    _, depths = planes.render(views, board=False)
    errors = round_trip_errors(1 / depths, views, 0, [1])[0]
    seen = errors.isfinite()
    assert seen.float().mean() > 0.8
    assert errors[seen].max() < 0.05


def test_wrong_depth_does_not_return():
    views = planes.cameras((0.0, 0.3))
    _, depths = planes.render(views, board=False)
    inverse = 1 / depths
    inverse[0] *= 1.5
    errors = round_trip_errors(inverse, views, 0, [1])[0]
    assert errors[errors.isfinite()].min() > 1.5


def test_hidden_pixels_disagree_and_visible_ones_agree():
    views = planes.cameras((0.0, 0.5))
    _, depths = planes.render(views)
    errors = round_trip_errors(1 / depths, views, 0, [1])
    agree = agreeing(errors, 30 / depths[0])
    assert agree[depths[0] < 3].float().mean() > 0.95
    wall_left_of_board = agree[40:80, 30:60]
    assert 0.3 < wall_left_of_board.float().mean() < 1.0 or not wall_left_of_board.all()


def test_islands_of_agreement_are_dropped():
    errors = torch.full((1, 40, 40), 10.0)
    errors[0, 5:8, 5:8] = 0.1
    errors[0, 20:35, 20:35] = 0.1
    agree = agreeing(errors, torch.full((40, 40), 12.0))
    assert not agree[:10].any()
    assert agree[20:35, 20:35].all()


def test_confidence_orders_good_doubtful_and_filled_pixels():
    errors = torch.tensor([0.1, 1.2, 0.1, 9.0])[None, None]
    agree = torch.tensor([[True, True, True, False]])
    margin = torch.tensor([[0.5, 0.5, 0.02, 0.5]])
    result = confidence(errors, agree, margin, torch.full((1, 4), 0.05))[0]
    assert result[0] > max(result[1], result[2]) > FILLED_CONFIDENCE
    assert result[3] <= FILLED_CONFIDENCE
    assert result.min() >= 0 and result.max() <= 1


def test_free_space_forbids_what_would_hide_a_confirmed_surface():
    views = planes.cameras((0.0, 0.3))
    images, depths = planes.render(views, board=False)
    sweep = Sweep.between(images, views, 0, [1], torch.ones(2, 120, 160, dtype=torch.bool))
    hypotheses = torch.tensor([0.5, 0.99, 1.5]) / planes.WALL
    pixel = torch.tensor([60 * 160 + 80])
    costs = free_space_costs(sweep, hypotheses, pixel, 1 / depths[1:], torch.ones(1, 120, 160, dtype=torch.bool))
    assert costs[0].tolist() == pytest.approx([0.0, 0.0, FREE_SPACE_PENALTY])
    nowhere = free_space_costs(sweep, hypotheses, pixel, 1 / depths[1:], torch.zeros(1, 120, 160, dtype=torch.bool))
    assert not nowhere.any()


def test_continuation_keeps_what_is_known_and_stays_within_it():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(33, 50, generator=generator)
    known = torch.rand(33, 50, generator=generator) > 0.9
    result = continue_smoothly(values, known)
    assert torch.equal(result[known], values[known])
    assert result.min() >= values[known].min() - 1e-6 and result.max() <= values[known].max() + 1e-6
    single = torch.zeros(7, 9, dtype=torch.bool)
    single[3, 4] = True
    torch.testing.assert_close(continue_smoothly(torch.full((7, 9), 2.5), single), torch.full((7, 9), 2.5))


def test_smoothing_removes_noise_and_keeps_steps():
    generator = torch.Generator().manual_seed(0)
    clean = torch.cat([torch.full((20, 20), 5.0), torch.full((20, 20), 9.0)], dim=1)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    smooth = smooth_surfaces(noisy, torch.zeros_like(clean), torch.ones_like(clean), reach=0.75)
    assert (smooth - clean).std() < 0.4 * (noisy - clean).std()
    assert (smooth - clean).abs().max() < 0.3


def test_enlarged_inverse_depth_of_a_plane_is_exact():
    def ramp(height, width):
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        return 1.0 + 0.1 * x + 0.05 * y

    inverse, trust = enlarge(ramp(15, 20), torch.ones(15, 20), torch.zeros(3, 15, 20), torch.zeros(3, 60, 80))
    torch.testing.assert_close(inverse[4:-4, 4:-4], ramp(60, 80)[4:-4, 4:-4], rtol=0, atol=1e-5)
    assert torch.equal(trust, torch.ones(60, 80))


def test_enlarged_depth_edges_follow_the_picture():
    large = torch.zeros(3, 40, 40)
    large[:, :, 22:] = 1.0  # the edge lies inside a low-resolution pixel
    small = torch.nn.functional.interpolate(large[None], size=(10, 10), mode="area")[0]
    inverse = torch.where(small[0] > 0.4, 2.0, 1.0)
    result, _ = enlarge(inverse, torch.ones(10, 10), small, large)
    assert set(result.unique().tolist()) <= {1.0, 2.0}
    assert torch.equal(result > 1.5, large[0] > 0.5)
