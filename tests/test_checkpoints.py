"""The converters against the public checkpoints' own names and numbers (tests/golden)."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.weights import state_dict
from safetensors import safe_open
from torch import Tensor

from cus.checkpoints import (
    PROJECTOR_PREFIX,
    UNET_PREFIX,
    VIEWCRAFTER_PROJECTOR,
    VIEWCRAFTER_UNET,
    image_projector_from_lvdm,
    lvdm_from_image_projector,
    lvdm_from_unet,
    normalized_state_dict,
    unet_from_lvdm,
    vae_from_lvdm,
)
from cus.errors import InputError
from cus.models.unet import UNet

GOLDEN = Path(__file__).parent / "golden"
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
