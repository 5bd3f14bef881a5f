"""The ablation's recipe: lines of tiny models, trained once each, and the table that compares them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cus.datasets.clips import clip_paths, load_clip
from cus.errors import InputError
from cus.evaluation.rows import Frames
from cus.evaluation.runner import evaluate
from cus.evaluation.settings import EvalSettings
from cus.training.config import resolve
from cus.training.scripts import settings_of
from procedural import photographic_clips
from procedural.ablation import Ablation, Line, run
from procedural.photo_clips import PhotoClipRecipe
from procedural.photographic_clips import PhotographicClips
from tests.conftest import ROOT
from tests.evaluation.small_scenes import SIZE, one_thread, write_scenes
from tests.procedural.test_photographs import write_photo

CONFIG = ROOT / "configs/mini/table3.yaml"
SMALL = [
    *("model.unet.model_channels=16", "model.unet.channel_mult=[1,1]", "model.unet.norm_groups=4"),
    *("model.unet.head_channels=8", "model.unshuffle=2", "crop=[8,8]", "frames=2"),
    *("model.image_encoder={image_size: 28, patch_size: 14, width: 16, layers: 1, heads: 2, output_dim: 4}",),
    *("model.image_projector={token_dim: 16, context_dim: 64, dim: 16, depth: 1, heads: 2, head_channels: 8}",),
    *("loop.precision=float32", "loop.batch=1"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of one scene of a photograph on a plane, with every conditioning."""
    folder = tmp_path_factory.mktemp("ablation")
    write_photo(folder / "0.jpg", 0)
    listed = [{"file": "0.jpg", "licence": "CC0", "source": "drawn", "credit": "us"}]
    (folder / "list.json").write_text(json.dumps({"photographs": listed}))
    recipe = PhotoClipRecipe(
        frames=2, width=96, height=64, window_width=48, window_height=32, windows=2, path_frames=6, exact_fraction=1.0
    )
    recipe = replace(recipe, others=["hierarchical", "low", "high"])
    made = PhotographicClips(str(folder / "clips"), str(folder / "list.json"), 1, 4, recipe, coarse_frames=3)
    with one_thread():
        photographic_clips.build(made, lambda done, total: None)
    return folder / "clips"


def small_ablation(out: Path, clips: Path, *lines: str) -> Ablation:
    """The shipped recipe with small models, all or some of its lines."""
    found = settings_of(Ablation, [str(CONFIG), f"out={out}", f"clips={clips}", "steps=2"])
    kept = [line for line in found.lines if not lines or line.name in lines]
    rows = [row for row in found.evaluation.rows if not lines or isinstance(row, Frames) and row.model in lines]
    table = replace(found.evaluation, rows=rows, baseline="", size=SIZE, frames=3, metrics=["psnr"])
    table = replace(table, rules={"zooms": [2], "centers": ["centre"]})
    recipe = str(ROOT / found.recipe)
    found = replace(found, coarse_frames=3)
    return replace(found, recipe=recipe, settings=[*found.settings, *SMALL], lines=kept, evaluation=table)


def weights(out: Path, line: str) -> dict[str, torch.Tensor]:
    return load_file(out / line / "export" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_lines_are_trained_once_and_the_table_names_each_ones_model(tmp_path, clips) -> None:
    out = tmp_path / "out"
    ablation = small_ablation(out, clips, "hierarchical", "guidance", "layers")
    told: list[tuple[int, int]] = []
    with one_thread(), pytest.raises(InputError, match="line hierarchical has ended before step 2"):
        run(replace(ablation, settings=[*ablation.settings, "loop.minutes=1e-9"]), lambda done, total: None)
    assert (out / "hierarchical/checkpoints/step-00000001").is_dir() and not (out / "guidance").exists()
    with one_thread():
        table = run(ablation, lambda done, total: told.append((done, total)))
    assert told[-1] == (7, 7)  # two steps of three lines, and the structure images of a scene
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    coarse = [load_clip(path) for path in clip_paths(out / "coarse-hierarchical")]
    assert [path.name for path in clip_paths(clips)] == [path.name for path in clip_paths(out / "coarse-hierarchical")]
    assert any(clip.structure is not None for clip in coarse)
    # From the same start on the same items; only the structure images differ.
    one, other = weights(out, "hierarchical"), weights(out, "guidance")
    assert one.keys() == other.keys() and all(torch.allclose(one[key], other[key], atol=0.02) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    settings = resolve(EvalSettings, table, [])
    models = {row.name: row.model for row in settings.rows if isinstance(row, Frames)}
    assert models["suppression"] == models["hierarchical"] == str((out / "hierarchical/export").resolve())
    assert models["guidance"] == models["guidance-pass-1"] == str((out / "guidance/export").resolve())

    before = {line.name: (out / line.name / "export/model_index.json").stat().st_mtime_ns for line in ablation.lines}
    with one_thread():
        run(ablation, lambda done, total: None)
    after = {line.name: (out / line.name / "export/model_index.json").stat().st_mtime_ns for line in ablation.lines}
    assert after == before
    recipe = settings_of(PhotographicClips, [str(out / "coarse-hierarchical/settings.yaml")])
    weights_of = "hierarchical/export/unet/diffusion_pytorch_model.safetensors"
    save_file({**one, "conv_in.bias": one["conv_in.bias"] + 1}, out / weights_of, {"format": "pt"})
    with pytest.raises(InputError, match="were made with other weights"):
        photographic_clips.build(recipe, lambda done, total: None)
    save_file(one, out / weights_of, {"format": "pt"})
    with pytest.raises(InputError, match="steps was 2, is 3"):
        run(replace(ablation, steps=3), lambda done, total: None)

    scenes = write_scenes(tmp_path / "data", "one")
    with one_thread():
        outcome = evaluate(scenes, tmp_path / "eval", settings)
    assert {record.row for record in outcome.records} == {row.name for row in settings.rows}
    assert not [record for record in outcome.failures if record.row != "guidance"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": []}, "there is no line to train"),
        ({"lines": [Line("a"), Line("a")]}, "two folders would be called 'a'"),
        ({"lines": [Line("a/b")]}, "must do as a folder"),
        ({"lines": [Line("a", coarse="b"), Line("b")]}, "coarse=b is no earlier line"),
        ({"lines": [Line("a", ["conditioning=points"])]}, "no conditioning 'points' beside its own .there: hier"),
        ({"lines": [Line("a", ["loop.lr=1"])]}, "line a: the command line: unknown setting 'loop.lr'"),
        ({"lines": [Line("a")]}, "row low: model must name a line .a., got low"),
    ],
)
def test_what_cannot_be_trained_or_compared_is_refused_first(tmp_path, clips, change: dict, message: str) -> None:
    ablation = replace(small_ablation(tmp_path / "out", clips), **change)
    with pytest.raises(InputError, match=message):
        run(ablation, lambda done, total: None)
    assert not (tmp_path / "out").exists()


def test_every_line_of_the_shipped_recipe_is_compared() -> None:
    ablation = settings_of(Ablation, [str(CONFIG), "out=o", "clips=c"])
    models = {row.model for row in ablation.evaluation.rows if isinstance(row, Frames)}
    assert models == {line.name for line in ablation.lines}
    ablation.evaluation.check()
