"""Condition layers: the warps of single references beside the image that merges them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cus.diffusion import PLANS, CloseUpShotPipeline, LatentTarget
from cus.diffusion.latents import encode
from cus.diffusion.layers import Layers, encode_layers, layer_channels, split_conditioning
from cus.diffusion.memory import Clip, measure_need, skeleton
from cus.hub.stored import open_model
from cus.models.unshuffle import UnshuffleAutoencoder
from tests.diffusion.tiny import Layered, layered, pictures, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return tiny_pipeline(residual_scale=4.0, layers=2, unshuffle=4, noise=0.0)


def test_a_warp_equal_to_the_merged_image_is_no_change_and_unseen_pixels_count_as_such() -> None:
    vae, images = UnshuffleAutoencoder(2), pictures(2, 4, 6)
    condition = encode(vae, images)
    warps = torch.stack([images, pictures(2, 4, 6, seed=5)], dim=1)
    masks = torch.stack([torch.ones(2, 4, 6), torch.zeros(2, 4, 6)], dim=1)
    made = encode_layers(vae, Layers(warps, masks, torch.ones(2, 4, 6)), images, condition, LatentTarget(4.0))
    first, mask, second, unseen, gate = made.split([12, 4, 12, 4, 4], dim=1)
    assert made.shape[1] == layer_channels(2, 12, 2)
    assert not first.any() and not second.any()
    assert (mask == 1).all() and (unseen == -1).all() and (gate == 1).all()


def test_without_a_residual_layers_are_the_latents_of_the_warps() -> None:
    vae, given = UnshuffleAutoencoder(2), layered(2, 4, 6)
    shown = replace(given.layers, masks=torch.ones(2, 2, 4, 6))
    made = encode_layers(vae, shown, given.images, encode(vae, given.images), LatentTarget(0.0))
    torch.testing.assert_close(made[:, :12], encode(vae, given.layers.images[:, 0]))


@pytest.mark.parametrize("part", ["images", "masks", "gate"])
def test_every_layer_mask_and_gate_matters(pipeline, part: str) -> None:
    given = layered()
    before = pipeline(pictures(1), given)
    value = getattr(given.layers, part)
    for index in (0, 1) if part != "gate" else (None,):
        changed = value.clone()
        where = changed if index is None else changed[:, index]
        where.copy_(~where if where.dtype == torch.bool else 1 - where)
        other = Layered(given.images, replace(given.layers, **{part: changed}))
        assert not torch.allclose(before, pipeline(pictures(1), other), atol=1e-4)


@pytest.mark.parametrize(("height", "width", "frames"), [(16, 24, 3), (17, 21, 2), (16, 24, 9)])
def test_layered_frames_have_any_size_and_length(pipeline, height: int, width: int, frames: int) -> None:
    made = pipeline(pictures(1), layered(frames, height, width))
    assert made.shape == (frames, 3, height, width) and torch.isfinite(made).all()


def test_the_second_pass_keeps_the_layers(pipeline) -> None:
    given, structure = layered(), pictures(seed=3)
    guided = pipeline(pictures(1), given, structure)
    other = Layered(given.images, layered(seed=8).layers)
    assert not torch.allclose(guided, pipeline(pictures(1), given), atol=1e-4)
    assert not torch.allclose(guided, pipeline(pictures(1), other, structure), atol=1e-4)


def test_without_noise_no_seed_changes_a_frame(pipeline) -> None:
    made = [pipeline(pictures(1), layered(), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.equal(*made)


def test_a_silent_model_without_noise_gives_the_merged_images_back() -> None:
    silent = tiny_pipeline(residual_scale=4.0, layers=1, unshuffle=4, noise=0.0)
    torch.nn.init.zeros_(silent.unet.conv_out.weight)
    torch.nn.init.zeros_(silent.unet.conv_out.bias)
    made = silent(pictures(1), layered(), steps=1)
    torch.testing.assert_close(made, layered().images, rtol=0, atol=1e-5)


def test_a_silent_model_that_wants_holes_filled_continues_their_surroundings() -> None:
    silent = tiny_pipeline(residual_scale=4.0, unshuffle=4, noise=0.0, fill_holes=True)
    torch.nn.init.zeros_(silent.unet.conv_out.weight)
    torch.nn.init.zeros_(silent.unet.conv_out.bias)
    holed = torch.full((2, 3, 16, 16), 0.7)
    holed[:, :, 3:8, 5:9] = 0
    made = silent(pictures(1), holed, steps=1)
    torch.testing.assert_close(made, torch.full_like(holed, 0.7), rtol=0, atol=1e-4)


def test_images_alone_are_refused_by_a_checkpoint_that_reads_layers(pipeline) -> None:
    with pytest.raises(ValueError, match="reads 2 layer"):
        pipeline(pictures(1), pictures())
    given = layered()
    with pytest.raises(ValueError, match="expected"):
        split_conditioning(Layered(given.images[:2], given.layers), 2)


def test_a_warp_without_layers_shows_what_no_reference_sees(pipeline) -> None:
    given = layered()
    unseen = Layers(given.layers.images, torch.zeros_like(given.layers.masks), torch.zeros_like(given.layers.gate))
    plain, blank = (pipeline(pictures(1), Layered(given.images, layers)) for layers in (None, unseen))
    torch.testing.assert_close(plain, blank, rtol=0, atol=1e-6)
    assert not torch.equal(plain, pipeline(pictures(1), given))


def test_a_checkpoint_without_layers_takes_what_has_them() -> None:
    plain = tiny_pipeline()
    assert torch.equal(plain(pictures(1), layered()), plain(pictures(1), pictures()))


def test_a_unet_of_another_number_of_channels_is_refused() -> None:
    made = tiny_pipeline(layers=1, unshuffle=2)
    parts = {name: part for name, part in made.components.items()}
    told = "with 2 condition layers has out_channels 12 and in_channels 60.* reads sampling.layers=1"
    with pytest.raises(ValueError, match=told):
        CloseUpShotPipeline(**parts, sampling={"layers": 2})  # pyright: ignore[reportArgumentType]


def test_a_saved_layered_pipeline_loads_to_the_same_frames_and_its_memory_is_measured(pipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    loaded = CloseUpShotPipeline.from_pretrained(tmp_path / "model")
    assert isinstance(loaded.vae, UnshuffleAutoencoder) and loaded.sampling == pipeline.sampling
    torch.testing.assert_close(loaded(pictures(1), layered()), pipeline(pictures(1), layered()), rtol=0, atol=1e-4)
    need = measure_need(skeleton(open_model(tmp_path / "model")), Clip(3, 64, 64), PLANS["middle"])
    assert need.working > 0 and need.weights["vae"] < 100
