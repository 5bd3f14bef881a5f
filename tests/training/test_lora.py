"""LoRA adapters: trained, saved in diffusers' format, loaded by both."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cus.datasets.clips import Clip, save_clip
from cus.diffusion import lora
from cus.errors import InputError
from cus.models.unet import UNet
from cus.training.scripts import settings_of, train_stage
from cus.training.unet import UNetConfig, UNetStage
from tests.diffusion.tiny import pictures, tiny_pipeline

pytest.importorskip("peft")
INPUTS = pictures(1), pictures(3)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A folder with an adapter whose values are random, and the frames that its pipeline makes."""
    folder, pipeline = tmp_path_factory.mktemp("lora"), tiny_pipeline()
    before = pipeline(*INPUTS)
    lora.add_lora(pipeline.unet, 4, 8.0, lora.TARGETS)
    assert torch.equal(pipeline(*INPUTS), before), "a new adapter must change nothing"
    for name, parameter in pipeline.unet.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    lora.save_lora(pipeline.unet, folder)
    return folder, pipeline(*INPUTS)


def test_an_adapter_gives_the_same_frames_wherever_it_is_loaded(adapter: tuple[Path, torch.Tensor]) -> None:
    folder, expected = adapter
    ours, theirs = tiny_pipeline(), tiny_pipeline()
    before = ours(*INPUTS)
    ours.load_lora_weights(folder)
    theirs.unet.load_lora_adapter(str(folder), prefix="unet", weight_name=lora.FILE)
    for pipeline in (ours, theirs):
        assert torch.equal(pipeline(*INPUTS), expected) and not torch.equal(expected, before)
    ours.unload_lora_weights()
    assert torch.equal(ours(*INPUTS), before)


def test_names_and_shapes_are_those_of_diffusers_files(adapter: tuple[Path, torch.Tensor]) -> None:
    tensors = load_file(adapter[0] / "pytorch_lora_weights.safetensors")
    name = "unet.down.1.stages.0.space.blocks.0.self_attention.to_q.lora_{}.weight"
    assert tensors[name.format("A")].shape == (4, 32) and tensors[name.format("B")].shape == (32, 4)
    assert all(key.startswith("unet.") for key in tensors)


def test_what_is_no_adapter_is_refused(tmp_path: Path, adapter: tuple[Path, torch.Tensor]) -> None:
    with pytest.raises(InputError, match="no LoRA at .*none"):
        lora.find_lora(tmp_path / "none")
    (tmp_path / "broken.safetensors").write_text("nothing")
    with pytest.raises(InputError, match="cannot read the LoRA"):
        lora.find_lora(tmp_path / "broken.safetensors")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"is no LoRA of a U-Net: .*begins with conv.weight"):
        lora.find_lora(tmp_path / "model.safetensors")
    other = r"does not fit the U-Net of .*to_\w+ is \[64, 64\], and the LoRA changes \[32, 32\].* and \d+ more; it was"
    with pytest.raises(InputError, match=other):
        lora.load_lora(UNet(**OTHER), lora.find_lora(adapter[0]))
    with pytest.raises(InputError, match=r"lora.targets has to_x; linear layers of the U-Net: .*to_q"):
        lora.add_lora(tiny_pipeline().unet, 4, 4.0, ["to_q", "to_x"])


def test_a_layer_that_the_network_lacks_or_a_damaged_or_foreign_file_is_named(tmp_path: Path, adapter) -> None:
    tensors = load_file(adapter[0] / lora.FILE)
    first = sorted(tensors)[0]
    changed = {
        r"there is no elsewhere\.to_q": {**tensors, **_pair("unet.elsewhere.to_q", 4)},
        "is no LoRA in diffusers' form: it has unet.a.lora.down.weight": {**tensors, "unet.a.lora.down.weight": _ones},
        r"the matrices of .* are missing and \[": {name: value for name, value in tensors.items() if name != first},
        "is no LoRA in diffusers' form: it has text_encoder": {**tensors, **_pair("text_encoder.to_q", 4)},
        "holds values that are not numbers": {**tensors, first: tensors[first] * torch.nan},
    }
    for message, content in changed.items():
        save_file(content, tmp_path / "changed.safetensors")
        with pytest.raises(InputError, match=message):
            tiny_pipeline().load_lora_weights(tmp_path / "changed.safetensors")


_ones = torch.ones(4, 32)


def _pair(layer: str, rank: int) -> dict[str, torch.Tensor]:
    return {f"{layer}.lora_A.weight": torch.ones(rank, 32), f"{layer}.lora_B.weight": torch.ones(32, rank)}


def test_an_adapter_takes_the_precision_of_its_network(adapter) -> None:
    pipeline = tiny_pipeline().to(torch.bfloat16)
    pipeline.load_lora_weights(adapter[0])
    added = {value.dtype for name, value in pipeline.unet.named_parameters() if "lora_" in name}
    assert added == {torch.bfloat16}
    with pytest.raises(InputError, match="cannot load the LoRA"):
        pipeline.load_lora_weights(adapter[0])
    pipeline.load_lora_weights(adapter[0], "another")


OTHER = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_downsamples": (2,),
    "head_channels": 8,
    "context_dim": 16,
    "init_attention_heads": 0,
    "norm_groups": 4,
}


def arguments(folder: Path) -> list[str]:
    """A base model, clips, and the settings of a LoRA of it."""
    tiny_pipeline().save_pretrained(folder / "base")
    (folder / "clips").mkdir()
    for seed in range(2):
        videos = torch.rand(3, 4, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
        clip = Clip(videos[0, :2], videos[1], videos[2], torch.ones(4, 16, 24) > 0)
        save_clip(folder / "clips" / f"{seed}.safetensors", clip)
    given = [f"out={folder / 'run'}", f"init={folder / 'base'}", f"clips={folder / 'clips'}"]
    return [*given, "lora.rank=2", "trained=[unet]", "frames=2", "crop=[8,8]"]


def test_training_exports_the_adapter_alone(tmp_path: Path) -> None:
    loop = ["loop.steps=2", "loop.workers=0", "loop.learning_rate=1e-2", "loop.precision=float32"]
    more = ["loop.gradient_checkpointing=true", "loop.ema_decay=0.5"]
    train_stage(UNetConfig, UNetStage, [*arguments(tmp_path), *loop, *more], lambda done, total: None)
    assert [path.name for path in (tmp_path / "run" / "export").iterdir()] == [lora.FILE]
    learned = load_file(tmp_path / "run" / "export" / lora.FILE)
    assert any(values.any() for name, values in learned.items() if "lora_B" in name), "nothing was learned"
    pipeline = tiny_pipeline()
    before = pipeline(*INPUTS)
    pipeline.load_lora_weights(tmp_path / "run")
    assert not torch.equal(pipeline(*INPUTS), before)


def test_in_half_precision_what_is_frozen_is_held_in_it_and_the_adapter_is_not(tmp_path: Path) -> None:
    stage = UNetStage(settings_of(UNetConfig, [*arguments(tmp_path), "loop.precision=bf16"]))
    dtypes = {(parameter.requires_grad, parameter.dtype) for parameter in stage.module.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    batch = torch.utils.data.default_collate([stage.dataset()[0]])
    with torch.autocast("cpu", torch.bfloat16):
        stage.loss(stage.module, batch, torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is not None for parameter in stage.module.parameters() if parameter.requires_grad)


def test_a_lora_trains_the_u_net_alone() -> None:
    given = ["out=x", "init=none", "clips=none", "lora.rank=2"]
    with pytest.raises(InputError, match=r"a LoRA changes the U-Net alone: set trained=\[unet\]"):
        UNetStage(settings_of(UNetConfig, given))
    with pytest.raises(InputError, match="set frames=2 or more"):
        UNetStage(settings_of(UNetConfig, [*given, "trained=[unet]", "frames=1"]))
