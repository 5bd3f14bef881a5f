"""Training from clips in pixels."""

from pathlib import Path

import pytest
import torch
from torchvision.io import read_image

from cus.conditioning import Layers
from cus.datasets.clips import Clip, save_clip
from cus.diffusion import Objective
from cus.errors import InputError
from cus.training import config
from cus.training.clip_crops import LayeredCrops
from cus.training.decoder import DecoderConfig, DecoderStage
from cus.training.unet import UNetConfig, UNetStage

ROOT = Path(__file__).resolve().parents[2]


def write_clips(folder: Path, layers: bool = True, size: tuple[int, int] = (24, 32), frames: int = 3) -> Path:
    """Clips in which everything shows the same picture."""
    for seed in range(2):
        picture = torch.rand(frames, 3, *size, generator=torch.Generator().manual_seed(seed))
        warps, masks = picture[:, None].repeat(1, 2, 1, 1, 1), torch.ones(frames, 2, *size, dtype=torch.bool)
        found = Layers(warps, masks, picture[:, 0]) if layers else None
        clip = Clip(picture[:1], picture, picture, masks[:, 0], None, {}, found)
        save_clip(folder / f"{seed}.safetensors", clip)
    return folder


def test_windows_turns_and_mirrors_are_the_same_for_all_maps_of_an_item(tmp_path) -> None:
    crops = LayeredCrops(write_clips(tmp_path), 2, (16, 16), seed=1, layers=2, reference_size=8)
    for index in range(6):
        item = crops[index]
        assert item["targets"].shape == (2, 3, 16, 16) and item["reference"].shape == (3, 8, 8)
        assert torch.equal(item["targets"], item["conditioning"])
        assert torch.equal(item["targets"], item["layer_images"][:, 1])
        assert torch.equal(item["targets"][:, 0], item["gate"])
        assert (item["layer_masks"] == 1).all()
    assert all(torch.equal(crops[3][name], crops[3][name]) for name in crops[3])
    assert not torch.equal(crops[0]["targets"], crops[1]["targets"])


def test_a_clip_shorter_than_a_window_repeats_its_last_frame(tmp_path) -> None:
    item = LayeredCrops(write_clips(tmp_path, frames=1), 3, (8, 12), 0, layers=1, reference_size=8)[0]
    assert item["targets"].shape == (3, 3, 8, 12) and torch.equal(item["targets"][0], item["targets"][2])
    assert item["layer_images"].shape == (3, 1, 3, 8, 12)


def test_clips_without_layers_are_refused_where_the_model_reads_them(tmp_path) -> None:
    with pytest.raises(InputError, match="no condition layers"):
        LayeredCrops(write_clips(tmp_path, layers=False), 1, (8, 8), 0, layers=2, reference_size=8)


def small_stage(clips: Path, *more: str) -> UNetStage:
    small = ["model.unet.model_channels=16", "model.unet.channel_mult=[1,1]", "model.unet.norm_groups=4"]
    small += ["model.unet.head_channels=8", "model.unshuffle=2"]
    small += ["crop=[8,8]", "frames=2", "loop.precision=float32"]
    small += [f"out={clips / 'run'}", f"clips={clips}", *more]
    return UNetStage(config.resolve(UNetConfig, ROOT / "configs/mini/unet.yaml", small))


def batch_of(stage: UNetStage) -> dict[str, torch.Tensor]:
    items = [stage.dataset()[index] for index in range(2)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


@pytest.mark.parametrize("stills", [0, 1])
def test_a_new_model_answers_with_its_condition_and_learns_from_what_differs(tmp_path, stills: int) -> None:
    stage = small_stage(write_clips(tmp_path), f"stills_share={stills}")
    batch = batch_of(stage)
    # Targets equal the condition, and a new model adds nothing to it: what is left is Charbonnier's epsilon.
    loss = stage.loss(stage.module, batch, torch.Generator().manual_seed(0))
    assert float(loss.detach()) == pytest.approx(2e-3, rel=1e-3)
    batch["targets"] = 0.9 * batch["targets"]
    loss = stage.loss(stage.module, batch, torch.Generator().manual_seed(0))
    loss.backward()
    gradient = stage.pipeline.unet.conv_out.weight.grad
    assert float(loss.detach()) > 0.02 and gradient is not None and gradient.any()


def test_v_prediction_learns_from_clips_too(tmp_path) -> None:
    stage = small_stage(write_clips(tmp_path), "objective.pixels=false", "objective.last_share=0", "sampling.noise=1")
    assert float(stage.loss(stage.module, batch_of(stage), torch.Generator().manual_seed(0)).detach()) > 0


def test_held_out_clips_are_scored_beside_their_conditioning(tmp_path) -> None:
    (tmp_path / "held_out").mkdir()
    held_out = write_clips(tmp_path / "held_out", size=(64, 64), frames=1)
    stage = small_stage(write_clips(tmp_path), f"held_out={held_out}", "held_out_clips=1")
    scores = stage.sample(tmp_path / "samples", 5)
    assert scores["psnr"] > 60 and scores["ssim"] == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "samples" / "step-00000005.png").is_file()


def test_held_out_clips_may_differ_in_size(tmp_path) -> None:
    held_out = tmp_path / "held_out"
    for name, size in (("wide", (40, 64)), ("tall", (64, 41))):
        (held_out / name).mkdir(parents=True)
        write_clips(held_out / name, size=size, frames=1)
        (held_out / name / "0.safetensors").rename(held_out / f"{name}.safetensors")
    stage = small_stage(write_clips(tmp_path), f"held_out={held_out}", "held_out_clips=2")
    assert stage.sample(tmp_path / "samples", 1)["psnr"] > 60
    picture = read_image(str(tmp_path / "samples" / "step-00000001.png"))
    assert picture.shape == (3, 2 * 66 + 2, 3 * 66 + 2)


def test_either_clips_or_latents_are_wanted(tmp_path) -> None:
    with pytest.raises(InputError, match="either latents="):
        small_stage(write_clips(tmp_path), "latents=somewhere").dataset()
    with pytest.raises(InputError, match="no condition layers"):
        small_stage(write_clips(tmp_path), "latents=somewhere", "clips=''").dataset()


def test_a_lossless_first_stage_has_no_decoder_to_train(tmp_path) -> None:
    stage = small_stage(write_clips(tmp_path))
    stage.export(tmp_path / "export")
    settings = DecoderConfig(str(tmp_path / "out"), str(tmp_path / "export"), str(tmp_path), str(tmp_path))
    with pytest.raises(InputError, match="UnshuffleAutoencoder, which has no decoder"):
        DecoderStage(settings)


def test_the_last_timestep_alone_is_drawn_where_its_share_is_one(tmp_path) -> None:
    stage = small_stage(write_clips(tmp_path))
    drawn = Objective(last_share=1.0).draw_timesteps(50, stage.pipeline.scheduler, torch.Generator().manual_seed(0))
    assert (drawn == 999).all()
    some = Objective(last_share=0.5).draw_timesteps(400, stage.pipeline.scheduler, torch.Generator().manual_seed(0))
    assert 0.4 < float((some == 999).float().mean()) < 0.6
