"""Both CLIP towers against open_clip's own model, whose blocks are written out here as the published code runs them."""

import socket
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.nn import functional as F

from cus.lvdm import image_encoder_from_lvdm, text_encoder_from_lvdm
from cus.models.clip import TextEncoder

VISION = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 3, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 4}


@pytest.fixture(scope="module")
def clip() -> Any:
    torch.manual_seed(0)
    model = CLIP(12, dict(VISION), dict(TEXT)).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in model.parameters():
            # As made, norms and biases are ones and zeros, which would hide one that is left out.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tensors_of(model: Any, removed: str, prefix: str) -> dict[str, Tensor]:
    """What an embedder of theirs holds, which deletes one of the two towers."""
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(removed)}
    return {prefix + name: tensor for name, tensor in kept.items()}


def block_by_hand(block: Any, x: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Pre-norm attention and feed-forward, [L, N, C] in and out."""
    length, batch, width = x.shape
    normed = F.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias)
    q, k, v = (normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(width, dim=-1)
    q, k, v = (a.reshape(length, batch, heads, width // heads).permute(1, 2, 0, 3) for a in (q, k, v))
    scores = q @ k.transpose(2, 3) * (width // heads) ** -0.5
    if mask is not None:
        scores = scores + mask
    read = (scores.softmax(-1) @ v).permute(2, 0, 1, 3).reshape(length, batch, width)
    x = x + read @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    normed = F.layer_norm(x, (width,), block.ln_2.weight, block.ln_2.bias)
    inner = normed @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return x + inner @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


@torch.no_grad()
def test_text_tokens_are_those_before_the_last_block_normed(clip: Any) -> None:
    checkpoint = tensors_of(clip, "visual.", "cond_stage_model.model.")
    encoder = text_encoder_from_lvdm(checkpoint, width=24, layers=4, heads=3, output_dim=12)
    tokens = encoder.tokenize(["Rotating view of a scene", ""])
    x = (clip.token_embedding.weight[tokens] + clip.positional_embedding).permute(1, 0, 2)
    mask = torch.full((77, 77), -torch.inf).triu(1)
    for block in list(clip.transformer.resblocks)[:3]:
        x = block_by_hand(block, x, 3, mask)
    expected = F.layer_norm(x.permute(1, 0, 2), (24,), clip.ln_final.weight, clip.ln_final.bias)
    assert expected.shape == (2, 77, 24)
    torch.testing.assert_close(encoder(tokens), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_image_tokens_are_those_after_the_last_block_not_normed(clip: Any) -> None:
    checkpoint = tensors_of(clip, "transformer.", "embedder.model.")
    sizes = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 3, "heads": 2, "output_dim": 12}
    encoder = image_encoder_from_lvdm(checkpoint, **sizes)
    images = torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(1))
    visual: Any = clip.visual
    squares = encoder.preprocess(images)
    patches = F.unfold(squares, 14, stride=14).transpose(1, 2) @ visual.conv1.weight.reshape(32, -1).T
    x = torch.cat([visual.class_embedding.expand(2, 1, 32), patches], dim=1) + visual.positional_embedding
    x = F.layer_norm(x, (32,), visual.ln_pre.weight, visual.ln_pre.bias).permute(1, 0, 2)
    for block in visual.transformer.resblocks:
        x = block_by_hand(block, x, 2, None)
    torch.testing.assert_close(encoder(images), x.permute(1, 0, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_token_of_the_text_sees_none_that_follows(clip: Any) -> None:
    encoder = text_encoder_from_lvdm(
        tensors_of(clip, "visual.", "cond_stage_model.model."), width=24, layers=4, heads=3, output_dim=12
    )
    tokens = encoder.tokenize(["a view of a scene"])
    changed = tokens.clone()
    changed[:, 4] = 1000
    before, after = encoder(tokens), encoder(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] - after[:, 4:]).abs().amax(-1).min() > 1e-4


def test_the_tokenizer_is_clip_s_and_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the tokenizer asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with torch.device("meta"):
        encoder = TextEncoder(width=8, layers=2, heads=1)
    photo, empty = encoder.tokenize(["a photo of a cat", ""]).tolist()
    # As published for CLIP: start, a, photo, of, a, cat, end.
    assert photo == [49406, 320, 1125, 539, 320, 2368, 49407] + 70 * [0]
    assert empty == [49406, 49407] + 75 * [0]


def test_texts_that_do_not_fit_are_refused_instead_of_cut() -> None:
    with torch.device("meta"):
        encoder = TextEncoder(width=8, layers=2, heads=1)
        small = TextEncoder(vocab_size=100, width=8, layers=2, heads=1)
    assert encoder.tokenize(["scene " * 75]).shape == (1, 77)
    with pytest.raises(ValueError, match="78 tokens, at most 77"):
        encoder.tokenize(["scene " * 76])
    with pytest.raises(ValueError, match="knows 100 tokens"):
        small.tokenize(["a"])
    with pytest.raises(ValueError, match="penultimate of 1 layers"):
        TextEncoder(layers=1)


def test_every_tensor_of_a_full_size_clip_belongs_to_one_of_the_towers_or_to_the_loss() -> None:
    from open_clip import get_model_config

    config: Any = get_model_config("ViT-H-14")
    with torch.device("meta"):
        clip = CLIP(**config)
    text = text_encoder_from_lvdm(tensors_of(clip, "visual.", "cond_stage_model.model."))
    image = image_encoder_from_lvdm(tensors_of(clip, "transformer.", "embedder.model."))

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(text) + count(image) + clip.logit_scale.numel() == count(clip)
    names = {name.removeprefix("tower.") for name in text.state_dict()}
    names |= {name.replace("tower.", "visual.") for name in image.state_dict()}
    assert names | {"logit_scale"} == set(clip.state_dict())
    assert (image.config["heads"], text.config["heads"]) == (1280 // 80, 1024 // 64)
