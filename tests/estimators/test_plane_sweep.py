import pytest
import torch

from cus.estimators.matching_cost import plane_cost, plane_cost_torch
from cus.estimators.plane_sweep import (
    Sweep,
    SweepSettings,
    matching_costs,
    place_planes,
    plane_spacing,
    subpixel_argmin,
)
from cus.estimators.semi_global import DIRECTIONS, aggregate
from tests.estimators import planes


def path_costs(costs, small, large, dy, dx):
    """One scan direction as the paper writes it, pixel by pixel."""
    height, width, count = costs.shape
    result = torch.zeros_like(costs)
    rows = range(height) if dy >= 0 else range(height - 1, -1, -1)
    columns = range(width) if dx >= 0 else range(width - 1, -1, -1)
    for y in rows:
        for x in columns:
            if not (0 <= y - dy < height and 0 <= x - dx < width):
                result[y, x] = costs[y, x]
                continue
            before = result[y - dy, x - dx]
            for d in range(count):
                ways = [before[d], before.min() + large[y, x]]
                ways += [before[n] + small for n in (d - 1, d + 1) if 0 <= n < count]
                result[y, x, d] = costs[y, x, d] + min(ways) - before.min()
    return result


@pytest.mark.parametrize("directions", [4, 8])
def test_aggregation_is_the_mean_of_the_path_costs(directions):
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(5, 6, 4, generator=generator)
    large = 0.2 + torch.rand(5, 6, generator=generator)
    expected = sum(path_costs(costs, 0.1, large, dy, dx) for dy, dx in DIRECTIONS[:directions]) / directions
    torch.testing.assert_close(aggregate(costs, 0.1, large, directions), expected, rtol=1e-5, atol=1e-6)


def test_without_penalties_aggregation_keeps_the_winner():
    costs = torch.rand(6, 7, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(aggregate(costs, 0.0, torch.zeros(6, 7)).argmin(-1), costs.argmin(-1))


def make_sweep(board: bool = True) -> tuple[Sweep, torch.Tensor]:
    views = planes.cameras((0.0, 0.3))
    images, depths = planes.render(views, board)
    return Sweep.between(images, views, 0, [1], torch.ones(2, 120, 160, dtype=torch.bool)), depths


def test_compiled_cost_equals_the_tensor_form():
    sweep, _ = make_sweep()
    valid = torch.rand(120, 160, generator=torch.Generator().manual_seed(2)) > 0.1
    for plane in (0.0, 0.25, 0.4, 1.3):
        arguments = (sweep.gray, sweep.sources[0], valid, sweep.rays[0], sweep.shifts[0], plane, 5)
        fast, plain = plane_cost(*arguments), plane_cost_torch(*arguments)
        same = fast.isfinite() == plain.isfinite()
        assert same.float().mean() > 0.999  # rounding may move a pixel over the border
        both = fast.isfinite() & plain.isfinite()
        torch.testing.assert_close(fast[both], plain[both], rtol=0, atol=2e-4)


def test_cost_is_lowest_on_the_true_plane():
    sweep, depths = make_sweep(board=False)
    hypotheses = torch.tensor([0.9, 1.0, 1.1]) / planes.WALL
    costs = matching_costs(sweep, hypotheses)
    inner = costs[20:-20, 20:-20]
    assert (inner.argmin(dim=-1) == 1).float().mean() > 0.97
    assert inner[..., 1].mean() < 0.1 < inner[..., 0].mean()


def test_cost_ignores_an_offset_in_brightness():
    sweep, _ = make_sweep()
    arguments = (sweep.sources_valid[0], sweep.rays[0], sweep.shifts[0], 0.25, 5)
    plain = plane_cost(sweep.gray, sweep.sources[0], *arguments)
    brighter = plane_cost(sweep.gray, sweep.sources[0] + 0.2, *arguments)
    seen = plain.isfinite()
    torch.testing.assert_close(plain[seen], brighter[seen], rtol=0, atol=1e-4)


def test_planes_are_as_far_apart_as_asked():
    sweep, _ = make_sweep()
    settings = SweepSettings(step=0.5, min_planes=8)
    hypotheses = place_planes(sweep, 0.1, 0.6, settings)
    assert plane_spacing(sweep, hypotheses) == pytest.approx(0.5, rel=0.05)
    assert len(place_planes(sweep, 0.24, 0.26, SweepSettings())) == SweepSettings().min_planes
    with pytest.raises(ValueError, match="low < high"):
        place_planes(sweep, 0.6, 0.1, settings)


def test_parabola_finds_the_minimum_between_samples():
    samples = torch.arange(9.0)
    for minimum in (2.3, 4.0, 5.49):
        costs = ((samples - minimum) ** 2).expand(2, 3, 9)
        torch.testing.assert_close(subpixel_argmin(costs), torch.full((2, 3), minimum))
