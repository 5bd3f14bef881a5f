"""The loop on a tiny model: what its settings change, and what they must not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cus.datasets.clips import Clip, ClipItems, save_clip
from cus.errors import InputError
from cus.output_folder import OutputFolder
from cus.training.loop import LoopSettings, checkpoint_activations, make_optimizer, train
from cus.training.scripts import settings_of
from cus.training.state import Ema
from cus.training.tracking import Tracker
from cus.training.unet import UNetConfig, UNetStage
from tests.training import jobs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(3):
        videos = torch.rand(3, 3, 3, 16, 24, generator=torch.Generator().manual_seed(seed))
        save_clip(folder / f"{seed}.safetensors", Clip(videos[0, :2], videos[1], videos[2], torch.ones(3, 16, 24) > 0))
    return folder


def run(out: Path, clips: Path, *more: str) -> dict[str, torch.Tensor]:
    """Weights of the U-Net after two steps."""
    jobs.train([f"out={out}", f"clips={clips}", "loop.steps=2", *more])
    return load_file(out / "export" / "unet" / "diffusion_pytorch_model.safetensors")


def test_settings_that_save_memory_or_wait_for_accidents_change_no_weight(tmp_path: Path, clips: Path) -> None:
    settings = ["loop.gradient_checkpointing=true", "loop.ema_device=cpu", "loop.bad_steps=3"]
    expected, got = run(tmp_path / "plain", clips), run(tmp_path / "with", clips, *settings)
    assert all(torch.equal(value, got[key]) for key, value in expected.items())


def test_gradient_checkpointing_runs_blocks_again_and_only_those_of_networks_that_learn(clips: Path) -> None:
    config = settings_of(UNetConfig, [*jobs.TINY, "out=x", f"clips={clips}"])
    stage = UNetStage(config)
    checkpoint_activations(stage.module)
    assert stage.pipeline.unet.is_gradient_checkpointing
    calls: list[None] = []
    stage.pipeline.unet.middle.space.register_forward_pre_hook(lambda *args: calls.append(None))
    batch = torch.utils.data.default_collate([stage.dataset()[0]])
    stage.loss(stage.module, batch, torch.Generator().manual_seed(0)).backward()
    assert len(calls) == 2
    with pytest.raises(InputError, match="nothing that is trained here supports it"):
        checkpoint_activations(stage.module.requires_grad_(False))


class Tripping(nn.Module):
    """A weight whose loss is not a number at the calls that are named."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.bad, self.calls = bad, 0

    @property
    def module(self) -> nn.Module:
        return self

    def loss(self, module: nn.Module, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        self.calls += 1
        return (self.weight**2).sum() * (float("nan") if self.calls in self.bad else 1.0)

    def sample(self, folder: Path, step: int) -> dict[str, float]:
        return {}

    def export(self, folder: Path) -> None:
        (folder / "done").write_text("done")


class Nothing(torch.utils.data.Dataset):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {}


def trip(out: Path, bad: set[int], dataset: torch.utils.data.Dataset | None = None, **settings) -> Tripping:
    folder, stage = OutputFolder(out, "a training run"), Tripping(bad)
    folder.open(("log.jsonl",))
    try:
        settings = LoopSettings(precision="float32", workers=0, log_every=1, **settings)
        train(stage, dataset or Nothing(), settings, folder)
    finally:
        folder.close()
    return stage


def test_bad_steps_are_named_and_left_out_and_too_many_in_a_row_end_the_run(tmp_path: Path, capsys) -> None:
    kept = trip(tmp_path / "kept", {2, 3, 5}, steps=6, bad_steps=2, ema_decay=0.5)
    plain = trip(tmp_path / "plain", set(), steps=3)
    # What is left out leaves no trace in weights or moments.
    torch.testing.assert_close(kept.weight, plain.weight)
    notes = [line["note"] for line in map(json.loads, (tmp_path / "kept/log.jsonl").open()) if "note" in line]
    assert [note.split(" has")[0] for note in notes] == [f"left out: step {step}" for step in (2, 3, 5)]
    assert "the loss nan" in notes[0] and notes[0] in capsys.readouterr().err
    with pytest.raises(InputError, match=r"more than loop.bad_steps=2 in a row: step 4 has the loss nan"):
        trip(tmp_path / "ended", {2, 3, 4}, steps=6, bad_steps=2)
    with pytest.raises(InputError, match=r"^step 2 has the loss nan.*; try a lower loop.learning_rate"):
        trip(tmp_path / "strict", {2}, steps=6)


class Named(ClipItems):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {}


def test_a_bad_step_names_its_clips(tmp_path: Path, clips: Path) -> None:
    order = [Named(clips, seed=0).path_of(item).name for item in (2, 3)]
    with pytest.raises(InputError, match=rf"step 2 .* \(clips {order[0]}, {order[1]}\)"):
        trip(tmp_path, {3}, dataset=Named(clips, seed=0), steps=6, accumulate=2)


def test_eight_bit_moments_are_refused_where_they_cannot_be() -> None:
    settings = LoopSettings(optimizer="adamw8bit")
    with pytest.raises(InputError, match="adamw8bit needs a CUDA GPU, and this runs on cpu"):
        make_optimizer([nn.Parameter(torch.ones(2))], settings, CPU)
    with pytest.raises(InputError, match="nothing is trained"):
        make_optimizer([], LoopSettings(), CPU)


def test_averages_on_the_cpu_follow_the_same_definition() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    averages = [Ema([parameter], 0.9), Ema([parameter], 0.9, device="cpu")]
    for step in range(5):
        parameter.data += 1
        for ema in averages:
            ema.update(step)
    assert torch.equal(averages[0].averages[0], averages[1].averages[0])


def test_a_tracker_that_is_not_installed_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loop.trackers has aim, which is not installed: pip install aim"):
        trip(tmp_path, set(), steps=1, trackers=["aim"])


def test_what_stops_a_tracker_is_told(tmp_path: Path) -> None:
    def refuse(*args, **kwargs) -> None:
        raise RuntimeError("no login\nmore about it")

    accelerator: Any = SimpleNamespace(is_main_process=True, log_with=["wandb"], init_trackers=refuse)
    with pytest.raises(InputError, match=r"\[wandb\] cannot be started \(no login\); set it up, or leave it out"):
        Tracker(OutputFolder(tmp_path, "a training run"), LoopSettings(), accelerator)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_clip_is_named_whichever_process_reads_it_and_blocks_no_other_settings(
    tmp_path: Path, clips: Path, workers: int
) -> None:
    (tmp_path / "damaged").mkdir()
    first = sorted(clips.iterdir())[0].read_bytes()
    (tmp_path / "damaged" / "0.safetensors").write_bytes(first[: len(first) // 2])
    told = r"^cannot read the training clip [^\n]*0.safetensors: [^\n]*; delete it and build it again$"
    with pytest.raises(InputError, match=told):
        run(tmp_path / "run", tmp_path / "damaged", f"loop.workers={workers}")
    run(tmp_path / "run", clips)
