"""A converted checkpoint in ViewCrafter's layout through the whole command: portrait pairs, long paths."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cus.cli.infer import main
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "courtyard"
SMALL = ["--photo-size", "384", "--size", "128", "--steps", "2", "--splat-iterations", "8"]


def run(model: Path, views: list[Path], out: Path, *options: str) -> dict:
    """`run.json` of a run."""
    assert main(["--model", str(model), "--views", *map(str, views), "--out", str(out), *SMALL, *options]) == 0
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The middle of the example's photographs, twice as tall as wide."""
    folder = tmp_path_factory.mktemp("portraits")
    made = []
    for name in ("a.jpg", "b.jpg"):
        with Image.open(EXAMPLE / name) as picture:
            left = (picture.width - picture.height // 2) // 2
            picture.crop((left, 0, left + picture.height // 2, picture.height)).save(folder / name, quality=95)
        made.append(folder / name)
    return made


def test_a_portrait_pair_gives_portrait_frames_and_a_scene_with_little_memory(
    tiny_model: Path, portraits: list[Path], tmp_path: Path
) -> None:
    made = run(tiny_model, portraits, tmp_path, "--memory", "low", "--structure")
    assert made["status"] == "finished" and made["settings"]["memory"] == "low"
    assert 0 < made["network_memory_bytes"]["estimated"] < made["network_memory_bytes"]["free"]
    assert made["settings"]["conditioning"] == "points", "converted weights know ViewCrafter's point renders"
    frames = sorted((tmp_path / "frames").glob("*.png"))
    # 64x128 is what the networks see; nothing is cut off, nothing added.
    assert [Image.open(frame).size for frame in frames] == [(64, 128)] * 5
    assert (tmp_path / "splat.ply").stat().st_size > 1000


@pytest.mark.slow
def test_a_long_path_is_made_in_chunks_that_meet_at_their_shared_frames(tiny_model: Path, tmp_path: Path) -> None:
    views = [EXAMPLE / "a.jpg", EXAMPLE / "b.jpg"]
    made = run(tiny_model, views, tmp_path, "--frames", "41", "--no-splat", "--guidance", "1")
    frames = [np.asarray(Image.open(path)).astype(float) for path in sorted((tmp_path / "frames").glob("*.png"))]
    assert made["status"] == "finished" and len(frames) == 41 and frames[0].shape == (72, 128, 3)
    changes = np.array([np.abs(b - a).mean() for a, b in zip(frames[:-1], frames[1:], strict=True)])
    # Chunks of 5 frames: each begins with the last frame of the one before.
    seams = np.arange(4, 40, 4)
    inside = np.delete(changes, seams)
    assert changes[seams].mean() < 1.25 * inside.mean()
