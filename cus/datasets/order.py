"""Assigns clips to the items of a run: a function only of the seed and the item's number."""

import torch


class EpochOrder:
    """An endless sequence with each of `count` clips once per epoch, in a new random order every epoch.

    Items are numbered through the whole run, across its processes. Whichever process makes item `i`, and wherever a run
    is resumed, the clip is the same, and none is repeated within an epoch.

    Args:
        count: number of clips, at least 1.
        seed: seed of the orders.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"an order needs at least one clip, got count={count}")
        self.count, self.seed = count, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __getitem__(self, index: int) -> int:
        """Index of the clip, 0 .. count - 1, of item `index`."""
        epoch, place = divmod(index, self.count)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(item_seed(self.seed + 3, epoch))
            self._epoch, self._order = epoch, torch.randperm(self.count, generator=generator)
        return int(self._order[place])


def item_seed(seed: int, index: int) -> int:
    """A seed for item `index` of a data set: well mixed (splitmix64), so that neighbours are unrelated."""
    value = (seed * 0x9E3779B97F4A7C15 + index + 0x632BE59BD9B4E019) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return (value ^ (value >> 31)) >> 1
