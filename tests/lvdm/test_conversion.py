"""A whole checkpoint to a folder and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from open_clip import get_model_config
from open_clip.model import CLIP
from safetensors.torch import load_file, save_file
from torch import Tensor

from cus.diffusion.context import ContextEncoder
from cus.diffusion.pipeline import CloseUpShotPipeline
from cus.diffusion.schedule import NoiseSchedule
from cus.lvdm import (
    image_encoder_from_lvdm,
    image_projector_from_lvdm,
    load_lvdm_checkpoint,
    unet_from_lvdm,
    vae_from_lvdm,
)
from cus.lvdm.config import LVDMConfig, schedule_buffers
from cus.lvdm.conversion import ConversionOptions, assembled, convert_checkpoint
from cus.lvdm.export import export_checkpoint
from cus.lvdm.names import VIEWCRAFTER_PROJECTOR, VIEWCRAFTER_UNET, VIEWCRAFTER_VAE
from tests.lvdm.test_assembling import golden
from tests.lvdm.tiny_checkpoint import IMAGE_TOWER, PROJECTOR, UNET, VAE, tiny_tensors, yaml_config

GOLDEN = Path(__file__).parent.parent / "golden"


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Every stored tensor, as `component/name`."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        found |= {f"{file.parent.name}/{name}": tensor for name, tensor in load_file(file).items()}
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def full_size_names() -> dict[str, Tensor]:
    """A checkpoint at full size on the meta device: the reference's list, open_clip's towers, and the schedule."""
    listed = json.loads((GOLDEN / "viewcrafter_checkpoint_keys.json").read_text())
    config: Any = get_model_config("ViT-H-14")
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in listed.items()}
        clip = CLIP(**config).state_dict()
    tensors |= {f"cond_stage_model.model.{name}": t for name, t in clip.items() if not name.startswith("visual.")}
    tensors |= {f"embedder.model.{name}": t for name, t in clip.items() if not name.startswith("transformer.")}
    return tensors | schedule_buffers(NoiseSchedule())


def test_the_whole_checkpoint_at_full_size_has_nothing_missing_and_nothing_left_over() -> None:
    tensors = full_size_names()
    model = assembled(tensors, LVDMConfig())
    counts = [
        sum(p.numel() for p in network.parameters())
        for network in (model.unet, model.vae, model.image_projector, model.image_encoder, model.text_encoder)
    ]
    # The list's own sums, and open_clip's figures for ViT-H-14: 632.08 M and 354.03 M, less the loss's scale.
    assert counts[:3] == [1_438_854_980, 83_653_863, 48_787_456]
    assert [round(count / 1e6, 2) for count in counts[3:]] == [632.08, 354.03]
    assert not model.notes


def test_viewcrafter_s_own_config_file_asks_for_the_sizes_that_are_the_default(tmp_path: Path) -> None:
    told = yaml_config()
    told["model"]["params"] |= {"image_size": [72, 128], "loop_video": "Flase", "uncond_prob": 0.05}
    # Its file says 16 frames, though the weights were trained with 25.
    told["model"]["params"]["unet_config"] = {
        "params": VIEWCRAFTER_UNET | {"use_checkpoint": True, "temporal_length": 16}
    }
    told["model"]["params"]["first_stage_config"]["params"]["ddconfig"] = VIEWCRAFTER_VAE
    told["model"]["params"]["image_proj_stage_config"]["params"] = VIEWCRAFTER_PROJECTOR
    OmegaConf.save(OmegaConf.create(told), tmp_path / "inference.yaml")
    config, tensors = LVDMConfig.read(tmp_path / "inference.yaml"), full_size_names()
    assert (config.width, config.height) == (1024, 576)
    read, default = assembled(tensors, config), assembled(tensors, LVDMConfig())
    for part in ("unet", "vae", "image_encoder", "image_projector", "text_encoder", "schedule"):
        asked, known = (
            {key: value for key, value in getattr(model, part).config.items() if not key.startswith("_")}
            for model in (read, default)
        )
        assert asked == known


@pytest.mark.parametrize(("module", "convert"), [("unet_tiny", unet_from_lvdm), ("vae_tiny", vae_from_lvdm)])
@torch.no_grad()
def test_float16_changes_the_networks_far_less_than_bfloat16(module: str, convert: Any) -> None:
    weights, config, io = golden(module)
    errors = []
    for dtype in (torch.float16, torch.bfloat16):
        network = convert({name: tensor.to(dtype).float() for name, tensor in weights.items()}, config)
        if module == "unet_tiny":
            made, expected = network(io["x"], io["timesteps"], io["context"], io["fs"]).sample, io["output"]
        else:
            made, expected = network.decode(io["z"]).sample, io["decoded"]
        errors.append(float((made - expected).norm() / expected.norm()))
    assert errors[0] < 3e-3 and errors[1] > 5 * errors[0]


def test_the_pipeline_of_the_folder_holds_the_checkpoint_s_tensors_bit_by_bit(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path
) -> None:
    original = load_lvdm_checkpoint(tiny_lvdm[0])
    pipeline = CloseUpShotPipeline.from_pretrained(tiny_model)
    expected = unet_from_lvdm(original, UNET).float().state_dict()
    assert same(dict(pipeline.unet.state_dict()), dict(expected))
    image = torch.rand(1, 3, 60, 80, generator=torch.Generator().manual_seed(0))
    encoder = image_encoder_from_lvdm(original, **IMAGE_TOWER, blur_first=True).float()
    projector = image_projector_from_lvdm(original, PROJECTOR).float()
    kept = torch.zeros(1, dtype=torch.bool)
    with torch.no_grad():
        context = ContextEncoder(pipeline.prompt, pipeline.image_encoder, pipeline.image_projector)(image, kept, kept)
        torch.testing.assert_close(context[:, 77:], projector(encoder(image)))
    assert context.shape == (1, 77 + 16, 32)


def test_prompts_are_those_of_the_text_tower(tiny_lvdm: tuple[Path, Path], tiny_model: Path) -> None:
    model = assembled(load_lvdm_checkpoint(tiny_lvdm[0]), LVDMConfig.read(tiny_lvdm[1]))
    encoder = model.text_encoder.float()
    with torch.no_grad():
        expected = encoder(encoder.tokenize(["Rotating view of a scene", ""]))
    stored = load_file(tiny_model / "prompt" / "diffusion_pytorch_model.safetensors")
    both = torch.cat([stored["positive"], stored["negative"]]).float()
    torch.testing.assert_close(both, expected, rtol=1e-3, atol=1e-3)
    assert (both[0] - both[1]).abs().max() > 0.1


def test_it_is_sampled_as_viewcrafter_is(tiny_model: Path) -> None:
    pipeline = CloseUpShotPipeline.from_pretrained(tiny_model)
    own = pipeline.sampling
    assert (own.steps, own.eta, own.guidance, own.guidance_rescale) == (50, 1.0, 7.5, 0.7)
    assert (own.frames, own.width, own.height, own.fps) == (5, 128, 128, 10)
    assert (own.residual_scale, own.second_pass, own.conditioning) == (0.0, False, "points")
    assert torch.equal(pipeline.scheduler.alpha_bar, NoiseSchedule().alpha_bar)
    assert pipeline.vae.config["scaling_factor"] == 0.18215


def test_there_and_back_changes_no_bit(tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    original = load_lvdm_checkpoint(tiny_lvdm[0])
    for target in (tmp_path / "back.ckpt", tmp_path / "back.safetensors"):
        made = export_checkpoint(tiny_model, target)
        back = load_lvdm_checkpoint(target)
        left_out = {name for name in original if name not in back}
        assert same(back, {name: tensor for name, tensor in original.items() if name not in left_out})
        assert all(name.startswith(("cond_stage_model.", "embedder.model.")) for name in left_out)
        assert not any(name.startswith("embedder.model.visual.") for name in left_out)
        assert "text tower is left out" in made.notes[0]
        made = export_checkpoint(tiny_model, target, complete_from=tiny_lvdm[0], overwrite=True)
        assert same(load_lvdm_checkpoint(target), original)
        assert not made.notes


def test_a_finetuned_pipeline_with_a_skip_decoder_goes_back_without_its_skips(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    original = load_lvdm_checkpoint(tiny_lvdm[0])
    pipeline = CloseUpShotPipeline.from_pretrained(tiny_model)
    pipeline.register_modules(vae=vae_from_lvdm(original, VAE, skip=True).float())
    with torch.no_grad():
        pipeline.unet.conv_out.bias += 1
    pipeline.save_pretrained(tmp_path / "tuned")
    made = export_checkpoint(tmp_path / "tuned", tmp_path / "back.ckpt", complete_from=tiny_lvdm[0])
    assert made.notes == ["the decoder's skip convolutions are left out: ViewCrafter has none"]
    back = load_lvdm_checkpoint(tmp_path / "back.ckpt")
    name = "model.diffusion_model.out.2.bias"
    assert back.keys() == original.keys()
    assert torch.equal(back[name], original[name].float() + 1)
    assert all(torch.equal(back[key].to(tensor.dtype), tensor) for key, tensor in original.items() if key != name)


def test_a_checkpoint_in_another_precision_keeps_its_schedule_exact(tiny_model: Path, tmp_path: Path) -> None:
    exact = schedule_buffers(NoiseSchedule())
    for target in (tmp_path / "back.ckpt", tmp_path / "back.safetensors"):
        export_checkpoint(tiny_model, target, dtype=torch.bfloat16)
        back = load_lvdm_checkpoint(target)
        assert same({name: back[name] for name in exact}, exact)
        assert {tensor.dtype for name, tensor in back.items() if name not in exact} == {torch.bfloat16}
    assert {path.name for path in tmp_path.iterdir()} == {"back.ckpt", "back.safetensors"}


def test_all_layouts_of_a_checkpoint_give_the_same_folder(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    tensors, config = load_lvdm_checkpoint(tiny_lvdm[0]), LVDMConfig.read(tiny_lvdm[1])
    older = {name.replace("fps_embedding", "framestride_embed"): tensor for name, tensor in tensors.items()}
    assert older.keys() != tensors.keys()
    torch.save({"state_dict": older}, tmp_path / "older.ckpt")
    torch.save({"module": {f"_forward_module.{n}": t for n, t in tensors.items()}}, tmp_path / "deepspeed.ckpt")
    save_file(tensors, tmp_path / "model.safetensors")
    expected = folder_tensors(tiny_model)
    for file in ("older.ckpt", "deepspeed.ckpt", "model.safetensors"):
        convert_checkpoint(tmp_path / file, tmp_path / "out", config, ConversionOptions(frames=5, overwrite=True))
        assert same(folder_tensors(tmp_path / "out"), expected)


def test_shards_hold_what_one_file_holds_and_none_is_larger_than_asked(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    options = ConversionOptions(frames=5, shard_bytes=1_000_000)
    convert_checkpoint(tiny_lvdm[0], tmp_path / "sharded", LVDMConfig.read(tiny_lvdm[1]), options)
    shards = sorted((tmp_path / "sharded" / "unet").glob("*.safetensors"))
    assert len(shards) > 4 and all(shard.stat().st_size < 1_050_000 for shard in shards)
    assert shards[0].name == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    assert same(folder_tensors(tmp_path / "sharded"), folder_tensors(tiny_model))
    one, many = (CloseUpShotPipeline.from_pretrained(folder) for folder in (tiny_model, tmp_path / "sharded"))
    assert same(dict(one.unet.state_dict()), dict(many.unet.state_dict()))
    export_checkpoint(tmp_path / "sharded", tmp_path / "back.safetensors")
    assert export_checkpoint(tiny_model, tmp_path / "other.safetensors").parameters
    assert (tmp_path / "back.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()


def test_weights_are_rounded_to_the_asked_type(tmp_path: Path) -> None:
    tensors = tiny_tensors(torch.float32)
    config = LVDMConfig(UNET, VAE, PROJECTOR, any_towers=True, height=128, width=128)
    torch.save(tensors, tmp_path / "model.ckpt")
    expected = unet_from_lvdm(tensors, UNET).state_dict()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, None):
        options = ConversionOptions(dtype=dtype, overwrite=True)
        convert_checkpoint(tmp_path / "model.ckpt", tmp_path / "out", config, options)
        stored = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
        assert same(stored, {name: tensor.to(dtype or torch.float32) for name, tensor in expected.items()})


def test_a_moving_average_is_left_alone_and_said(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    tensors = load_lvdm_checkpoint(tiny_lvdm[0]) | {
        "model_ema.decay": torch.tensor(0.99),
        "model_ema.diffusion_modelout2bias": torch.ones(4),
    }
    torch.save({"state_dict": tensors}, tmp_path / "model.ckpt")
    config = LVDMConfig.read(tiny_lvdm[1])
    made = convert_checkpoint(tmp_path / "model.ckpt", tmp_path / "out", config, ConversionOptions(frames=5))
    assert "moving average of the U-Net (2 tensors)" in made.notes[0]
    assert same(folder_tensors(tmp_path / "out"), folder_tensors(tiny_model))


def test_progress_of_each_stage_runs_to_its_end(tiny_lvdm: tuple[Path, Path], tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}

    def note(stage: str, done: int, total: int) -> None:
        seen.setdefault(stage, []).append((done, total))

    convert_checkpoint(tiny_lvdm[0], tmp_path / "out", LVDMConfig.read(tiny_lvdm[1]), on_stage=note)
    export_checkpoint(tmp_path / "out", tmp_path / "back.safetensors", on_stage=note)
    stages = ["Text tower", "U-Net", "Autoencoder", "Image tower", "Image projector", "Prompts", "Checkpoint"]
    assert list(seen) == stages
    for reports in seen.values():
        assert reports == sorted(reports) and reports[-1][0] == reports[-1][1] > 0


def test_the_tiny_checkpoint_has_every_kind_of_name_that_the_real_one_has(tiny_lvdm: tuple[Path, Path]) -> None:
    def kinds(names: Any) -> set[str]:
        """Names with every number left out."""
        return {".".join("#" if part.isdigit() else part for part in name.split(".")) for name in names}

    assert kinds(load_lvdm_checkpoint(tiny_lvdm[0])) == kinds(full_size_names())
