"""Weights and configurations that are not what they say: refused by name, before anything is allocated."""

import json
import math
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.memory import skeleton
from cus.diffusion.sampling import Sampling
from cus.diffusion.uploads import prepare
from cus.errors import InputError
from cus.hub.stored import local_folder, open_model
from tests.diffusion.tiny import pictures, tiny_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def refusal(model: Path) -> str:
    """The message, which must be one line and come at once."""
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        CloseUpShotPipeline.from_pretrained(model)
    assert time.process_time() - started < 10 and "\n" not in str(caught.value)
    return str(caught.value)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=lambda d: str(d)
)
def test_weights_that_are_no_real_numbers_are_refused_by_their_type(model: Path, dtype: torch.dtype) -> None:
    file = model / "prompt" / WEIGHTS
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file, {"format": "pt"})
    message = refusal(model)
    assert (
        "2 of 2 tensors are no real numbers of 16 to 64 bits" in message and "expected F64, F32, F16, BF16" in message
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_any_other_precision_are_taken(model: Path, dtype: torch.dtype) -> None:
    file = model / "prompt" / WEIGHTS
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file, {"format": "pt"})
    frames = CloseUpShotPipeline.from_pretrained(model, dtype=torch.float32)(pictures(1), pictures())
    assert bool(frames.isfinite().all())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_with_a_value_that_is_no_number_are_refused_by_tensor(model: Path, value: float) -> None:
    file = model / "prompt" / WEIGHTS
    weights = load_file(file)
    weights["positive"][0, 1, 2] = value
    save_file(weights, file, {"format": "pt"})
    assert "positive in" in refusal(model)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 10) + b"{}",
        struct.pack("<Q", 8) + b"not json",
        struct.pack("<Q", 64)
        + json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode(),
    ],
)
def test_headers_that_promise_what_is_not_there_are_refused(model: Path, content: bytes) -> None:
    (model / "prompt" / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} is damaged" in refusal(model)


def test_weights_that_are_a_folder_or_a_pipe_are_none(model: Path) -> None:
    file = model / "prompt" / WEIGHTS
    file.unlink()
    os.mkfifo(file)
    assert "incomplete" in refusal(model) or "variant" in refusal(model)
    file.unlink()
    file.mkdir()
    assert "incomplete" in refusal(model) or "variant" in refusal(model)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vae", {"block_out_channels": [10**9, 10**9]}, "block_out_channels is"),
        ("vae", {"block_out_channels": [2**20, 2**20]}, "get the model again"),
        ("vae", {"block_out_channels": "wide"}, "makes no network"),
        ("vae", {"layers_per_block": 10**6}, "layers_per_block is 1000000"),
        ("unet", {"channel_mult": [1] * 1000}, "channel_mult is"),
        ("unet", {"channel_mult": {"a": 1}}, "channel_mult is"),
        ("unet", {"model_channels": math.nan}, "model_channels is nan"),
        ("unet", {"model_channels": -16}, "makes no network|are not those"),
        ("unet", {"model_channels": 10**400}, "model_channels is 1000"),
        ("unet", {"norm_groups": 0}, "makes no network"),
        ("unet", {"model_channels": 32}, r"are not those of its config.json: .* must be"),
        ("image_encoder", {"layers": 2}, "missing"),
        ("image_encoder", {"heads": 0}, "makes no network"),
        ("image_projector", {"depth": None}, "makes no network"),
        ("scheduler", {"num_timesteps": 10**12}, "cannot load the model"),
        ("scheduler", {"beta_start": "a"}, "cannot load the model"),
    ],
)
def test_configurations_that_are_not_the_weights_are_refused(
    model: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    change_json(model / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **changes)
    with pytest.raises(InputError, match=message):
        CloseUpShotPipeline.from_pretrained(model)
    with pytest.raises(InputError, match=message):
        prepare(model)


@pytest.mark.parametrize(
    "sampling",
    [
        {"width": 10**9}, {"frames": 0}, {"steps": "50"}, {"guidance": math.nan}, {"fps": 1.5}, {"eta": -1},
        {"second_pass": 1}, {"conditioning": []}, {"frames": True}, {"spam": 1}, [1], 3,
        {"layers": 3}, {"noise": "x"}, {"noise": math.nan}, {"guidance": 10**400}, 10**400,
    ],
)  # fmt: skip
def test_sampling_settings_that_cannot_be_are_refused(model: Path, sampling: Any) -> None:
    content = json.loads((model / "model_index.json").read_text())
    own = content["sampling"] | sampling if isinstance(sampling, dict) else sampling
    change_json(model / "model_index.json", sampling=own)
    assert "cannot load the model" in refusal(model)
    with pytest.raises(InputError):
        skeleton(open_model(model))
    with pytest.raises(InputError, match="cannot load the model"):
        prepare(model)


@pytest.mark.parametrize("entry", ["x", None, [None, None], 3])
def test_a_part_that_the_index_does_not_name_is_missed(model: Path, entry: Any) -> None:
    change_json(model / "model_index.json", unet=entry)
    for use in (CloseUpShotPipeline.from_pretrained, prepare):
        with pytest.raises(InputError, match="names no unet"):
            use(model)


def test_the_sampling_of_every_public_model_is_one() -> None:
    Sampling()
    Sampling(guidance=1, eta=0, residual_scale=2)


def test_the_index_names_no_class_but_the_parts_own(model: Path) -> None:
    for entry in (["os", "system"], ["cus.cli.infer", "main"], ["cus.diffusion.pipeline", "CloseUpShotPipeline"]):
        change_json(model / "model_index.json", unet=entry)
        assert "as its unet, which is not loaded" in refusal(model)
    (model / "model_index.json").write_text("[" * 100_000)
    assert "not valid JSON" in refusal(model)


def test_a_stored_pipeline_names_no_folder_that_it_was_loaded_from(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "first")
    CloseUpShotPipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    for folder in (tmp_path / "second", local_folder("mini")):
        for path in folder.rglob("*.json"):
            assert "_name_or_path" not in json.loads(path.read_text()), path
