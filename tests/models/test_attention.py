"""The token layouts against loops over frames and positions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cus.models import attention
from cus.models.attention import (
    ContextAttention,
    SpaceAttention,
    TimeAttention,
    maps_from_tokens,
    split_context,
    tokens_from_maps,
)

B, T, S, C, D = 2, 3, 6, 16, 8


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain multi-head attention of one sequence, [L, H*d]."""
    q, k, v = (a.unflatten(-1, (-1, D)).transpose(0, 1) for a in (q, k, v))
    return ((q @ k.transpose(1, 2) / D**0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)


def test_space_attention_runs_within_each_frame_and_time_attention_at_each_position() -> None:
    x = tokens(B, T, S, C)
    with torch.no_grad():
        for layer, transpose in ((SpaceAttention(C, 2, D), False), (TimeAttention(C, 2, D), True)):
            rows = x.transpose(1, 2) if transpose else x
            expected = torch.stack(
                [
                    torch.stack([layer.to_out(attended(layer.to_q(r), layer.to_k(r), layer.to_v(r))) for r in clip])
                    for clip in rows
                ]
            )
            expected = expected.transpose(1, 2) if transpose else expected
            torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("per_frame", [False, True])
def test_context_attention_adds_what_each_frame_reads_from_text_and_from_its_image_tokens(per_frame: bool) -> None:
    layer = ContextAttention(C, 2, D, 5)
    x, context = tokens(B, T, S, C), tokens(B, 4 + 2 * T + (not per_frame), 5, seed=1)
    with torch.no_grad():
        result = layer(x, split_context(context, T, text_tokens=4, frame_tokens=2))
        for b in range(B):
            for t in range(T):
                text, image = context[b, :4], context[b, 4:]
                image = image[2 * t : 2 * t + 2] if per_frame else image
                q = layer.to_q(x[b, t])
                read = attended(q, layer.to_k(text), layer.to_v(text))
                read = read + attended(q, layer.to_k_image(image), layer.to_v_image(image))
                torch.testing.assert_close(result[b, t], layer.to_out(read))


@pytest.mark.parametrize("limit", ["FEW_KEYS", "MAX_HEADS_PER_CALL"])
def test_the_ways_to_attend_agree_in_value_and_gradient(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    q, k, v = (tokens(2, 10, length, D, seed=length).requires_grad_() for length in (7, 5, 5))
    expected = F.scaled_dot_product_attention(q, k, v)
    monkeypatch.setattr(attention, "FEW_KEYS", 5 if limit == "FEW_KEYS" else 0)
    monkeypatch.setattr(attention, "MAX_HEADS_PER_CALL", 4)
    value = attention._attend(q, k, v)
    torch.testing.assert_close(value, expected)
    for mine, theirs in zip(
        *(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (value, expected)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.gpu
def test_xformers_gives_what_pytorch_gives() -> None:
    pytest.importorskip("xformers")
    q, k, v = (tokens(2, 10, length, 64, seed=length).half().cuda() for length in (300, 77, 77))
    expected = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention._attend(q, k, v, "xformers"), expected, rtol=1e-2, atol=1e-3)


def test_channels_last_maps_and_tokens_share_memory() -> None:
    maps = tokens(B * T, C, 2, 3).to(memory_format=torch.channels_last)
    as_tokens = tokens_from_maps(maps, T)
    assert as_tokens.shape == (B, T, 6, C)
    assert as_tokens.data_ptr() == maps.data_ptr() == maps_from_tokens(as_tokens, maps).data_ptr()
    assert torch.equal(maps_from_tokens(as_tokens, maps), maps)
