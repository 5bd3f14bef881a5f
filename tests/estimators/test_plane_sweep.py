import pytest
import torch

from cus.estimators.matching_cost import UNKNOWN_COST, cost_volume, cost_volume_torch
from cus.estimators.plane_sweep import Sweep, SweepSettings, matching_costs, place_planes, plane_spacing
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


@pytest.mark.parametrize("shape", [(5, 6, 4), (6, 3, 17), (1, 5, 3), (4, 1, 33), (3, 4, 1)])
def test_aggregation_is_the_mean_of_the_path_costs(shape: tuple[int, int, int]):
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(shape, generator=generator)
    large = 0.2 + torch.rand(shape[:2], generator=generator)
    expected = sum(path_costs(costs, 0.1, large, dy, dx) for dy, dx in DIRECTIONS) / len(DIRECTIONS)
    torch.testing.assert_close(aggregate(costs, 0.1, large), expected, rtol=1e-5, atol=1e-6)


def test_without_penalties_aggregation_keeps_the_winner():
    costs = torch.rand(6, 7, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(aggregate(costs, 0.0, torch.zeros(6, 7)).argmin(-1), costs.argmin(-1))


def test_costs_and_their_aggregates_are_the_same_bits_on_any_number_of_threads():
    sweep, _ = make_sweep()
    hypotheses, threads, results = torch.linspace(0.1, 0.6, 21), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            costs = matching_costs(sweep, hypotheses)
            results.append((costs, aggregate(costs, 0.05, torch.full((120, 160), 0.5))))
    finally:
        torch.set_num_threads(threads)
    for costs, total in results[1:]:
        assert torch.equal(costs, results[0][0]) and torch.equal(total, results[0][1])


def make_sweep(board: bool = True) -> tuple[Sweep, torch.Tensor]:
    views = planes.cameras((0.0, 0.3))
    images, depths = planes.render(views, board)
    return Sweep.between(images, views, 0, [1], torch.ones(2, 120, 160, dtype=torch.bool)), depths


@pytest.mark.parametrize("window", [3, 5, 7])
@pytest.mark.parametrize("sources", [1, 2, 3])
def test_compiled_costs_equal_the_tensor_form(window: int, sources: int):
    views = planes.cameras((0.0, 0.3, -0.2, 0.1)[: sources + 1])
    images, _ = planes.render(views, True)
    valid = torch.rand((sources + 1, 120, 160), generator=torch.Generator().manual_seed(2)) > 0.1
    sweep = Sweep.between(images, views, 0, list(range(1, sources + 1)), valid)
    hypotheses = torch.linspace(0.0, 1.3, 19)
    arguments = (sweep.gray, sweep.sources, sweep.sources_valid, sweep.rays, sweep.shifts, hypotheses, window)
    fast, plain = cost_volume(*arguments), cost_volume_torch(*arguments)
    alike = (fast - plain).abs() < 2e-4
    assert alike.float().mean() > 0.999  # rounding may move a pixel over the border
    assert (fast == UNKNOWN_COST).float().mean() == pytest.approx(
        float((plain == UNKNOWN_COST).float().mean()), abs=1e-3
    )
    assert (fast != UNKNOWN_COST).any()


def test_cost_is_lowest_on_the_true_plane():
    sweep, depths = make_sweep(board=False)
    hypotheses = torch.tensor([0.9, 1.0, 1.1]) / planes.WALL
    costs = matching_costs(sweep, hypotheses)
    inner = costs[20:-20, 20:-20]
    assert (inner.argmin(dim=-1) == 1).float().mean() > 0.97
    assert inner[..., 1].mean() < 0.1 < inner[..., 0].mean()


def test_cost_ignores_an_offset_in_brightness():
    sweep, _ = make_sweep()
    arguments = (sweep.sources_valid, sweep.rays, sweep.shifts, torch.tensor([0.25]), 5)
    plain = cost_volume(sweep.gray, sweep.sources, *arguments)
    brighter = cost_volume(sweep.gray, sweep.sources + 0.2, *arguments)
    torch.testing.assert_close(plain, brighter, rtol=0, atol=1e-4)


def test_planes_are_as_far_apart_as_asked():
    sweep, _ = make_sweep()
    settings = SweepSettings(step=0.5, min_planes=8)
    hypotheses = place_planes(sweep, 0.1, 0.6, settings)
    assert plane_spacing(sweep, hypotheses) == pytest.approx(0.5, rel=0.05)
    assert len(place_planes(sweep, 0.24, 0.26, SweepSettings())) == SweepSettings().min_planes
    with pytest.raises(ValueError, match="low < high"):
        place_planes(sweep, 0.6, 0.1, settings)
