"""The views that cover much and repeat little, against all possible choices."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.refinement.view_selection import coverage, distance_discount, select_views, similarity, visible_share
from tests.conditioning.plane_scenes import pinhole, plane_depths


def value(w: Tensor, e: Tensor, chosen: tuple[int, ...]) -> float:
    s = torch.zeros(len(w), dtype=torch.float64)
    s[list(chosen)] = 1
    return float(s @ w - s @ (e / (len(chosen) - 1)) @ s)


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_best_of_all_choices(seed: int):
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(9, generator=generator, dtype=torch.float64)
    e = torch.rand(9, 9, generator=generator, dtype=torch.float64)
    e = ((e + e.T) / 2).fill_diagonal_(0)
    chosen = select_views(w, e, 4, generator)
    best = max(value(w, e, each) for each in combinations(range(9), 4))
    # Single swaps can end in a local optimum.
    assert value(w, e, tuple(chosen)) >= best - 0.05 * abs(best)
    assert chosen == sorted(set(chosen)) and len(chosen) == 4


def test_of_two_equal_views_one_is_taken():
    w = torch.tensor([1.0, 1.0, 0.8])
    e = torch.tensor([[0.0, 1.0, 0.1], [1.0, 0.0, 0.1], [0.1, 0.1, 0.0]])
    assert 2 in select_views(w, e, 2, torch.Generator().manual_seed(0))
    assert select_views(w, e, 5, torch.Generator().manual_seed(0)) == [0, 1, 2]


def test_a_view_sees_itself_whole_and_a_shifted_one_in_part():
    first = pinhole((0.0, 0.0, 0.0))
    half = 0.5 * first.width * 4 / float(first.Ks[0, 0, 0])
    cameras = Cameras.cat([first, pinhole((half, 0.0, 0.0))])
    depths = plane_depths(cameras, (0.0, 0.0, 1.0), 4.0)
    shares = visible_share(depths, cameras, depths, cameras, centred=False)
    torch.testing.assert_close(shares, torch.tensor([[1.0, 0.5], [0.5, 1.0]]), atol=0.05, rtol=0)
    assert similarity(depths, cameras)[0, 0] == 0
    # What another surface hides is not visible.
    hidden = visible_share(depths, cameras, depths / 2, cameras, centred=False)
    assert float(hidden.max()) == 0


def test_the_middle_of_a_frontier_view_counts_more():
    first = pinhole((0.0, 0.0, 0.0))
    aside = pinhole((0.25 * first.width * 4 / float(first.Ks[0, 0, 0]), 0.0, 0.0))
    depths = plane_depths(first, (0.0, 0.0, 1.0), 4.0)
    plain, centred = (
        float(visible_share(depths, first, plane_depths(aside, (0.0, 0.0, 1.0), 4.0), aside, centred=each))
        for each in (False, True)
    )
    assert centred > plain


def test_the_discount_is_the_papers_and_least_at_the_ends():
    near, far = torch.zeros(3), torch.tensor([0.0, 0.0, 2.0])
    centers = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.5], [3.0, 0.0, 0.5], [0.0, 0.0, 2.0]])
    expected = torch.tensor([0.5, 0.75**2 / 2.5, 0.75**2 / 2.5, 0.0])
    torch.testing.assert_close(distance_discount(centers, near, far), expected)
    weights = coverage([torch.tensor([[0.2, 0.4], [0.4, 0.4]])], torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(weights, torch.tensor([0.3, 0.2]))
