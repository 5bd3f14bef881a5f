"""Training from clips in pixels."""

from pathlib import Path

import pytest
import torch
from torchvision.io import read_image

from cus.conditioning import Layers
from cus.datasets.clips import Clip, Warp, save_clip
from cus.diffusion import Objective
from cus.errors import InputError
from cus.training import config
from cus.training.clip_crops import LayeredCrops
from cus.training.decoder import DecoderConfig, DecoderStage
from cus.training.unet import LEAST_ERROR, UNetConfig, UNetStage

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


def test_holes_are_filled_where_the_model_wants_them_filled(tmp_path) -> None:
    picture = torch.full((1, 3, 16, 16), 0.6)
    masks = torch.ones(1, 16, 16, dtype=torch.bool)
    masks[:, 4:9, 5:11] = False
    save_clip(tmp_path / "a.safetensors", Clip(picture, picture, picture * masks[:, None], masks, None, {}))
    black, filled = (LayeredCrops(tmp_path, 1, (16, 16), 0, 0, 8, fill=fill)[0] for fill in (False, True))
    assert (black["conditioning"] == 0).any() and "masks" not in filled
    torch.testing.assert_close(filled["conditioning"], filled["targets"], rtol=0, atol=1e-5)


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
    assert float(loss.detach()) == pytest.approx(2e-3 / (2e-3 + LEAST_ERROR), rel=1e-3)
    batch["targets"] = 0.5 + 0.8 * (batch["targets"] - 0.5)
    loss = stage.loss(stage.module, batch, torch.Generator().manual_seed(0))
    loss.backward()
    gradient = stage.pipeline.unet.conv_out.weight.grad
    # The condition's own error over itself.
    assert 0.8 < float(loss.detach()) < 1 and gradient is not None and gradient.any()


def test_single_pictures_leave_the_layers_over_time_alone(tmp_path) -> None:
    stage = small_stage(write_clips(tmp_path), "frames=1")
    batch = batch_of(stage)
    batch["targets"] = 0.5 + 0.8 * (batch["targets"] - 0.5)
    optimizer = torch.optim.SGD([p for p in stage.module.parameters() if p.requires_grad], 1.0)
    for _ in range(2):
        optimizer.zero_grad()
        stage.loss(stage.module, batch, torch.Generator().manual_seed(0)).backward()
        optimizer.step()
    unet = stage.pipeline.unet.eval()
    sample = torch.randn(1, unet.config.in_channels, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    context = torch.zeros(1, 6, unet.config.context_dim)
    rest = torch.tensor([999]), context, torch.tensor([10])
    with torch.no_grad():
        one, three = (unet(sample.repeat(1, 1, t, 1, 1), *rest).sample for t in (1, 3))
    assert one.abs().max() > 1e-4
    # Random layers over time would let the neighbours in.
    torch.testing.assert_close(three, one.repeat(1, 1, 3, 1, 1), rtol=1e-4, atol=1e-5)


def test_a_loss_may_be_absolute(tmp_path) -> None:
    stage = small_stage(write_clips(tmp_path), "objective.relative=false")
    batch = batch_of(stage)
    assert float(stage.loss(stage.module, batch, torch.Generator().manual_seed(0)).detach()) == pytest.approx(2e-3)


def test_the_exposure_of_a_target_teaches_nothing(tmp_path) -> None:
    stage = small_stage(write_clips(tmp_path))
    batch = batch_of(stage)
    batch["targets"] = 0.4 + 0.2 * batch["targets"]
    batch["conditioning"] = batch["targets"].clone()
    batch["conditioning"][..., :3] = 0  # a hole, of which no exposure is known
    tinted = batch | {"targets": batch["targets"] + torch.tensor([0.1, -0.05, 0.02])[:, None, None]}
    losses = [stage.loss(stage.module, b, torch.Generator().manual_seed(0)).detach() for b in (batch, tinted)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)


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


def write_several(folder: Path, structure: bool = True) -> Path:
    """Clips whose own conditioning is the target, and darker in another warp and in the structure image."""
    folder.mkdir()
    for seed in range(2):
        picture = torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(seed))
        masks = torch.ones(3, 24, 32, dtype=torch.bool)
        layers = Layers(picture[:, None].repeat(1, 2, 1, 1, 1), masks[:, None].repeat(1, 2, 1, 1), picture[:, 0])
        # The second clip has no structure image.
        guide = 0.25 * picture if structure and seed == 0 else None
        others = {"low": Warp(0.5 * picture, masks)}
        save_clip(folder / f"{seed}.safetensors", Clip(picture[:1], picture, picture, masks, guide, {}, layers, others))
    return folder


def test_models_of_other_conditionings_see_the_same_windows(tmp_path) -> None:
    clips = write_several(tmp_path / "clips")
    own = LayeredCrops(clips, 2, (16, 16), 1, layers=2, reference_size=8)
    low = LayeredCrops(clips, 2, (16, 16), 1, layers=0, reference_size=8, conditioning="low", structure_share=0.6)
    guided = 0
    for index in range(12):
        item, other = own[index], low[index]
        assert torch.equal(item["targets"], other["targets"])
        torch.testing.assert_close(other["conditioning"], 0.5 * item["targets"], rtol=0, atol=1 / 255)
        guided += bool(other["guided"])
        expected = 0.25 * item["targets"] * other["guided"]
        torch.testing.assert_close(other["structure"], expected, rtol=0, atol=1 / 255)
    assert 0 < guided < 12
    with pytest.raises(InputError, match="0.safetensors has no conditioning 'high'"):
        LayeredCrops(clips, 2, (16, 16), 1, layers=0, reference_size=8, conditioning="high")
    with pytest.raises(InputError, match="set sampling.layers=0"):
        LayeredCrops(clips, 2, (16, 16), 1, layers=2, reference_size=8, conditioning="low")


@pytest.mark.parametrize("stills", [0, 1])
def test_the_second_pass_is_learnt_from_clips_with_structure(tmp_path, stills: int) -> None:
    clips = write_several(tmp_path / "clips")
    stage = small_stage(clips, f"stills_share={stills}", "structure_share=1")
    batch = batch_of(stage)
    batch["guided"] = torch.tensor([True, False])
    torch.nn.init.normal_(stage.pipeline.unet.conv_out.weight, generator=torch.Generator().manual_seed(1))

    def losses(changed: dict[str, torch.Tensor]) -> float:
        return float(stage.loss(stage.module, batch | changed, torch.Generator().manual_seed(0)).detach())

    plain = losses({"guided": torch.tensor([False, False])})
    assert losses({}) != pytest.approx(plain, rel=1e-5)
    # An item without a structure image learns the first pass, whatever stands in its place.
    noise = torch.rand(batch["structure"].shape, generator=torch.Generator().manual_seed(2))
    noise[0] = batch["structure"][0]
    assert losses({"structure": noise}) == losses({})
    # What passes for structure and equals the condition changes nothing.
    assert losses({"structure": batch["conditioning"]}) == pytest.approx(plain, rel=1e-5)


def test_held_out_clips_are_scored_with_and_without_their_structure(tmp_path) -> None:
    clips = write_several(tmp_path / "clips")
    stage = small_stage(clips, f"held_out={clips}", "structure_share=1")
    scores = stage.sample(tmp_path / "samples", 5)
    # A new model answers with its condition, whatever guides it.
    assert scores["psnr_guided"] == pytest.approx(scores["psnr"], abs=60) and scores["psnr_guided"] > 50
    darker = small_stage(clips, f"held_out={clips}", "structure_share=0", "conditioning=low", "sampling.layers=0")
    scores = darker.sample(tmp_path / "samples", 6)
    assert scores["psnr"] < 20 and "psnr_guided" not in scores
