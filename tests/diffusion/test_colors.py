"""Colours of frames and of their conditioning images."""

import pytest
import torch

from cus.conditioning import Conditioning
from cus.diffusion.colors import keep_colors, keep_resolved
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


def test_what_the_photographs_show_is_kept_in_proportion() -> None:
    frames, conditioning = torch.rand(2, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    resolved = torch.tensor([0.0, 0.25, 1.0, 1.0, 0.5]).expand(1, 4, 5)
    kept = keep_resolved(frames, conditioning, resolved)
    torch.testing.assert_close(kept - frames, resolved[:, None] * (conditioning - frames))


@pytest.mark.parametrize("keep", [False, True])
def test_a_pipeline_leaves_resolved_pixels_as_they_are_if_its_checkpoint_asks_for_it(keep: bool) -> None:
    shown, known = pictures(6), torch.ones(6, 16, 24, dtype=torch.bool)
    resolved = torch.zeros(6, 16, 24)
    resolved[:, :, 12:] = 1
    held = Conditioning(shown, known, known.float(), resolved=resolved)
    pipeline = tiny_pipeline(residual_scale=8.0, unshuffle=4, noise=0.0, keep_resolved=keep)
    made, plain = pipeline(pictures(1), held, steps=1), pipeline(pictures(1), shown, steps=1)  # two chunks
    assert torch.equal(made[..., :12], plain[..., :12])
    assert torch.equal(made[..., 12:], shown[..., 12:] if keep else plain[..., 12:])
    latents = pipeline(
        pictures(1), Conditioning(shown[:4], known[:4], known[:4].float()), steps=1, output_type="latent"
    )
    held = Conditioning(shown[:4], known[:4], known[:4].float(), resolved=resolved[:4])
    assert torch.equal(pipeline.decode_latents(latents, held), pipeline(pictures(1), held, steps=1))


@pytest.mark.parametrize("window", [2, -1, 1.5, True])
def test_windows_that_cannot_be_are_refused(window) -> None:
    with pytest.raises(ValueError, match="color_window"):
        Sampling(color_window=window)
