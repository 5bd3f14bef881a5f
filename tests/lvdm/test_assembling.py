"""The converters against the public checkpoints' own names and numbers (tests/golden)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from cus import checkpoints, lvdm
from cus.errors import InputError
from cus.lvdm import (
    image_encoder_from_lvdm,
    image_projector_from_lvdm,
    load_lvdm_checkpoint,
    lvdm_from_image_projector,
    lvdm_from_unet,
    lvdm_from_vae,
    normalized_state_dict,
    unet_from_lvdm,
    vae_from_lvdm,
)
from cus.lvdm.names import VIEWCRAFTER_PROJECTOR, VIEWCRAFTER_UNET, VIEWCRAFTER_VAE
from cus.models.clip import ImageEncoder
from cus.models.unet import UNet
from tests.golden.weights import state_dict

GOLDEN = Path(__file__).parent.parent / "golden"
TOLERANCE = 1e-5  # the bar is 1e-4


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Tensor]]:
    """Weights, config and recorded inputs and outputs of one reference module."""
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        metadata = file.metadata()
        recorded = {key.removeprefix("io."): file.get_tensor(key) for key in file.keys()}
    return state_dict(json.loads(metadata["shapes"])), json.loads(metadata["config"]), recorded


def error(value: Tensor, expected: Tensor) -> float:
    assert value.shape == expected.shape
    return float((value - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def checkpoint_shapes() -> dict[str, list[int]]:
    return json.loads((GOLDEN / "viewcrafter_checkpoint_keys.json").read_text())


@pytest.fixture
def tiny_checkpoint() -> tuple[dict[str, Tensor], dict[str, Any]]:
    weights, config, _ = golden("resampler_tiny")
    return weights, config


@pytest.fixture(scope="module")
def tiny() -> tuple[UNet, dict[str, Tensor]]:
    weights, config, recorded = golden("unet_tiny")
    return unet_from_lvdm(weights, config), recorded


@pytest.mark.parametrize(("context", "output"), [("context", "output"), ("context_per_frame", "output_per_frame")])
def test_unet_computes_the_reference_function(tiny: tuple[UNet, dict[str, Tensor]], context: str, output: str) -> None:
    unet, io = tiny
    with torch.no_grad():
        sample = unet(io["x"], io["timesteps"], io[context], io["fs"]).sample
    assert error(sample, io[output]) < TOLERANCE


def test_first_module_of_eq_7_is_the_reference_s_first_convolution(tiny: tuple[UNet, dict[str, Tensor]]) -> None:
    unet, io = tiny
    with torch.no_grad():
        assert error(unet.first_features(io["x"]), io["features_after_input_blocks_0"]) < TOLERANCE


def test_image_projector_computes_the_reference_function() -> None:
    weights, config, io = golden("resampler_tiny")
    projector = image_projector_from_lvdm(weights, config)
    with torch.no_grad():
        assert error(projector(io["image_tokens"]), io["output"]) < TOLERANCE


@pytest.mark.parametrize("skip", [False, True])
def test_autoencoder_computes_the_reference_function(skip: bool) -> None:
    weights, config, io = golden("vae_tiny")
    vae = vae_from_lvdm(weights, config, skip=skip)
    with torch.no_grad():
        assert error(vae.encode(io["image"]).latent_dist.parameters, io["moments"]) < TOLERANCE
        assert error(vae.decode(io["z"]).sample, io["decoded"]) < TOLERANCE
        if skip:
            features = vae.skip_features(io["image"])
            assert error(vae.decode(io["z"], skip_features=features).sample, io["decoded"]) < TOLERANCE


def test_every_tensor_of_the_full_checkpoint_has_its_place_and_its_way_back(
    checkpoint_shapes: dict[str, list[int]],
) -> None:
    checkpoint = {name: torch.empty(shape, device="meta") for name, shape in checkpoint_shapes.items()}
    unet = unet_from_lvdm(checkpoint, VIEWCRAFTER_UNET)
    vae = vae_from_lvdm(checkpoint, VIEWCRAFTER_VAE)
    projector = image_projector_from_lvdm(checkpoint, VIEWCRAFTER_PROJECTOR)

    assert len(unet.state_dict()) == 1516
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == 1438.9
    assert all(p.device.type == "meta" for p in unet.parameters())
    back = lvdm_from_unet(unet) | lvdm_from_vae(vae) | lvdm_from_image_projector(projector)
    assert {name: list(tensor.shape) for name, tensor in back.items()} == checkpoint_shapes


def test_defaults_of_the_models_are_the_full_size(checkpoint_shapes: dict[str, list[int]]) -> None:
    with torch.device("meta"):
        unet = UNet()
    assert {name: list(t.shape) for name, t in lvdm_from_unet(unet).items()}.items() <= checkpoint_shapes.items()


@pytest.mark.parametrize(
    ("name", "convert", "invert"),
    [
        ("unet_tiny", unet_from_lvdm, lvdm_from_unet),
        ("vae_tiny", vae_from_lvdm, lvdm_from_vae),
        ("resampler_tiny", image_projector_from_lvdm, lvdm_from_image_projector),
    ],
)
def test_converting_there_and_back_changes_no_bit(name: str, convert: Any, invert: Any) -> None:
    weights, config, _ = golden(name)
    back = invert(convert(weights, config))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


def test_all_published_forms_of_a_checkpoint_are_read_alike() -> None:
    weights, _, _ = golden("unet_tiny")
    older = {name.replace("fps_embedding", "framestride_embed"): tensor for name, tensor in weights.items()}
    forms = [
        weights,
        {"state_dict": weights, "global_step": 9},
        {"state_dict": older},
        {"module": {f"_forward_module.{name}": tensor for name, tensor in weights.items()}},
    ]
    for form in forms:
        assert normalized_state_dict(form).keys() == weights.keys()


def test_a_checkpoint_file_is_read_as_data_only(tmp_path: Path, tiny_checkpoint: tuple[dict, dict]) -> None:
    weights, _ = tiny_checkpoint
    torch.save({"state_dict": weights}, tmp_path / "model.ckpt")
    read = load_lvdm_checkpoint(tmp_path / "model.ckpt")
    assert all(torch.equal(read[name], weights[name]) for name in weights)

    class Payload:
        def __reduce__(self) -> tuple:
            return print, ("code from a checkpoint ran",)

    torch.save({"state_dict": weights, "hook": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(InputError, match="plain tensors"):
        load_lvdm_checkpoint(tmp_path / "evil.ckpt")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(InputError, match="plain tensors"):
        load_lvdm_checkpoint(tmp_path / "text.safetensors")
    with pytest.raises(InputError, match="no checkpoint at"):
        load_lvdm_checkpoint(tmp_path / "absent.ckpt")


def test_a_checkpoint_that_differs_is_refused_with_the_first_differences(tiny_checkpoint: tuple[dict, dict]) -> None:
    weights, config = tiny_checkpoint
    missing = {name: tensor for name, tensor in weights.items() if name != "image_proj_model.proj_in.bias"}
    with pytest.raises(InputError, match=r"1 differences.*\n  missing image_proj_model.proj_in.bias \[32\]"):
        image_projector_from_lvdm(missing, config)
    with pytest.raises(InputError, match=r"unexpected image_proj_model.extra \[1\]"):
        image_projector_from_lvdm(weights | {"image_proj_model.extra": torch.zeros(1)}, config)
    with pytest.raises(InputError, match=r"proj_in.bias is \[3\], expected \[32\]"):
        image_projector_from_lvdm(weights | {"image_proj_model.proj_in.bias": torch.zeros(3)}, config)
    with pytest.raises(InputError, match="differences"):
        image_projector_from_lvdm({"another.name": torch.zeros(1)}, config)


def test_a_config_for_another_architecture_is_refused() -> None:
    weights, config, _ = golden("unet_tiny")
    with pytest.raises(InputError, match="use_relative_position is True; only False"):
        unet_from_lvdm(weights, config | {"use_relative_position": True})
    with pytest.raises(InputError, match=r"unknown options \['resblock_updown'\]"):
        unet_from_lvdm(weights, config | {"resblock_updown": True})
    with pytest.raises(InputError, match=r"missing options \['context_dim'\]"):
        unet_from_lvdm(weights, {key: value for key, value in config.items() if key != "context_dim"})


def test_image_tower_of_a_checkpoint_is_open_clip_s_under_its_prefix() -> None:
    sizes = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2, "output_dim": 8}
    tower = ImageEncoder(**sizes)
    checkpoint = {f"embedder.model.visual.{name}": tensor for name, tensor in tower.tower.state_dict().items()}
    images = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(image_encoder_from_lvdm(checkpoint, **sizes)(images), tower.eval()(images))


def test_the_converters_are_importable_from_checkpoints_as_well() -> None:
    for name in lvdm.__all__:
        assert getattr(checkpoints, name) is getattr(lvdm, name)
