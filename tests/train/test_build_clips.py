"""Posed scenes become clips that training reads: one process, several, and one that is killed."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import fsspec
import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.datasets.clips import clip_paths, load_clip
from cus.datasets.other_warps import shown_by
from cus.errors import InputError
from cus.training.clip_crops import LayeredCrops
from cus.training.scene_clips import SceneClips, build, split_of
from cus.training.scene_estimate import estimate
from cus.training.scripts import settings_of
from procedural.tracer import random_scene, render, sample_reference_cameras
from tests.conftest import ROOT
from tests.datasets.layouts import write_dl3dv

OTHERS = ["hierarchical", "high", "low", "points"]
SMALL = """
licence: made for this test
held_out_share: 0
recipe:
  frames: 2
  width: 96
  height: 64
  segment: 3
  segments: 1
  pseudo: 1
  checked_pairs: 3
  estimator: stereo
  others: [hierarchical, high, low, points]
  truth: {size: 96, full_size: 240, iterations: 6, max_gaussians: 4000, sh_degree: 0, cloud_views: 3, cloud_size: 96}
  filters: {least_held_out_psnr: 5, least_sharpness: 0.01, least_opacity: 0.2, least_agreement: 5, least_coverage: 0.2}
"""


@lru_cache
def views(seed: int) -> tuple[Tensor, Cameras]:
    scene = random_scene(seed)
    cameras = sample_reference_cameras(scene, seed, 240, 160, views=4)
    return render(scene, cameras)[0], cameras


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes as DL3DV-10K stores them, photographs in images_4 alone, and one whose cameras are cut off."""
    folder = tmp_path_factory.mktemp("scenes")
    for name, seed in (("1K/aaa", 3), ("1K/bbb", 5)):
        write_dl3dv(folder / name, *views(seed))
    broken = folder / "2K" / "broken" / "nerfstudio"
    broken.mkdir(parents=True)
    (broken / "transforms.json").write_text('{"frames": [')
    (folder / "small.yaml").write_text(SMALL)
    return folder


def settings(scenes: Path, out: Path, *more: str) -> SceneClips:
    return settings_of(SceneClips, [str(scenes / "small.yaml"), f"out={out}", f"scenes=[{scenes}]", *more])


def built(scenes: Path, out: Path, *more: str) -> tuple[dict, list[str]]:
    """(manifest, lines that were said) of a build in this process."""
    said: list[str] = []
    build(settings(scenes, out, *more), lambda done, total, words: None, said.append)
    return json.loads((out / "manifest.json").read_text()), said


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list[str]]:
    """(folder, manifest, lines) of a build by one process; do not change it."""
    out = tmp_path_factory.mktemp("built")
    return out, *built(scenes, out, "held_out=[1K/bbb]")


def checksums(manifest: dict) -> dict[str, str]:
    return {clip["file"]: clip["sha256"] for clip in manifest["clips"]}


def test_a_scene_of_dl3dv_goes_through_to_clips_that_training_reads(whole):
    out, manifest, _ = whole
    assert str(out.parent) not in json.dumps([manifest["scenes"], manifest["clips"], manifest["left_out"]])
    kinds = {(clip["scene"], clip["truth"]) for clip in manifest["clips"]}
    assert kinds == {(scene, truth) for scene in ("1K/aaa", "1K/bbb") for truth in ("pseudo", "photographic")}
    for split in ("train", "held_out"):
        for path in clip_paths(out / split):
            clip = load_clip(path)
            assert clip.targets.shape[1:] == (3, 64, 96) and clip.references.shape == (2, 3, 64, 96)
            assert sorted(clip.others) == sorted(OTHERS) and clip.layers is not None
            assert float(clip.masks.float().mean()) > 0.2
        for conditioning, layers in (("", 2), *((name, 0) for name in OTHERS)):
            item = LayeredCrops(out / split, 2, (32, 32), 0, layers, 28, conditioning)[0]
            assert item["targets"].shape == item["conditioning"].shape == (2, 3, 32, 32)


def test_the_targets_are_what_the_conditioning_shows(whole):
    out, manifest, _ = whole
    for clip in manifest["clips"]:
        assert all(verdict["passed"] for verdict in clip["verdicts"])
        shown = load_clip(out / clip["file"])
        known = shown.masks[:, None].expand_as(shown.targets)
        error = (shown.targets - shown.conditioning)[known].square().mean()
        other = (shown.targets.flip(-1) - shown.conditioning)[known].square().mean()
        # Estimates of such small photographs err, and the fit has been through six steps alone.
        assert error < 0.7 * other


def test_clips_hold_the_cameras_and_depths_that_a_point_cloud_is_fused_from(whole):
    out, _, _ = whole
    clip = load_clip(clip_paths(out / "train")[0])
    assert clip.geometry is not None
    # As deep as the photographs say, and as far as the conditioning reaches.
    known = clip.masks & (clip.geometry.shown > 0)
    assert known.sum() == clip.masks.sum()
    scale = clip.geometry.estimate(clip.references).scale
    assert 0.2 * scale < clip.geometry.shown[known].median() < 2 * scale
    warped = shown_by(clip, "hierarchical")
    assert torch.equal(warped.depths > 0, warped.masks)
    with pytest.raises(InputError, match="no cameras and depths"):
        shown_by(replace(clip, geometry=None), "")


def test_the_manifest_has_checksums_licence_splits_and_verdicts(whole):
    out, manifest, _ = whole
    assert manifest["licence"] == "made for this test"
    assert manifest["splits"] == {"train": ["1K/aaa"], "held_out": ["1K/bbb"]}
    files = sorted(path.relative_to(out).as_posix() for path in out.glob("*/*.safetensors"))
    assert files == sorted(checksums(manifest))
    for name, digest in checksums(manifest).items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    verdicts = {verdict["name"] for clip in manifest["clips"] for verdict in clip["verdicts"]}
    assert verdicts == {"coverage", "agreement", "sharpness", "opacity", "distance", "inside"}
    # Tables of the shards' entries want the same columns in all.
    assert len({tuple(sorted(clip)) for clip in manifest["clips"]}) == 1
    assert [v["name"] for v in manifest["scenes"]["1K/aaa"]["verdicts"]] == ["epipolar_error", "held_out_psnr"]


def test_a_broken_scene_is_listed_with_its_reason_and_the_others_are_built(whole):
    _, manifest, said = whole
    assert [failure["scene"] for failure in manifest["failures"]] == ["2K/broken"]
    assert "not valid JSON" in manifest["failures"][0]["reason"]
    assert any(line.startswith("2K/broken: failed: ") for line in said) and len(said) == 3


def test_the_same_command_builds_what_is_missing_and_tries_failures_again(scenes, whole, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole[0], out)
    (out / "scenes" / "1K_aaa.json").unlink()
    kept = {path: path.stat().st_mtime_ns for path in (out / "held_out").iterdir()}
    manifest, said = built(scenes, out, "held_out=[1K/bbb]")
    assert [line.split(":")[0] for line in said] == ["1K/aaa", "2K/broken"]
    assert checksums(manifest) == checksums(whole[1])
    assert {path: path.stat().st_mtime_ns for path in (out / "held_out").iterdir()} == kept
    with pytest.raises(InputError, match="other settings .recipe.frames was 2, is 3"):
        built(scenes, out, "held_out=[1K/bbb]", "recipe.frames=3")


def test_parts_of_the_work_make_the_same_clips(scenes, whole, tmp_path):
    for part in (0, 1):
        manifest, _ = built(scenes, tmp_path / "parts", "held_out=[1K/bbb]", f"part={part}", "parts=2")
    assert checksums(manifest) == checksums(whole[1])


def test_clips_built_to_a_remote_folder_are_those_of_a_local_one(scenes, tmp_path, monkeypatch):
    """fsspec's memory stands in for a bucket; two machines share the scenes."""
    more = ["names=[1K/aaa,1K/bbb]", "held_out=[1K/bbb]", "recipe.pseudo=0"]
    expected, _ = built(scenes, tmp_path / "local", *more)
    bucket = fsspec.filesystem("memory")
    bucket.store.clear()
    for part in (0, 1, 0):
        # Another machine has nothing of the first one's workplace; the last one finds nothing to do.
        monkeypatch.setenv("CLOSEUPSHOT_CACHE", str(tmp_path / f"machine{part}"))
        said: list[str] = []
        given = [str(scenes / "small.yaml"), "out=memory://b/clips", f"scenes=[{scenes}]", *more, f"part={part}"]
        build(settings_of(SceneClips, [*given, "parts=2"]), lambda done, total, words: None, said.append)
    assert not said
    manifest = json.loads(bucket.cat("/b/clips/manifest.json"))
    assert checksums(manifest) == checksums(expected) and manifest["splits"] == expected["splits"]
    for name, digest in checksums(manifest).items():
        assert hashlib.sha256(bucket.cat(f"/b/clips/{name}")).hexdigest() == digest
    assert not list(tmp_path.glob("machine*/**/*.safetensors")), "finished clips need no space here"
    with pytest.raises(InputError, match="other settings .recipe.frames was 2, is 3"):
        monkeypatch.setenv("CLOSEUPSHOT_CACHE", str(tmp_path / "machine2"))
        build(settings_of(SceneClips, [*given, "recipe.frames=3"]), lambda done, total, words: None, said.append)


def test_a_fit_that_held_out_photographs_refute_gives_photographic_clips_alone(scenes, tmp_path):
    more = ["names=[1K/aaa]", "recipe.filters.least_held_out_psnr=60"]
    manifest, said = built(scenes, tmp_path / "out", *more)
    assert {clip["truth"] for clip in manifest["clips"]} == {"photographic"}
    verdict = manifest["scenes"]["1K/aaa"]["verdicts"][1]
    assert verdict["name"] == "held_out_psnr" and not verdict["passed"] and "held_out_psnr" in said[0]


def test_clips_that_a_filter_refuses_are_listed_with_its_value(scenes, tmp_path):
    more = ["names=[1K/aaa]", "recipe.pseudo=0", "recipe.filters.least_agreement=90"]
    manifest, said = built(scenes, tmp_path / "out", *more)
    assert not manifest["clips"] and not list((tmp_path / "out").glob("train/*"))
    refused = [v for clip in manifest["left_out"] for v in clip["verdicts"] if not v["passed"]]
    assert refused and {v["name"] for v in refused} == {"agreement"} and all(v["value"] < 90 for v in refused)
    assert "1K/aaa: 0 clips, 1 left out (agreement 1)" in said[0]


def test_without_one_good_scene_the_build_fails_and_without_any_it_does_not_start(scenes, tmp_path):
    with pytest.raises(InputError, match="none of 1 scenes could be used; the first one: 2K/broken: .*not valid JSON"):
        built(scenes, tmp_path / "out", "names=[2K/broken]")
    with pytest.raises(InputError, match="there is no scene '1K/ccc'; there are 1K/aaa, 1K/bbb"):
        built(scenes, tmp_path / "other", "names=[1K/ccc]")
    with pytest.raises(InputError, match="both 0: there is nothing to build"):
        built(scenes, tmp_path / "other", "recipe.pseudo=0", "recipe.photographic=0")
    assert not (tmp_path / "other").exists()


def test_of_several_processes_none_fails_for_its_scenes(scenes, tmp_path):
    manifest, said = built(scenes, tmp_path / "out", "names=[2K/broken]", "part=0", "parts=2")
    assert [failure["scene"] for failure in manifest["failures"]] == ["2K/broken"] and len(said) == 1


def test_a_dry_run_measures_and_writes_nothing(scenes, tmp_path):
    said: list[str] = []
    estimate(settings(scenes, tmp_path / "out", "dry_run=true"), lambda done, total, words: None, said.append)
    assert "3 scenes of about 4 photographs, 6 steps" in "\n".join(said)
    assert "GB, if no filter leaves a clip out" in said[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "clips").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_settings_are_complete_but_for_scenes_out_and_licence(path):
    given = settings_of(SceneClips, [str(path), "out=a", "scenes=[b]", "licence=c"])
    assert given.recipe.others and not given.dry_run
    with pytest.raises(InputError, match="settings without a value: licence, out"):
        settings_of(SceneClips, [str(path)])


def test_splits_depend_on_names_alone():
    given = SceneClips(out="", licence="", held_out=["a"], held_out_share=0.3)
    drawn = [split_of(f"scene {i}", given) for i in range(400)]
    assert split_of("a", given) == "held_out" and 0.2 < drawn.count("held_out") / 400 < 0.4
    assert drawn == [split_of(f"scene {i}", given) for i in range(400)]


def start(scenes: Path, out: Path, rank: int, processes: int) -> subprocess.Popen[str]:
    """A process as `accelerate launch` starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(processes)}
    arguments = [str(scenes / "small.yaml"), f"out={out}", f"scenes=[{scenes}]", "held_out=[1K/bbb]"]
    command = [sys.executable, str(ROOT / "data" / "build_clips.py"), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
    )


@pytest.mark.slow
def test_two_processes_equal_one_also_where_one_is_killed(scenes, whole, tmp_path):
    out = tmp_path / "out"
    first, second = start(scenes, out, 0, 2), start(scenes, out, 1, 2)
    deadline = time.monotonic() + 240
    # In the middle of its first scene, when a clip is there and its record is not.
    while not list(out.glob("*/1K_bbb-*")) and second.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    second.send_signal(signal.SIGKILL)
    second.communicate(timeout=60)
    output, _ = first.communicate(timeout=240)
    assert first.returncode == 0, output
    for process in [start(scenes, out, rank, 2) for rank in (0, 1)]:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    assert checksums(json.loads((out / "manifest.json").read_text())) == checksums(whole[1])
    hidden = {path.name for path in out.rglob(".*")}
    assert hidden == {".closeupshot-files"}


@pytest.mark.slow
def test_a_network_trains_on_the_clips(whole, tmp_path):
    from tests.train.test_scripts import UNET, run

    out, _, _ = whole
    arguments = [
        *(f"out={tmp_path / 'run'}", f"clips={out / 'train'}", f"held_out={out / 'held_out'}", "model.unshuffle=4"),
        "model.image_encoder={image_size: 28, patch_size: 14, width: 16, layers: 1, heads: 2, output_dim: 4}",
        "model.image_projector={token_dim: 16, context_dim: 16, dim: 16, depth: 1, heads: 2, head_channels: 8}",
        *("sampling.layers=2", "sampling.conditioning=fused", "frames=2", "crop=[4,4]", *UNET),
        *("loop.steps=2", "loop.batch=1", "loop.workers=0", "loop.precision=float32", "loop.log_every=1"),
    ]
    run("train/unet.py", *arguments)
    assert (tmp_path / "run" / "export" / "model_index.json").is_file()
    assert torch.isfinite(
        torch.tensor(json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["loss"])
    )
