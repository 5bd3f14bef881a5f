"""Structure images of a trained model's own first pass."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cus.cameras import Cameras, trajectories
from cus.closeup import close_up
from cus.conditioning.kinds import conditioning_kind
from cus.datasets.clips import load_clip, save_clip
from cus.datasets.other_warps import References
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.training.coarse_clips import CoarseClips, CoarsePass, build
from cus.training.scripts import settings_of
from procedural import collage
from tests.diffusion.tiny import tiny_pipeline
from tests.evaluation.small_scenes import one_thread
from tests.training.made_clips import write_made_clips
from tests.training.test_clip_crops import small_stage, write_clips


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new model: its frames are its conditioning images."""
    folder = tmp_path_factory.mktemp("model")
    stage = small_stage(write_clips(folder), "sampling.conditioning=hierarchical", "sampling.layers=0")
    stage.export(folder / "export")
    return folder / "export"


def exact_references(width: int, height: int) -> tuple[References, Cameras]:
    scene, cameras = collage.Collage.random(3), collage.reference_cameras(3, width, height)
    images, depths = collage.render(scene, cameras, 1)
    estimate = SceneEstimate(images, cameras, depths, (depths > 0).float())
    path = trajectories.interpolate(cameras, 2.0, (0.5, 0.5), 7)
    return References(estimate, estimate, None), path


def test_structure_shows_what_the_frames_of_the_path_agree_on(model) -> None:
    references, path = exact_references(64, 48)
    truth, _ = collage.render(collage.Collage.random(3), path, 1)
    with one_thread():
        structure = CoarsePass(str(model), 5)(references, path, 2)
    assert structure.shape == (2, 3, 48, 64)
    shown = structure.amax(dim=1) > 0
    assert shown.float().mean() > 0.3
    errors = (structure - truth[-2:]).abs().mean(dim=1)[shown]
    assert errors.median() < 0.08


def test_a_path_on_which_nothing_is_seen_has_no_structure(model) -> None:
    references, path = exact_references(32, 24)
    turned = path.viewmats.clone()
    turned[:, [0, 2]] *= -1  # the cameras look back
    away = Cameras(turned, path.Ks, path.width, path.height)
    with one_thread(), pytest.raises(InputError, match="sees nothing"):
        CoarsePass(str(model), 4)(references, away, 2)


def test_a_model_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(InputError):
        CoarsePass(str(tmp_path / "absent"), 4)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with cameras and depths; do not change them."""
    with one_thread():
        return write_made_clips(tmp_path_factory.mktemp("clips"), 3)


def made(out: Path, clips: Path, model: Path, *more: str) -> list[str]:
    """Lines that data/make_coarse.py says."""
    said: list[str] = []
    given = [f"clips={clips}", f"out={out}", f"model={model}", "conditioning=hierarchical", *more]
    with one_thread():
        build(settings_of(CoarseClips, given), lambda done, total: None, said.append)
    return said


def test_a_stored_clip_gives_the_structure_images_that_inference_makes(model, clips) -> None:
    stored = load_clip(clips / "clip-3.safetensors")
    coarse = CoarsePass(str(model))
    with one_thread():
        found = coarse.of_clip(stored, "hierarchical", seed=5)
        scene = stored.geometry.estimate(stored.references)
        kind = conditioning_kind("hierarchical", suppress_background=False)
        whole = close_up(scene, stored.geometry.path, coarse.pipeline, passes=2, kind=kind, seed=5)
    assert whole.structure is not None
    # What the clip stores of its pictures is rounded to 8 bits, after which a few other pixels agree.
    assert ((found - whole.structure.images).abs() < 0.02).float().mean() > 0.98


def test_latents_that_were_generated_before_give_the_same_structure_images(clips, tmp_path) -> None:
    pipeline = tiny_pipeline(residual_scale=1.0, skip=True)
    pipeline.save_pretrained(tmp_path / "model")
    coarse, clip = CoarsePass(str(tmp_path / "model")), load_clip(clips / "clip-4.safetensors")
    with one_thread():
        draws = torch.Generator().manual_seed(7)
        latents = coarse.pipeline(clip.references, clip.shown, generator=draws, output_type="latent")
        expected = coarse.of_clip(clip, "", 7)
        assert torch.equal(coarse.of_clip(clip, "", 7, latents), expected)


def test_parts_of_the_work_make_the_same_files_and_the_same_command_makes_what_is_missing(
    model, clips, tmp_path
) -> None:
    assert made(tmp_path / "once", clips, model) == ["3 clips with structure images, 0 in which nothing agrees"]
    for part in (0, 1):
        made(tmp_path / "parts", clips, model, f"part={part}", "parts=2")
    names = sorted(path.name for path in (tmp_path / "once").glob("*.safetensors"))
    assert names == sorted(path.name for path in clips.glob("*"))
    for name in names:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    kept, lost, cut = (tmp_path / "once" / name for name in names)
    written = {path: path.read_bytes() for path in (lost, cut)}
    before = kept.stat().st_mtime_ns
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    made(tmp_path / "once", clips, model)
    assert kept.stat().st_mtime_ns == before and written == {path: path.read_bytes() for path in (lost, cut)}


def test_a_damaged_clip_is_listed_and_the_others_are_made(model, clips, tmp_path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    damaged = tmp_path / "clips" / "clip-5.safetensors"
    tensors = load_file(damaged)
    tensors["geometry.depths"] = tensors["geometry.depths"][:, :5].contiguous()
    save_file(tensors, damaged, {"format": "cus-clip-1"})
    with pytest.raises(InputError, match=r"1 of 3 clips have failed \(clip-5.safetensors: "):
        made(tmp_path / "out", tmp_path / "clips", model, "conditioning=''", "model=" + str(unshown(tmp_path)))
    assert (tmp_path / "out" / "clip-3.safetensors").is_file()
    assert "failed" in json.loads((tmp_path / "out" / "without" / "clip-5.json").read_text())
    # Mended, it is made, and its mark goes.
    shutil.copy(clips / "clip-5.safetensors", damaged)
    made(tmp_path / "out", tmp_path / "clips", model, "conditioning=''", "model=" + str(unshown(tmp_path)))
    assert (tmp_path / "out" / "clip-5.safetensors").is_file()
    assert not (tmp_path / "out" / "without" / "clip-5.json").exists()


def unshown(folder: Path) -> Path:
    """A model of random weights that knows no layers."""
    if not (folder / "model").is_dir():
        tiny_pipeline(residual_scale=1.0).save_pretrained(folder / "model")
    return folder / "model"


def test_a_clip_in_whose_frames_nothing_agrees_is_done_without_an_image(model, clips, tmp_path) -> None:
    clip = load_clip(clips / "clip-3.safetensors")
    nothing = replace(clip.geometry, shown=torch.zeros_like(clip.geometry.shown), depths=clip.geometry.depths * 0)
    nothing.depths[0, 0, 0] = 1.0  # what has no depth at all has no scale
    (tmp_path / "clips").mkdir()
    save_clip(tmp_path / "clips" / "clip-3.safetensors", replace(clip, geometry=nothing))
    for _ in range(2):
        said = made(tmp_path / "out", tmp_path / "clips", unshown(tmp_path), "conditioning=''")
        assert said == ["0 clips with structure images, 1 in which nothing agrees"]
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert "point cloud is empty" in json.loads((tmp_path / "out/without/clip-3.json").read_text())["nothing"]


def test_structure_images_of_two_models_are_not_mixed(model, clips, tmp_path) -> None:
    own = tmp_path / "model"
    shutil.copytree(model, own)
    made(tmp_path / "out", clips, own, "limit=1")
    weights = own / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    state["conv_out.bias"] += 1
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(InputError, match="other weights than"):
        made(tmp_path / "out", clips, own, "limit=1")
