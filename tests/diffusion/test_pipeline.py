"""The pipeline with tiny random networks: sizes, chunks, conditions, saving and loading."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cus.diffusion import CloseUpShotPipeline, ddim
from cus.errors import InputError
from tests.diffusion.tiny import pictures, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def saved(pipeline: CloseUpShotPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    pipeline.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("height", "width", "frames"), [(16, 24, 3), (17, 21, 2), (16, 24, 1)])
def test_frames_have_the_size_of_the_conditioning_whatever_it_is(
    pipeline, height: int, width: int, frames: int
) -> None:
    made = pipeline(pictures(2, 30, 20), pictures(frames, height, width))
    assert made.shape == (frames, 3, height, width) and made.dtype == torch.float32
    assert made.min() >= 0 and made.max() <= 1 and torch.isfinite(made).all()


def test_the_same_seed_gives_the_same_frames_and_another_seed_others(pipeline) -> None:
    made = [
        pipeline(pictures(1), pictures(), generator=torch.Generator().manual_seed(seed), eta=1.0) for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.allclose(made[0], made[2])


def test_reference_image_conditioning_and_structure_all_matter(pipeline) -> None:
    plain = pipeline(pictures(1), pictures())
    assert not torch.allclose(plain, pipeline(pictures(1, seed=9), pictures()), atol=1e-6)
    assert not torch.allclose(plain, pipeline(pictures(1), pictures(seed=9)), atol=1e-4)
    assert not torch.allclose(plain, pipeline(pictures(1), pictures(), pictures(seed=9)), atol=1e-4)


def test_guidance_one_equals_a_mix_in_which_both_branches_count_once(pipeline) -> None:
    plain = pipeline(pictures(1), pictures(), guidance=1.0)
    nearly = pipeline(pictures(1), pictures(), guidance=1.0 + 1e-6)
    torch.testing.assert_close(plain, nearly, rtol=0, atol=1e-4)
    assert not torch.allclose(plain, pipeline(pictures(1), pictures(), guidance=5.0), atol=1e-4)


def test_long_paths_are_made_in_chunks_and_progress_counts_up_to_its_total(pipeline) -> None:
    told: list[tuple[int, int]] = []
    made = pipeline(pictures(1), pictures(9), on_progress=lambda done, total: told.append((done, total)))
    assert made.shape == (9, 3, 16, 24)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == told[-1][1]
    assert not torch.equal(made[0], made[8])


@pytest.mark.slow
def test_compiled_blocks_give_the_same_frames(pipeline) -> None:
    # Tracing alone, without machine code, which takes minutes: values, keys and values of the context among them.
    compiled = tiny_pipeline().compile(backend="eager", fullgraph=True)
    made = compiled(pictures(1), pictures(), guidance=3.0)
    torch.testing.assert_close(made, pipeline(pictures(1), pictures(), guidance=3.0), rtol=0, atol=1e-5)


def test_a_residual_model_that_answers_nothing_gives_the_conditioning_back() -> None:
    silent = tiny_pipeline(residual_scale=2.0)
    torch.nn.init.zeros_(silent.unet.conv_out.weight)
    torch.nn.init.zeros_(silent.unet.conv_out.bias)
    conditioning = pictures()
    # One step from pure noise: x0 = -v = 0, and the sample is sqrt(1 - alpha_bar_0) = 0.03 of noise.
    made = silent(pictures(1), conditioning, steps=1)
    assert (made - conditioning).abs().mean() < 0.02


def test_conditioning_images_reach_a_skip_decoder() -> None:
    with_skips = tiny_pipeline(skip=True)
    before = with_skips(pictures(1), pictures())
    for convolution in with_skips.vae.skip_convs:
        torch.nn.init.normal_(convolution.weight, std=0.5)
    assert not torch.allclose(before, with_skips(pictures(1), pictures()), atol=1e-3)


def test_a_saved_pipeline_loads_to_the_same_frames_and_settings(pipeline, saved: Path) -> None:
    loaded = CloseUpShotPipeline.from_pretrained(saved)
    assert loaded.sampling == pipeline.sampling
    made = pipeline(pictures(1), pictures())
    torch.testing.assert_close(made, loaded(pictures(1), pictures()), rtol=0, atol=1e-4)
    assert not [path for path in saved.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def broken(saved: Path, folder: Path, how: str) -> Path:
    shutil.copytree(saved, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if how == "no weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "no index":
        (folder / "model_index.json").unlink()
    elif how == "bad index":
        (folder / "model_index.json").write_text("{")
    elif how == "another model":
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    elif how == "another size":
        config = folder / "unet" / "config.json"
        config.write_text(config.read_text().replace('"model_channels": 16', '"model_channels": 32'))
    return folder


@pytest.mark.parametrize("how", ["no weights", "cut weights", "no index", "bad index", "another model", "another size"])
def test_broken_folders_are_refused_with_one_clear_error(saved: Path, tmp_path: Path, how: str) -> None:
    with pytest.raises(InputError, match="model"):
        CloseUpShotPipeline.from_pretrained(broken(saved, tmp_path / "broken", how))


def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model at"):
        CloseUpShotPipeline.from_pretrained(tmp_path / "none")


def test_shapes_that_do_not_belong_together_are_refused(pipeline) -> None:
    with pytest.raises(ValueError, match="structure"):
        pipeline(pictures(1), pictures(3), pictures(2))
    with pytest.raises(ValueError, match="conditioning"):
        pipeline(pictures(1), pictures(3)[:, :2])


def test_weights_with_a_gap_are_refused_instead_of_filled_at_random(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    file = next((tmp_path / "model" / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors["another.name"] = tensors.pop(name)
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=name):
        CloseUpShotPipeline.from_pretrained(tmp_path / "model")


def test_another_sampler_may_be_put_in_its_place(pipeline):
    other = tiny_pipeline()

    def without_added_noise(*walk, eta, **options):
        return ddim(*walk, eta=0.0, **options)

    other.sampler = without_added_noise
    made = other(pictures(1), pictures(), eta=1.0)
    assert torch.equal(made, pipeline(pictures(1), pictures(), eta=0.0))
    assert not torch.allclose(made, pipeline(pictures(1), pictures(), eta=1.0), atol=1e-4)


@pytest.mark.parametrize("options", [{"residual_scale": 1.0, "skip": True}, {"unshuffle": 2}])
def test_latents_decoded_afterwards_are_the_frames_of_the_call(options) -> None:
    pipeline = tiny_pipeline(**options)
    # Sizes that are padded.
    references, conditioning = torch.rand(1, 3, 15, 22), torch.rand(3, 3, 15, 22)
    given = [torch.Generator().manual_seed(3) for _ in range(3)]
    frames = pipeline(references, conditioning, generator=given[0])
    latents = pipeline(references, conditioning, generator=given[1], output_type="latent")
    assert torch.equal(pipeline.decode_latents(latents, conditioning, generator=given[2]), frames)
    with pytest.raises(ValueError, match="latents must be"):
        pipeline.decode_latents(latents[:2], conditioning)
