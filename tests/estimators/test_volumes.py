import pytest
import torch

from cus.estimators.plane_sweep import (
    in_bytes,
    rival_margin,
    rival_margin_torch,
    subpixel_argmin,
    subpixel_argmin_torch,
)


def volume(seed: int, count: int = 23) -> torch.Tensor:
    """Costs with ties, of which the first must win, and with winners at both ends."""
    costs = torch.rand((13, 17, count), generator=torch.Generator().manual_seed(seed))
    return (costs * 50).round() / 50


@pytest.mark.parametrize("count", [3, 16, 23])
def test_compiled_passes_equal_the_tensor_operations(count: int):
    costs = volume(0, count)
    assert torch.equal(subpixel_argmin(costs), subpixel_argmin_torch(costs))
    for spacing, reach in ((1.0, 2), (0.5, 4), (5.0, 1), (0.01, 200)):
        assert torch.equal(rival_margin(costs, spacing), rival_margin_torch(costs, reach))
    assert torch.equal(in_bytes(costs), (costs * 255).round().to(torch.uint8))


def test_strided_volumes_are_read_as_what_they_are():
    costs = volume(1)
    strided = costs.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(subpixel_argmin(strided), subpixel_argmin(costs))
    assert torch.equal(rival_margin(strided, 1.0), rival_margin(costs, 1.0))
    assert torch.equal(in_bytes(strided), in_bytes(costs))


def test_parabola_finds_the_minimum_between_samples():
    samples = torch.arange(9.0)
    for minimum in (2.3, 4.0, 5.49):
        costs = ((samples - minimum) ** 2).expand(2, 3, 9)
        torch.testing.assert_close(subpixel_argmin(costs), torch.full((2, 3), minimum))


def test_rival_margin_skips_the_neighbours_of_the_winner():
    costs = torch.ones(1, 1, 20)
    costs[0, 0, 8:13] = torch.tensor([0.3, 0.2, 0.1, 0.2, 0.3])
    costs[0, 0, 17] = 0.4
    assert float(rival_margin(costs, spacing=1.0)) == pytest.approx(0.3)
    assert float(rival_margin(costs, spacing=2.0)) == pytest.approx(0.2)
