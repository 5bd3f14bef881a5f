"""The order in which clips are shown."""

import pytest

from cus.datasets.clips import EpochOrder


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_clip_comes_once_an_epoch(count: int) -> None:
    order = EpochOrder(count, seed=3)
    for epoch in range(4):
        assert sorted(order[i] for i in range(epoch * count, (epoch + 1) * count)) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(EpochOrder(9, seed)[i] for i in range(start, start + 9)) for seed in (0, 1) for start in (0, 9)}
    assert len(orders) == 4


def test_an_item_does_not_depend_on_which_were_asked_for_before() -> None:
    asked = EpochOrder(5, seed=0)
    backwards = [asked[i] for i in reversed(range(20))]
    assert backwards[::-1] == [EpochOrder(5, seed=0)[i] for i in range(20)]


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        EpochOrder(0, seed=0)
