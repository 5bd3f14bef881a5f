"""Many photographs at their own resolution need no more memory than they may."""

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from cus.cameras import photos
from cus.cameras.photos import large_pictures as read
from cus.errors import InputError

PICTURES = [np.random.default_rng(seed).integers(0, 256, (8 + seed, 12, 3), np.uint8) for seed in range(5)]
SCALES = torch.full((5, 2), 0.5)


def test_photographs_beyond_the_memory_lie_in_a_file_that_leaves_no_trace(tmp_path: Path) -> None:
    within = read(iter(PICTURES), SCALES, 6, 6, 100)
    beyond = read(iter(PICTURES), SCALES, 6, 6, 100, in_memory=3 * 12 * 20, folder=tmp_path)
    assert [p.shape for p in within] == [(3, 12, 12)] * 5
    assert all(torch.equal(a, b) for a, b in zip(within, beyond, strict=True))
    assert (within[2][:, :10].permute(1, 2, 0).numpy() == PICTURES[2]).all() and not within[2][:, 10:].any()
    del beyond
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(photos.tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match="free some space"):
        read(iter(PICTURES), SCALES, 6, 6, 100, in_memory=0, folder=tmp_path)
