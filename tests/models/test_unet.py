"""The U-Net as a function: conditioning, layouts, precision, saving."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cus.errors import InputError
from cus.models import attention
from cus.models.attention import set_attention_backend
from cus.models.unet import UNet

T, H, W = 3, 8, 12


def small(seed: int = 0, **options: object) -> UNet:
    """A U-Net with random weights everywhere (a fresh one has zeros in its residual branches)."""
    torch.manual_seed(seed)
    sizes: dict = {
        "model_channels": 16,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_downsamples": (2,),
        "head_channels": 8,
        "context_dim": 12,
        "init_attention_heads": 2,
        "text_tokens": 3,
        "frame_tokens": 2,
        "norm_groups": 4,
        "dropout": 0.0,
    }
    unet = UNet(**(sizes | options))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return unet


def inputs(batch: int = 2, frames: int = T, tokens: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 8, frames, H, W, generator=generator)
    return sample, torch.arange(batch) * 100 + 50, torch.randn(batch, tokens, 12, generator=generator)


def test_a_new_unet_predicts_zero() -> None:
    torch.manual_seed(0)
    fresh = UNet(model_channels=16, channel_mult=(1,), head_channels=8, context_dim=12, text_tokens=3, norm_groups=4)
    with torch.no_grad():
        assert not fresh(*inputs()).sample.any()


def test_structure_equal_to_the_condition_changes_nothing_and_another_does() -> None:
    unet, (sample, timesteps, context) = small(), inputs()
    with torch.no_grad():
        plain = unet(sample, timesteps, context).sample
        assert torch.equal(unet(sample, timesteps, context, structure=sample[:, 4:]).sample, plain)
        assert not torch.allclose(unet(sample, timesteps, context, structure=-sample[:, 4:]).sample, plain)


def test_structure_guidance_is_the_larger_of_the_two_first_features() -> None:
    unet, (sample, _, _) = small(), inputs()
    structure = torch.randn(2, 4, T, H, W, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        one = unet.first_features(sample)
        other = unet.first_features(torch.cat([sample[:, :4], structure], dim=1))
        assert torch.equal(unet.first_features(sample, structure), torch.maximum(one, other))


@pytest.mark.parametrize("tokens", [8, 3 + 2 * T])
def test_clips_of_a_batch_do_not_see_each_other(tokens: int) -> None:
    unet, (sample, timesteps, context) = small(), inputs(tokens=tokens)
    fps = torch.tensor([10, 24])
    with torch.no_grad():
        both = unet(sample, timesteps, context, fps).sample
        for i in range(2):
            row = slice(i, i + 1)
            alone = unet(sample[row], timesteps[row], context[row], fps[row]).sample
            torch.testing.assert_close(alone, both[row], rtol=1e-4, atol=1e-5)


def test_every_input_matters() -> None:
    unet, (sample, timesteps, context) = small(), inputs()
    with torch.no_grad():
        plain = unet(sample, timesteps, context).sample
        assert torch.equal(unet(sample, timesteps, context, torch.full((2,), 10)).sample, plain)
        for changed in (
            unet(sample, timesteps + 1, context),
            unet(sample, timesteps, context, torch.full((2,), 11)),
            unet(sample, timesteps, torch.cat([context[:, :-1], -context[:, -1:]], dim=1)),
            unet(sample, timesteps, torch.cat([-context[:, :1], context[:, 1:]], dim=1)),
        ):
            assert not torch.allclose(changed.sample, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_any_number_of_frames_works(frames: int) -> None:
    sample, timesteps, context = inputs(batch=1, frames=frames)
    with torch.no_grad():
        assert small()(sample, timesteps, context).sample.shape == (1, 4, frames, H, W)


def test_memory_layout_of_weights_and_input_does_not_change_the_result() -> None:
    unet, (sample, timesteps, context) = small(), inputs()
    with torch.no_grad():
        plain = unet(sample, timesteps, context).sample
        strided = sample.to(memory_format=torch.channels_last_3d)
        result = unet.to(memory_format=torch.channels_last)(strided, timesteps, context).sample
    torch.testing.assert_close(result, plain, rtol=1e-4, atol=1e-5)
    assert result.is_contiguous()


def test_bfloat16_autocast_stays_near_float32() -> None:
    unet, (sample, timesteps, context) = small(), inputs()
    with torch.no_grad():
        plain = unet(sample, timesteps, context).sample
        with torch.autocast("cpu", torch.bfloat16):
            rounded = unet(sample, timesteps, context).sample
        pure = small().to(torch.bfloat16)(sample, timesteps, context).sample
    assert rounded.dtype == pure.dtype == torch.bfloat16
    for value in (rounded, pure):
        assert (value.float() - plain).norm() / plain.norm() < 0.05


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = small()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        sample, timesteps, context = inputs()
        unet(sample, timesteps, context.requires_grad_()).sample.square().mean().backward()
        gradients.append([context.grad, *(p.grad for p in unet.parameters())])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_saving_and_loading_changes_no_bit(tmp_path: Path) -> None:
    unet = small().eval()
    unet.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    loaded = UNet.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(*inputs()).sample, unet(*inputs()).sample)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of head_channels=24"):
        small(head_channels=24)
    unet, (sample, timesteps, context) = small(), inputs()
    for arguments, message in (
        ((sample[:, :4], timesteps, context), r"expected \[B, 8, T, h, w\]"),
        ((sample[..., 1:], timesteps, context), "multiples of 2"),
        ((sample, timesteps[:1], context), r"timesteps is \(1,\); expected \[2\]"),
        ((sample, timesteps, context[..., 1:]), r"expected \[2, L, 12\]"),
        ((sample, timesteps, context[:, :3]), "at least 1 image token"),
        ((sample, timesteps, context, None, sample), "structure is"),
    ):
        with pytest.raises(ValueError, match=message):
            unet(*arguments)


@pytest.mark.parametrize("tokens", [8, 3 + 2 * T])
def test_a_context_prepared_once_gives_what_the_context_gives(tokens: int) -> None:
    unet, (sample, timesteps, context) = small(), inputs(tokens=tokens)
    with torch.inference_mode():
        prepared = unet.prepare_context(context, T)
        for values in (sample, -sample):
            expected = unet(values, timesteps, context).sample
            assert torch.equal(unet(values, timesteps, prepared).sample, expected)


def test_frames_of_a_shorter_clip_read_the_tokens_that_they_were_trained_with() -> None:
    unet, (sample, timesteps, context) = small(), inputs(tokens=3 + 2 * T)
    short = sample[:, :, : T - 1]
    with torch.inference_mode():
        found = unet(short, timesteps, unet.prepare_context(context, T - 1, trained_frames=T)).sample
        torch.testing.assert_close(found, unet(short, timesteps, context[:, : 3 + 2 * (T - 1)]).sample)
        # Trained with shared tokens: a clip whose length would split them does not.
        shared = unet.prepare_context(context, T, trained_frames=T + 1)
        torch.testing.assert_close(shared.image, context[:, None, 3:])


def test_a_context_prepared_for_other_clips_is_refused() -> None:
    unet, (sample, timesteps, context) = small(), inputs(tokens=3 + 2 * T)
    with torch.inference_mode():
        with pytest.raises(ValueError, match="prepared for 2 clips of 3 frames, sample has 2 of 2"):
            unet(sample[:, :, :2], timesteps, unet.prepare_context(context, T))
        with pytest.raises(ValueError, match="prepared for 1 clips .* sample has 2"):
            unet(sample, timesteps, unet.prepare_context(context[:1], T))


def test_wide_layers_give_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    unet, given = small(), inputs()
    with torch.inference_mode():
        whole = unet(*given).sample
        monkeypatch.setattr(attention, "TOKENS_AT_A_TIME", 7)
        torch.testing.assert_close(unet(*given).sample, whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_clip_comes_out_the_same_in_any_batch(dtype: torch.dtype) -> None:
    unet, (sample, timesteps, context) = small().to(dtype).eval(), inputs()
    with torch.inference_mode():
        both = unet(sample, timesteps, context).sample.float()
        alone = unet(sample[:1], timesteps[:1], context[:1]).sample.float()
    assert (both[:1] - alone).norm() < 1e-5 * alone.norm()


def test_an_attention_that_is_not_installed_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="sdpa, xformers"):
        set_attention_backend(small(), "flash")  # type: ignore[arg-type]
    if find_spec("xformers") is None:
        with pytest.raises(InputError, match="xformers is not installed: pip install"):
            set_attention_backend(small(), "xformers")
