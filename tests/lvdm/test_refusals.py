"""What is no usable checkpoint is refused with its reason, and nothing of it is written."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from cus.diffusion.schedule import NoiseSchedule
from cus.errors import InputError
from cus.lvdm import load_lvdm_checkpoint
from cus.lvdm.config import LVDMConfig, schedule_buffers
from cus.lvdm.conversion import ConversionOptions, convert_checkpoint, recognised
from cus.lvdm.export import export_checkpoint
from cus.models.unet import UNet
from tests.lvdm.tiny_checkpoint import yaml_config

Tensors = dict[str, Tensor]
WEIGHT = "model.diffusion_model.middle_block.0.in_layers.2.weight"


@pytest.fixture(scope="module")
def good(tiny_lvdm: tuple[Path, Path]) -> Tensors:
    return load_lvdm_checkpoint(tiny_lvdm[0])


@pytest.fixture
def config(tiny_lvdm: tuple[Path, Path]) -> LVDMConfig:
    return LVDMConfig.read(tiny_lvdm[1])


@contextmanager
def refused(folder: Path, match: str) -> Iterator[None]:
    """The block raises InputError and leaves every file and folder as it was."""

    def listing() -> dict[str, bytes | None]:
        return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    before = listing()
    with pytest.raises(InputError, match=match):
        yield
    assert listing() == before


def convert(tensors: Tensors, folder: Path, config: LVDMConfig | None, match: str, **options: Any) -> None:
    """Save tensors as a checkpoint, and see it refused."""
    torch.save({"state_dict": tensors}, folder / "model.ckpt")
    with refused(folder, match):
        convert_checkpoint(folder / "model.ckpt", folder / "out", config, ConversionOptions(**options))


def changed(tensors: Tensors, name: str, value: float) -> Tensors:
    """With one number of one tensor replaced."""
    tensor = tensors[name].clone()
    tensor.view(-1)[tensor.numel() // 2] = value
    return tensors | {name: tensor}


def test_a_file_that_was_cut_off(
    tiny_lvdm: tuple[Path, Path], good: Tensors, config: LVDMConfig, tmp_path: Path
) -> None:
    whole = tiny_lvdm[0].read_bytes()
    save_file(good, tmp_path / "whole.safetensors")
    other = (tmp_path / "whole.safetensors").read_bytes()
    for length in (0.001, 0.5, 0.9999):
        (tmp_path / "cut.ckpt").write_bytes(whole[: int(length * len(whole))])
        (tmp_path / "cut.safetensors").write_bytes(other[: int(length * len(other))])
        for name in ("cut.ckpt", "cut.safetensors"):
            with refused(tmp_path, "cut off"):
                convert_checkpoint(tmp_path / name, tmp_path / "out", config)


def test_files_of_other_kinds(config: LVDMConfig, tmp_path: Path) -> None:
    (tmp_path / "page.ckpt").write_text("<html>not found</html>")
    (tmp_path / "pointer.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    torch.save([torch.zeros(2)], tmp_path / "list.ckpt")
    torch.save({"state_dict": [1]}, tmp_path / "numbers.ckpt")
    torch.save({"epoch": 1}, tmp_path / "empty.ckpt")
    for name, match in (
        ("page.ckpt", "not a file of PyTorch 1.6"),
        ("pointer.ckpt", "git lfs pull"),
        ("old.ckpt", "save it again"),
        ("list.ckpt", "holds a list"),
        ("numbers.ckpt", "state_dict is a list"),
        ("empty.ckpt", "no tensors"),
        ("absent.ckpt", "no checkpoint at"),
    ):
        with refused(tmp_path, match):
            convert_checkpoint(tmp_path / name, tmp_path / "out", config)


def test_a_pickle_that_would_run_code_runs_none(good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": good, "callbacks": Payload()}, tmp_path / "model.ckpt")
    with refused(tmp_path, r"could run code, so nothing was loaded \(it wants posix.mkdir\)"):
        convert_checkpoint(tmp_path / "model.ckpt", tmp_path / "out", config)


def test_one_wrong_shape(good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    match = rf"1 differences, the first are\n  {WEIGHT} is \[63, 64, 3, 3\], expected \[64, 64, 3, 3\]"
    convert(good | {WEIGHT: good[WEIGHT][:-1]}, tmp_path, config, match)


@pytest.mark.parametrize(
    ("prefix", "title"),
    [
        ("model.diffusion_model.", "U-Net"),
        ("first_stage_model.", "autoencoder"),
        ("image_proj_model.", "image projector"),
        ("embedder.model.visual.", "image tower"),
        ("cond_stage_model.model.", "text tower"),
    ],
)
def test_a_part_that_is_not_there(prefix: str, title: str, good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    rest = {name: tensor for name, tensor in good.items() if not name.startswith(prefix)}
    convert(rest, tmp_path, config, rf"no {title}: nothing is named {prefix}\*")


def test_missing_and_additional_tensors(good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    missing = {name: tensor for name, tensor in good.items() if name != WEIGHT}
    convert(missing, tmp_path, config, rf"missing {WEIGHT}")
    for extra in ("another.weight", "model.diffusion_model.extra", "cond_stage_model.model.extra", "lora_up.weight"):
        convert(good | {extra: torch.zeros(2)}, tmp_path, config, rf"1 differences.*\n  unexpected {extra} \[2\]")


def test_another_noise_schedule(good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    plain = schedule_buffers(NoiseSchedule(zero_terminal_snr=False))
    convert(good | plain, tmp_path, config, r"alphas_cumprod is 0.2684 at step 506, expected 0.2331\n.*another noise")
    other = schedule_buffers(NoiseSchedule(rescale_base=0.7))
    convert(good | other, tmp_path, config, r"scale_arr is 0.7000 at step 399, expected 0.3000")
    without = {name: tensor for name, tensor in good.items() if name != "scale_arr"}
    convert(without, tmp_path, config, "missing scale_arr")
    short = {"alphas_cumprod": good["alphas_cumprod"][:500]}
    convert(good | short, tmp_path, config, r"alphas_cumprod is \[500\], expected 1000 steps")
    damaged = changed(good, "alphas_cumprod", float("nan"))
    convert(damaged, tmp_path, config, "alphas_cumprod is nan at step 500")

    told = yaml_config()
    told["model"]["params"]["base_scale"] = 0.7
    OmegaConf.save(OmegaConf.create(told), tmp_path / "other.yaml")
    torch.save(good | other, tmp_path / "model.ckpt")
    convert_checkpoint(tmp_path / "model.ckpt", tmp_path / "out", LVDMConfig.read(tmp_path / "other.yaml"))
    stored = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert stored["rescale_base"] == 0.7


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_finite_numbers(value: float, good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    for name, ours in (
        (WEIGHT, "middle.block.conv1.weight"),
        ("cond_stage_model.model.transformer.resblocks.0.ln_1.bias",) * 2,
    ):
        convert(changed(good, name, value), tmp_path, config, f"{ours} has values that are not finite")


def test_values_that_the_asked_type_cannot_hold(good: Tensors, config: LVDMConfig, tmp_path: Path) -> None:
    large = changed({name: tensor.float() for name, tensor in good.items()}, WEIGHT, -1e5)
    convert(large, tmp_path, config, r"middle.block.conv1.weight reaches 1e\+05, more than float16 can hold; choose")
    convert_checkpoint(tmp_path / "model.ckpt", tmp_path / "out", config, ConversionOptions(dtype=torch.bfloat16))


def test_a_checkpoint_of_another_size_without_its_config(good: Tensors, tmp_path: Path) -> None:
    match = r"model_channels 32, in_channels 8, context_dim 32\): give the YAML file it came with by --config"
    convert(good, tmp_path, None, match)


def test_parts_that_were_not_made_for_each_other(good: Tensors, tmp_path: Path) -> None:
    told = yaml_config()
    told["model"]["params"]["image_proj_stage_config"]["params"]["embedding_dim"] = 48
    OmegaConf.save(OmegaConf.create(told), tmp_path / "other.yaml")
    name = "image_proj_model.proj_in.weight"
    narrow = good | {name: good[name][:, :48].clone()}
    match = "image tower is 64 wide, the image projector 48"
    convert(narrow, tmp_path, LVDMConfig.read(tmp_path / "other.yaml"), match)


def test_other_models_are_called_by_their_names(good: Tensors) -> None:
    def of(*names: str) -> str | None:
        return recognised({name: torch.zeros(1) for name in names})

    diffusion = {name: tensor for name, tensor in good.items() if "temopral_conv" not in name}
    assert "single pictures" in str(recognised(diffusion))
    assert "VideoCrafter" in str(recognised({name: t for name, t in good.items() if "_ip." not in name}))
    alpha = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.alpha"
    assert "256-pixel" in str(recognised(good | {alpha: torch.zeros(())}))
    assert "Stable Video" in str(of("model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.weight"))
    assert "LoRA" in str(of("unet.down_blocks.0.attentions.0.to_q.lora_A.weight"))
    assert "ControlNet" in str(of("control_model.input_blocks.0.0.weight"))
    assert "VGGT" in str(of("aggregator.patch_embed.cls_token", "camera_head.token_norm.weight"))
    assert "Depth Anything 3" in str(of("model.backbone.pretrained.norm.weight", "model.cam_dec.fc_t.weight"))
    assert "DUSt3R" in str(of("enc_blocks.0.norm1.weight", "dec_blocks.0.norm1.weight"))
    assert "open_clip" in str(of("visual.transformer.resblocks.0.ln_1.weight"))
    assert "transformers" in str(of("text_model.final_layer_norm.bias", "vision_model.post_layernorm.bias"))
    assert "diffusers" in str(of("down_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"))
    with torch.device("meta"):
        ours = UNet(model_channels=32, head_channels=32, context_dim=8)
    assert "converted already" in str(recognised(ours.state_dict()))
    assert of("something.weight") is None


def test_targets_that_may_not_be_replaced(tiny_lvdm: tuple[Path, Path], config: LVDMConfig, tmp_path: Path) -> None:
    checkpoint = shutil.copy(tiny_lvdm[0], tmp_path / "model.ckpt")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("a photograph")
    (tmp_path / "file").write_text("a file")
    overwrite = ConversionOptions(overwrite=True)
    for name, options, match in (
        ("photos", None, "holds a.jpg and no list of what a command has made"),
        ("photos", overwrite, "holds a.jpg and no list of what a command has made"),
        ("file", overwrite, "is a file; name a folder"),
        (".", overwrite, "is to be read, but lies in"),
        ("file/out", None, "cannot write .*: .*file is a file; name another"),
    ):
        with refused(tmp_path, match):
            convert_checkpoint(checkpoint, tmp_path / name, config, options)


def test_a_model_is_replaced_only_by_a_complete_one(
    tiny_lvdm: tuple[Path, Path], good: Tensors, config: LVDMConfig, tmp_path: Path
) -> None:
    convert_checkpoint(tiny_lvdm[0], tmp_path / "out", config)
    first = (tmp_path / "out" / "model_index.json").stat().st_ino
    convert(changed(good, WEIGHT, float("nan")), tmp_path, config, "not finite", overwrite=True)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "Image tower":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(tiny_lvdm[0], tmp_path / "out", config, ConversionOptions(overwrite=True), interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(tiny_lvdm[0], tmp_path / "new" / "deep" / "out", config, None, interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "model.ckpt"}
    assert (tmp_path / "out" / "model_index.json").stat().st_ino == first
    convert_checkpoint(tiny_lvdm[0], tmp_path / "out", config, ConversionOptions(overwrite=True))
    assert (tmp_path / "out" / "model_index.json").stat().st_ino != first
    assert {path.name for path in tmp_path.iterdir()} == {"out", "model.ckpt"}


def test_a_folder_with_anything_that_the_conversion_did_not_make_is_never_replaced(
    tiny_lvdm: tuple[Path, Path], config: LVDMConfig, tmp_path: Path
) -> None:
    checkpoint, out, overwrite = tiny_lvdm[0], tmp_path / "out", ConversionOptions(overwrite=True)
    convert_checkpoint(checkpoint, out, config)
    with pytest.raises(InputError, match="already exists: --overwrite"):
        convert_checkpoint(checkpoint, out, config)
    (out / "README.md").write_text("my words")
    with pytest.raises(InputError, match="holds README.md, which no command made"):
        convert_checkpoint(checkpoint, out, config, overwrite)
    (out / "README.md").unlink()
    (out / ".closeupshot-files").unlink()  # as an earlier version left it
    with pytest.raises(InputError, match="no list of what a command has made.*move it away yourself"):
        convert_checkpoint(checkpoint, out, config, overwrite)
    assert (out / "model_index.json").exists()


def test_a_checkpoint_never_replaces_what_it_is_made_from(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    model, original = tmp_path / "model", shutil.copy(tiny_lvdm[0], tmp_path / "original.ckpt")
    shutil.copytree(tiny_model, model)
    (tmp_path / "link.ckpt").symlink_to(original)
    (tmp_path / "hard.ckpt").hardlink_to(original)
    (tmp_path / "weights.safetensors").symlink_to(model / "unet" / "diffusion_pytorch_model.safetensors")
    for name in ("original.ckpt", "link.ckpt", "hard.ckpt"):
        with pytest.raises(InputError, match="is the same file as .*original.ckpt"):
            export_checkpoint(model, tmp_path / name, complete_from=original, overwrite=True)
    with pytest.raises(InputError, match="is part of the model"):
        export_checkpoint(model, tmp_path / "weights.safetensors", overwrite=True)
    with pytest.raises(InputError, match="device, pipe or socket"):
        os.mkfifo(tmp_path / "pipe.ckpt")
        export_checkpoint(model, tmp_path / "pipe.ckpt", overwrite=True)


def test_a_disk_that_is_full_before_and_while_writing(
    tiny_lvdm: tuple[Path, Path], tiny_model: Path, config: LVDMConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
    try:
        with refused(tmp_path, "the disk is full: .* nothing of it was kept"):
            convert_checkpoint(tiny_lvdm[0], tmp_path / "out", config)
        for name in ("back.ckpt", "back.safetensors"):
            with refused(tmp_path, "the disk is full|cannot write"):
                export_checkpoint(tiny_model, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000_000))
    with refused(tmp_path, "not enough room for .*: 0.03 GB are needed, 0.02 GB are free"):
        convert_checkpoint(tiny_lvdm[0], tmp_path / "deep" / "out", config)
    with refused(tmp_path, "not enough room"):
        export_checkpoint(tiny_model, tmp_path / "back.ckpt")


def test_folders_that_are_no_model_and_other_originals(tiny_model: Path, good: Tensors, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": good | {WEIGHT: good[WEIGHT][:-1]}}, tmp_path / "other.ckpt")
    with refused(tmp_path, "cannot read .*model_index.json"):
        export_checkpoint(tmp_path / "empty", tmp_path / "back.ckpt")
    with refused(tmp_path, "must end in .ckpt or .safetensors"):
        export_checkpoint(tmp_path / "model", tmp_path / "back")
    with refused(tmp_path, rf"{WEIGHT} is \[63, 64, 3, 3\] in .*other.ckpt, \[64, 64, 3, 3\] in the folder"):
        export_checkpoint(tmp_path / "model", tmp_path / "back.ckpt", complete_from=tmp_path / "other.ckpt")
    shutil.copy(tiny_model / "vae" / "config.json", tmp_path / "model" / "unet" / "config.json")
    with refused(tmp_path, "the weights in .*unet are not those of its config"):
        export_checkpoint(tmp_path / "model", tmp_path / "back.ckpt")


def test_configs_that_ask_for_something_else(tmp_path: Path) -> None:
    def read(change: dict[str, Any], match: str) -> None:
        told = yaml_config()
        told["model"]["params"] |= change
        OmegaConf.save(OmegaConf.create(told), tmp_path / "config.yaml")
        with pytest.raises(InputError, match=match):
            LVDMConfig.read(tmp_path / "config.yaml")

    read({"parameterization": "eps"}, "parameterization is 'eps'; only 'v'")
    read({"unet_config": {}}, "no section unet_config.params")
    read({"linear_start": 2.0}, "cannot make sense of its schedule")
    (tmp_path / "config.yaml").write_text("model: [1, 2")
    with pytest.raises(InputError, match="cannot read the config"):
        LVDMConfig.read(tmp_path / "config.yaml")
    with pytest.raises(InputError, match="cannot read the config"):
        LVDMConfig.read(tmp_path / "absent.yaml")


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_real_numbers_are_refused_by_name_and_type(
    good: Tensors, config: LVDMConfig, tmp_path: Path, dtype: torch.dtype
) -> None:
    changed = good | {WEIGHT: good[WEIGHT].to(dtype)}
    name = str(dtype).removeprefix("torch.")
    convert(changed, tmp_path, config, f"{WEIGHT} is of type {name}, expected real numbers")


def test_a_named_pipe_or_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").mkdir()
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(InputError, match="no checkpoint at"):
            load_lvdm_checkpoint(tmp_path / name)
