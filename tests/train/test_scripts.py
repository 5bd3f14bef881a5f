"""The training scripts as a user runs them: tiny models, real code, exact resuming."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from omegaconf import MISSING
from safetensors.torch import load_file

from cus.datasets.clips import Clip, save_clip
from cus.errors import InputError
from cus.training.caches import Caches
from cus.training.coarse_clips import CoarseClips
from cus.training.decoder import DecoderConfig
from cus.training.recipe_jobs import Recipe
from cus.training.scripts import settings_of
from cus.training.single_view import SingleViewConfig
from cus.training.unet import UNetConfig
from cus.training.vae import VaeConfig
from procedural.rendered_clips import ProceduralClips

ROOT = Path(__file__).resolve().parents[2]
DATA_SCRIPTS = (
    "data/cache_latents.py",
    "data/make_procedural.py",
    "data/make_coarse.py",
    "data/make_views.py",
    "data/make_scene_views.py",
)
TRAIN_SCRIPTS = (
    "train/unet.py",
    "train/vae.py",
    "train/decoder.py",
    "train/recipe.py",
    "train/ablation.py",
    "train/single_view.py",
)
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
    assert process.returncode == 130, output
    assert "is saved and exported; the same command resumes" in output and "Traceback" not in output
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


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (ProceduralClips, "clips=-1", "clips must be 1 or more, got -1"),
        (ProceduralClips, "reference_widths=[384,0]", "reference_widths must be 16 to 8192, got 0"),
        (ProceduralClips, "recipe.zoom=[.nan,5]", "recipe.zoom must be 1 to 100, got nan"),
        (ProceduralClips, "scenes=traces", "scenes must be one of collage, traced, got 'traces'"),
        (ProceduralClips, "clip=5", "did you mean 'clips'?"),
        (Caches, "parts=-1", "parts must be 0 or more, got -1"),
        (CoarseClips, "limit=-1", "limit must be 0 or more, got -1"),
        (Recipe, "guided_setings=[]", "did you mean 'guided_settings'?"),
        (Caches, "reference_sizes=10", "did you mean 'reference_size'?"),
        (VaeConfig, "loop.steps=-1", "loop.steps must be 1 or more, got -1"),
        (VaeConfig, "loop.batch=0", "loop.batch must be 1 or more, got 0"),
        (UNetConfig, "loop.learning_rate=0", "loop.learning_rate must be above 0, got 0"),
        (UNetConfig, "loop.precision=fp8", "loop.precision must be one of float32, bf16, fp16, got 'fp8'"),
        (UNetConfig, "sampling.steps=0", "steps must be 1 to 1000, got 0"),
        (UNetConfig, "frames=many", "frames"),
        (UNetConfig, "loop.steps=${nothing}", "nothing"),
        (UNetConfig, "crop=[", "cannot be read"),
        (DecoderConfig, "crop=[0,4]", "crop must be 1 to 8192, got 0"),
        (ProceduralClips, "recipe.width=100", "the window of 208x128 is larger than the picture of 100x216"),
        (DecoderConfig, "gradient_weight=.inf", "gradient_weight must be 0 or more, got inf"),
        (SingleViewConfig, "form.width=0", "form.width must be 4 to 512, got 0"),
        (SingleViewConfig, "parts=both", "parts must be one of joint, depth, synthesis, got 'both'"),
        (DecoderConfig, "--steps", "unknown setting 'steps'"),
        (DecoderConfig, "-s", "unknown option '-s'; settings are given as name=value or --name value"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(kind, given, message) -> None:
    needed = [f"{field.name}=x" for field in fields(kind) if field.default == MISSING]
    with pytest.raises(InputError, match=re.escape(message)):
        settings_of(kind, [*needed, given])
    settings_of(kind, needed)


@pytest.mark.parametrize("script", [*TRAIN_SCRIPTS, *DATA_SCRIPTS])
def test_help_of_a_script_is_there_at_once_and_states_the_statuses(script: str) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / script), "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exit status: 0 done" in output.stdout and script in output.stdout
    assert "| torch" not in output.stderr


def test_bad_settings_end_with_a_message_and_status_two(tmp_path: Path) -> None:
    process = run("train/unet.py", f"out={tmp_path}", "latents=none", "loop.lerning_rate=1", wait=False)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "did you mean 'loop.learning_rate'" in output and "Traceback" not in output
