"""Several processes train what one trains: real ones, started by Accelerate, that talk through gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from cus.datasets.clips import Clip, save_clip
from cus.errors import InputError
from cus.training.loop import LoopSettings
from tests.training.jobs import train

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20


def launch(folder: Path, *jobs: dict, variables: dict[str, str] | None = None) -> tuple[int, str]:
    """Run jobs in two processes; the launcher's status and what was printed."""
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(jobs))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/cpu.yaml"]
    command = [*launcher, "--num_processes", "2", "-m", "tests.training.jobs", str(listed)]
    process = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(variables or {})},
    )
    return process.returncode, process.stdout + process.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "export" / "unet" / "diffusion_pytorch_model.safetensors")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(5):
        videos = torch.rand(3, 3, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
        masks = torch.ones(3, 16, 24, dtype=torch.bool)
        save_clip(folder / f"{seed}.safetensors", Clip(videos[0, :2], videos[1], videos[2], masks))
    return folder


def job(out: Path, clips: Path, steps: int = STEPS, *more: str) -> dict:
    return {"arguments": [f"out={out}", f"clips={clips}", f"loop.steps={steps}", f"loop.save_every={STEPS}", *more]}


@pytest.fixture(scope="module")
def runs(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `one`, `two`, `one-two` and `two-one`: by how many processes each was trained, half its steps each."""
    folder = tmp_path_factory.mktemp("runs")
    train(**job(folder / "one", clips))
    # An odd number of steps, in whose middle a count of batches that is not that of the new processes would stand.
    train(**job(folder / "one-two", clips, 11))
    jobs = [job(folder / "two", clips), job(folder / "two-one", clips, 11), job(folder / "one-two", clips)]
    status, printed = launch(folder, *jobs)
    assert status == 0, printed
    assert (folder / "two" / "checkpoints" / f"step-{STEPS:08d}" / "random_states_1.pkl").is_file(), "one process ran"
    train(**job(folder / "two-one", clips))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "two-one", "one-two"])
def test_two_processes_equal_one_over_twenty_steps_and_a_run_may_change_their_number(runs: Path, name: str) -> None:
    assert len(losses(runs / name)) == STEPS
    assert losses(runs / name) == pytest.approx(losses(runs / "one"), rel=1e-5)
    expected = weights(runs / "one")
    for key, value in weights(runs / name).items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_goes_on_bit_for_bit(tmp_path: Path, clips: Path) -> None:
    every_two = "loop.save_every=2"
    killed = job(tmp_path / "killed", clips, 4, every_two)
    status, printed = launch(tmp_path, job(tmp_path / "once", clips, 4, every_two), killed | {"kill_at": 3})
    assert status != 0 and "SIGKILL" in printed, printed
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (tmp_path / "killed" / "export").exists()
    status, printed = launch(tmp_path, killed)
    assert status == 0, printed
    once, again = weights(tmp_path / "once"), weights(tmp_path / "killed")
    assert once.keys() == again.keys()
    assert all(torch.equal(once[key], again[key]) for key in once)


@pytest.mark.slow
def test_a_model_sharded_over_two_processes_is_saved_continued_shown_and_exported(tmp_path: Path, clips: Path) -> None:
    """FSDP2 as configs/accelerate/fsdp2.yaml sets it up, against one process with the whole model."""
    settings = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    variables = {"ACCELERATE_USE_FSDP": "true", **{name.upper(): str(value) for name, value in settings.items()}}
    pictures = [f"held_out={clips}", "held_out_clips=1", "loop.sample_every=4"]
    jobs = [job(tmp_path / "sharded", clips, 2, *pictures), job(tmp_path / "sharded", clips, 4, *pictures)]
    status, printed = launch(tmp_path, *jobs, variables=variables)
    assert status == 0, printed
    checkpoint = tmp_path / "sharded" / "checkpoints" / "step-00000004"
    assert (checkpoint / "pytorch_model_fsdp_0" / "__1_0.distcp").is_file(), "the model was not sharded"
    train(**job(tmp_path / "whole", clips, 4, *pictures))
    scores = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("sharded", "whole")]
    assert scores[0]["psnr"] == pytest.approx(scores[1]["psnr"], abs=1e-3)
    assert (tmp_path / "sharded" / "samples" / "step-00000004.png").is_file()
    expected = weights(tmp_path / "whole")
    for key, value in weights(tmp_path / "sharded").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="FSDP, DeepSpeed and neither cannot read"):
        train(**job(tmp_path / "sharded", clips, 6, *pictures))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_what_accelerate_reads(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert f"--config_file configs/accelerate/{path.name}" in path.read_text()


def test_a_step_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match=r"accumulate=4 batches cannot be shared evenly by 3 .*start 1 or 2 or 4"):
        LoopSettings(accumulate=4).share(3)
    with pytest.raises(InputError, match=r"start 1 or 2, or train .*loop.accumulate=8 \(of 24 items instead of 6\)"):
        LoopSettings(accumulate=2, batch=3).share(8)
    assert [LoopSettings(accumulate=4).share(processes) for processes in (1, 2, 4)] == [4, 2, 1]
