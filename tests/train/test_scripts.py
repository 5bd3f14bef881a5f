"""The training scripts as a user runs them: tiny models, real code, exact resuming."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cus.datasets.clips import Clip, save_clip

ROOT = Path(__file__).resolve().parents[2]
VAE = [
    "model.latent_channels=4",
    "model.block_out_channels=[8,8]",
    "model.layers_per_block=1",
    "model.norm_num_groups=4",
    "model.mid_block_add_attention=false",
]
UNET = [
    "model.unet.model_channels=16",
    "model.unet.channel_mult=[1,2]",
    "model.unet.num_res_blocks=1",
    "model.unet.attention_downsamples=[2]",
    "model.unet.head_channels=8",
    "model.unet.context_dim=16",
    "model.unet.init_attention_heads=0",
    "model.unet.text_tokens=2",
    "model.unet.norm_groups=4",
    "model.unet.dropout=0.1",
]


def run(script: str, *arguments: object, wait: bool = True) -> subprocess.Popen[str]:
    """Start a script; with `wait`, until its successful end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    if wait:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    return process


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small clips of noise."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        videos = torch.rand(4, 3, 3, 16, 24, generator=generator)
        masks = torch.ones(3, 16, 24, dtype=torch.bool)
        save_clip(folder / f"{seed}.safetensors", Clip(videos[0, :2], videos[1], videos[2], masks, videos[3]))
    return folder


@pytest.fixture(scope="module")
def vae(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE trained for two steps."""
    out = tmp_path_factory.mktemp("vae")
    loop = ["loop.steps=2", "loop.batch=1", "loop.workers=0", "loop.precision=float32", "loop.save_every=2"]
    run("train/vae.py", f"out={out}", f"clips={clips}", f"held_out={clips}", "crop=[8,8]", *VAE, *loop)
    return out / "export"


@pytest.fixture(scope="module")
def latents(clips: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips' latents."""
    out = tmp_path_factory.mktemp("latents")
    run("data/cache_latents.py", f"clips={clips}", f"out={out}", f"vae={vae}", "reference_size=28")
    return out


def unet_arguments(out: Path, latents: Path, vae: Path, *more: str) -> list[str]:
    return [
        f"out={out}",
        f"latents={latents}",
        f"model.vae={vae}",
        "model.image_encoder={image_size: 28, patch_size: 14, width: 16, layers: 1, heads: 2, output_dim: 4}",
        "model.image_projector={token_dim: 16, context_dim: 16, dim: 16, depth: 1, heads: 2, head_channels: 8}",
        "trained=[unet,image_projector,prompt]",
        "frames=2",
        "crop=[4,4]",
        "sampling.residual_scale=1",
        *UNET,
        "loop.steps=4",
        "loop.workers=1",
        "loop.precision=float32",
        "loop.ema_decay=0.9",
        "loop.log_every=1",
        *more,
    ]


@pytest.mark.slow
def test_four_steps_equal_two_steps_an_interrupt_and_two_more(tmp_path: Path, latents: Path, vae: Path) -> None:
    run("train/unet.py", *unet_arguments(tmp_path / "once", latents, vae))
    run("train/unet.py", *unet_arguments(tmp_path / "twice", latents, vae, "loop.steps=2"))
    # A save that was cut off must not be resumed from.
    (tmp_path / "twice" / "checkpoints" / "step-00000003.part").mkdir()
    run("train/unet.py", *unet_arguments(tmp_path / "twice", latents, vae))
    once, twice = (
        load_file(tmp_path / name / "export" / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("once", "twice")
    )
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[key], twice[key]) for key in once)


@pytest.mark.slow
def test_an_interrupt_saves_and_exports(tmp_path: Path, latents: Path, vae: Path) -> None:
    arguments = unet_arguments(tmp_path / "run", latents, vae, "loop.steps=100000", "loop.save_every=100000")
    process = run("train/unet.py", *arguments, wait=False)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert [path.name[:5] for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-"]
    assert (tmp_path / "run" / "export" / "model_index.json").is_file()


@pytest.mark.slow
def test_the_decoder_learns_from_generated_latents_and_nothing_else_moves(
    tmp_path: Path, clips: Path, latents: Path, vae: Path
) -> None:
    run("train/unet.py", *unet_arguments(tmp_path / "unet", latents, vae, "loop.steps=1"))
    model, generated = tmp_path / "unet" / "export", tmp_path / "generated"
    run("data/cache_latents.py", f"clips={clips}", f"out={generated}", f"pipeline={model}")
    arguments = [f"out={tmp_path / 'decoder'}", f"init={model}", f"clips={clips}", f"generated={generated}"]
    loop = ["crop=[4,4]", "loop.steps=2", "loop.workers=0", "loop.precision=float32"]
    run("train/decoder.py", *arguments, *loop)
    before, after = (
        load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        for folder in (model, tmp_path / "decoder" / "export")
    )
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved and not [key for key in moved if key.startswith(("encoder", "quant_conv"))]
    assert set(after) - set(before) == {key for key in after if "skip" in key}


def test_bad_settings_end_with_a_message_and_status_two(tmp_path: Path) -> None:
    process = run("train/unet.py", f"out={tmp_path}", "latents=none", "loop.lerning_rate=1", wait=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "did you mean 'loop.learning_rate'" in output and "Traceback" not in output
