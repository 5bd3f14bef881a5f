"""What training and the building of data leave, and whose files they never touch."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from cus.errors import InputError
from cus.output_folder import OutputFolder
from cus.training.scripts import settings_of, train_stage
from cus.training.state import Checkpoints, Ema
from cus.training.vae import VaeConfig, VaeStage
from procedural.rendered_clips import ProceduralClips, build
from tests.conftest import ROOT

RECIPE = [
    "reference_widths=[32]",
    "supersample=1",
    "recipe.width=32",
    "recipe.height=24",
    "recipe.window_width=16",
    "recipe.window_height=16",
    "recipe.frames=2",
]


def clips(out: Path, *more: str) -> list[str]:
    build(settings_of(ProceduralClips, [f"out={out}", "clips=2", *RECIPE, *more]), lambda done, total: None)
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("."))


def test_clips_are_gone_on_with_damaged_ones_made_again_and_other_settings_refused(tmp_path):
    out = tmp_path / "clips"
    assert clips(out) == ["clip-0000000.safetensors", "clip-0000001.safetensors", "settings.yaml"]
    damaged = out / "clip-0000000.safetensors"
    # Copies: the file that they are mapped from is cut off below.
    first = {name: tensor.clone() for name, tensor in load_file(damaged).items()}
    damaged.write_bytes(damaged.read_bytes()[:100])
    kept = (out / "clip-0000001.safetensors").stat().st_mtime_ns
    assert "clip-0000002.safetensors" in clips(out, "clips=3")
    assert all(torch.equal(tensor, first[name]) for name, tensor in load_file(damaged).items())
    assert (out / "clip-0000001.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(InputError, match=r"other settings .recipe.frames was 2, is 3.; give the same ones"):
        clips(out, "recipe.frames=3")


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


@pytest.mark.slow
def test_clips_of_two_processes_are_those_of_one_byte_for_byte_also_where_one_is_killed(tmp_path):
    count = int(os.environ.get("CUS_TEST_CLIPS", "12"))

    def start(out: str, part: int, parts: int) -> subprocess.Popen[str]:
        given = [f"out={tmp_path / out}", f"clips={count}", *RECIPE, f"part={part}", f"parts={parts}"]
        command = [sys.executable, str(ROOT / "data" / "make_procedural.py"), *given]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def finish(*processes: subprocess.Popen[str]) -> None:
        for process in processes:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0, output

    finish(start("one", 0, 1))
    first, second = start("two", 0, 2), start("two", 1, 2)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "two").glob("clip-*[13579].safetensors")) and time.monotonic() < deadline:
        time.sleep(0.005)
    second.send_signal(signal.SIGKILL)
    second.communicate(timeout=60)
    finish(first)
    assert len(checksums(tmp_path / "two")) < count, "the second process had ended before it was killed"
    finish(start("two", 1, 2))
    assert checksums(tmp_path / "two") == checksums(tmp_path / "one") and len(checksums(tmp_path / "one")) == count


@pytest.mark.parametrize("name", ["settings.yaml", "clip-0000001.safetensors"])
def test_files_of_the_user_in_the_way_of_clips_are_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}, which no run made"):
        clips(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"


def test_parts_of_the_work_share_a_folder(tmp_path):
    first = OutputFolder(tmp_path, "training clips")
    first.open(("clip-*.safetensors",), share="-0-of-2")
    second = OutputFolder(tmp_path, "training clips")
    second.open(("clip-*.safetensors",), share="-1-of-2")
    first.write("settings.yaml", lambda part: part.write_text("parts: 2"))
    second.write("settings.yaml", lambda part: part.write_text("parts: 2"))
    with pytest.raises(InputError, match=f"process {os.getpid()}"):
        OutputFolder(tmp_path, "training clips").open((), share="-0-of-2")


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "checkpoints/step-00000001", "export/README.md"])
def test_files_of_the_user_in_the_way_of_training_are_refused(tmp_path, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    arguments = [f"out={tmp_path / 'out'}", "clips=none", "held_out=none"]
    with pytest.raises(InputError, match="holds .*, which no run made"):
        train_stage(VaeConfig, VaeStage, arguments, lambda done, total: None)
    assert mine.read_text() == "mine"


def test_checkpoints_drop_only_their_own(tmp_path):
    folder = OutputFolder(tmp_path / "run", "a training run")
    folder.open(("checkpoints/step-????????",))
    parameter = torch.nn.Parameter(torch.ones(2))
    checkpoints = Checkpoints(Accelerator(cpu=True), folder, keep=1, ema=Ema([parameter], 0.0))
    checkpoints.save(1)
    (tmp_path / "run" / "checkpoints" / "step-00000001" / "notes.txt").write_text("mine")
    checkpoints.save(2)
    checkpoints.save(2)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.suffix == ".txt")
    assert left == ["notes.txt"]
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "step-00000001",
        "step-00000002",
    ]


def test_a_picture_of_clips_needs_the_name_of_a_picture(tmp_path):
    script = [sys.executable, str(ROOT / "data" / "show_clips.py"), f"clips={tmp_path}", f"out={tmp_path / 'picture'}"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "is no name of a picture; end it in .png or .jpg" in done.stderr
