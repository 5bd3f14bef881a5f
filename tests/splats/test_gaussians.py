"""Gaussians as values."""

import torch

from cus.splats import Gaussians


def some(scales: list[list[float]], bands: int = 4) -> Gaussians:
    count = len(scales)
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(count, -1)
    return Gaussians(
        torch.zeros(count, 3), quats, torch.tensor(scales), torch.full((count,), 0.5), torch.ones(count, bands, 3)
    )


def test_needles_are_shortened_and_discs_and_balls_stay():
    found = some([[1.0, 9.0, 0.5], [2.0, 2.0, 0.1], [3.0, 3.0, 3.0], [0.1, 0.1, 0.3]]).shortened(2.0)
    assert (
        found.scales.tolist() == torch.tensor([[1.0, 2.0, 0.5], [2.0, 2.0, 0.1], [3, 3, 3], [0.1, 0.1, 0.2]]).tolist()
    )


def test_thin_gaussians_are_thickened_and_others_stay():
    found = some([[2.0, 2.0, 0.1], [1.0, 0.1, 0.5], [3.0, 3.0, 3.0], [1.0, 0.9, 0.5]]).thickened(4.0)
    expected = [[2.0, 2.0, 0.5], [1.0, 0.25, 0.5], [3.0, 3.0, 3.0], [1.0, 0.9, 0.5]]
    torch.testing.assert_close(found.scales, torch.tensor(expected))


def test_harmonics_of_another_degree_lose_bands_or_gain_none():
    assert some([[1.0, 1, 1]], 4).with_degree(0).sh.shape == (1, 1, 3)
    raised = some([[1.0, 1, 1]], 4).with_degree(2)
    assert raised.sh_degree == 2 and raised.sh[0, :4].eq(1).all() and raised.sh[0, 4:].eq(0).all()
    assert some([[1.0, 1, 1]], 4).with_degree(1).sh_degree == 1
