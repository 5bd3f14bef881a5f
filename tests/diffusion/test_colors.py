"""Colours of frames and of their conditioning images."""

import pytest
import torch

from cus.diffusion.colors import keep_colors
from cus.diffusion.sampling import Sampling
from tests.diffusion.tiny import pictures, tiny_pipeline


def test_light_that_was_added_goes_and_detail_stays() -> None:
    conditioning = torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))
    detail = torch.zeros(60, 80)
    detail[::2], detail[1::2] = 0.1, -0.1
    ramp = torch.linspace(0, 0.2, 80)
    kept = keep_colors(conditioning + detail + ramp + 0.3, conditioning, 9)
    inner = (kept - conditioning - detail)[..., 8:-8, 8:-8]
    assert inner.abs().max() < 0.02
    assert torch.equal(keep_colors(conditioning + 0.3, conditioning, 0), conditioning + 0.3)


def test_a_pipeline_keeps_colours_where_its_checkpoint_asks_for_it() -> None:
    held = pictures(2) * 0.4 + 0.3
    drifts = []
    for window in (0, 15):
        pipeline = tiny_pipeline(residual_scale=8.0, unshuffle=4, noise=0.0, color_window=window)
        drifts.append(float((pipeline(pictures(1), held, steps=1) - held).mean((-2, -1)).abs().max()))
    assert drifts[1] < 0.5 * drifts[0]


@pytest.mark.parametrize("window", [2, -1, 1.5, True])
def test_windows_that_cannot_be_are_refused(window) -> None:
    with pytest.raises(ValueError, match="color_window"):
        Sampling(color_window=window)
