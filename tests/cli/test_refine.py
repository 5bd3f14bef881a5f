"""The whole command, made small: on a fit of posed photographs, on a file of Gaussians, on what cannot be refined."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cus.cameras import load_transforms, save_transforms
from cus.cli.fit import main as fit
from cus.cli.refine import main
from cus.datasets.scenes import open_scene
from cus.errors import InputError
from cus.inference.refinement import progressive, vsd, work
from cus.report.video import read_video
from cus.splats import load_splats, save_ply
from tests.cli.test_fit import posed_wall

QUICK = ["--iterations", "6", "--size", "96"]


@pytest.fixture(scope="module")
def wall(tmp_path_factory) -> Path:
    """Five photographs of a textured plane, and `fit`, a scene of all but the middle one."""
    folder = tmp_path_factory.mktemp("refine")
    cameras = posed_wall(folder / "wall")
    save_transforms(folder / "wall" / "transforms.json", cameras, [f"images/{i:04d}.png" for i in range(5)])
    arguments = ["--hold-out", "0002", "--iterations", "30", "--size", "96", "--max-gaussians", "6000"]
    assert fit([str(folder / "wall"), *arguments, "--out", str(folder / "fit")]) == 0
    return folder


@pytest.fixture
def copy(wall, tmp_path) -> Path:
    return Path(shutil.copytree(wall, tmp_path / "scene"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_fit_is_refined_into_a_folder_of_its_own(copy, capsys):
    before = contents(copy)
    assert main([str(copy / "fit"), *QUICK, "--factor", "4"]) in (0, 3)
    assert {name: data for name, data in contents(copy).items() if not name.startswith("fit-refined/")} == before
    out = copy / "fit-refined"
    made = json.loads((out / "refine.json").read_text())
    assert made["gaussians"][0] == len(load_splats(copy / "fit" / "splat.ply"))
    assert made["gaussians"][1] == len(load_splats(out / "splat.ply"))
    assert {"close_ups_psnr", "far_psnr", "needles_worst", "popping_worst"} <= set(made["after"])
    names = {path.name for path in (out / "close_ups").iterdir()}
    assert names == {f"x{factor}_{when}.png" for factor in (1, 3, 4) for when in ("before", "after")}
    assert len(read_video(out / "walk.mp4")) == 25
    listed = [path.resolve() for path in open_scene(out).paths]
    assert listed == [path.resolve() for path in load_transforms(copy / "wall").paths]
    page, told = (out / "report.html").read_text(), capsys.readouterr().err
    assert "Before, x3" in page and "Photographs held out" in page
    assert "close-ups: " in told and "views held out: " in told and "needles: " in told
    assert not list(out.rglob("*.checkpoint"))


def test_the_held_out_photograph_does_not_supervise(copy, monkeypatch):
    seen = []
    original = work.fit_views

    def watched(views, *arguments):
        seen.append(len(views))
        return original(views, *arguments)

    monkeypatch.setattr(work, "fit_views", watched)
    assert main([str(copy / "fit"), *QUICK]) in (0, 3)
    assert main([str(copy / "fit" / "splat.ply"), "--data", str(copy / "wall"), *QUICK]) in (0, 3)
    assert main([str(copy / "fit-refined"), *QUICK]) in (0, 3)
    assert seen == [4, 5, 4]
    assert (copy / "fit" / "splat-refined" / "splat.ply").exists()


@pytest.mark.parametrize(
    ("method", "stop"),
    [
        ("pseudo-labels", (1, 5)),
        # In the second of two rounds.
        pytest.param("progressive", (2, 5), marks=pytest.mark.slow),
    ],
)
def test_what_was_cut_off_goes_on_bit_for_bit(copy, monkeypatch, method, stop):
    arguments = [str(copy / "fit"), *QUICK, "--iterations", "8", "--target", "0.5,0.5", "--method", method]
    arguments += ["--factor", "9"]
    assert main([*arguments, "--out", str(copy / "whole")]) in (0, 3)
    original = work.FitRecord
    begun = []

    def cut(on_status, **rest):
        begun.append(1)

        def interrupt(now):
            on_status(now)
            if (len(begun), now.iteration) == stop:
                raise KeyboardInterrupt

        return original(on_status=interrupt, every=4, **rest)

    monkeypatch.setattr(work, "FitRecord", cut)
    assert main([*arguments, "--out", str(copy / "cut")]) == 130
    assert not (copy / "cut" / "splat.ply").exists()
    monkeypatch.undo()
    assert main([*arguments, "--out", str(copy / "cut"), "--resume"]) in (0, 3)
    whole, again = (load_splats(copy / name / "splat.ply") for name in ("whole", "cut"))
    assert torch.equal(whole.means, again.means) and torch.equal(whole.sh, again.sh)
    assert not list((copy / "cut").rglob("*.checkpoint")) and not list((copy / "cut" / "state").glob("*"))


@pytest.mark.slow
def test_a_scene_trains_itself_nearer_in_rounds(copy, capsys, monkeypatch):
    generated = []
    original = progressive.generate_views

    def watched(*arguments):
        generated.append(original(*arguments))
        return generated[-1]

    monkeypatch.setattr(progressive, "generate_views", watched)
    arguments = [str(copy / "fit"), *QUICK, "--factor", "9", "--method", "progressive"]
    assert main(arguments) in (0, 3)
    made = json.loads((copy / "fit-refined" / "refine.json").read_text())
    rounds = [note for note in made["notes"] if "views generated" in note]
    assert [note.split(":")[0] for note in rounds] == ["x3", "x9"] and len(generated) == 2
    refined = load_splats(copy / "fit-refined" / "splat.ply")
    assert refined.rates is not None and made["gaussians"][1] == len(refined)
    # The frontier of the second round is a third of the first's distance away.
    centers = [views.cameras.centers[-1] for views, _ in generated]
    walk = json.loads((copy / "fit-refined" / "transforms.json").read_text())
    assert walk and float((centers[0] - centers[1]).norm()) > 0
    # A scene with levels of detail can be refined by the other method, which says what it does with them.
    assert main([str(copy / "fit-refined"), *QUICK, "--out", str(copy / "again")]) in (0, 3)
    assert any("baked" in note for note in json.loads((copy / "again" / "refine.json").read_text())["notes"])


def test_what_cannot_be_refined_is_said_before_the_work(copy, capsys):
    def refused(*arguments: str) -> str:
        assert main([*arguments, "--out", str(copy / "out")]) == 2
        assert not (copy / "out" / "splat.ply").exists()
        return capsys.readouterr().err

    splat, data = str(copy / "fit" / "splat.ply"), ["--data", str(copy / "wall")]
    assert "no such file or folder" in refused(str(copy / "missing"))
    assert "there are no photographs next to" in refused(splat)
    assert "holds no Gaussian scene" in refused(str(copy / "wall"))
    for unused in ((), ("--target", "0.5,0.5", "--method", "progressive")):
        assert "--path-share is the share of" in refused(splat, *data, "--path-share", "1", *unused)
    assert "--factor must be 2 to 100, got 1000" in refused(splat, *data, "--factor", "1000")
    near = ["--method", "progressive", "--model", str(copy / "no-model")]
    assert "there is no model at" in refused(splat, *data, *near)
    gaussians = load_splats(splat)
    # The left half of the picture is empty: that is the sky.
    gone = gaussians.select(gaussians.means[:, 0] > 0.2)
    save_ply(copy / "half.ply", gone)
    sky = ["--target", "0.1,0.5", "--method", "progressive"]
    assert "no surface is seen" in refused(str(copy / "half.ply"), *data, *sky)
    beyond = 100 * (gaussians.means[:, :1] < -0.4) + 1.0
    save_ply(copy / "far.ply", replace(gaussians, means=beyond * gaussians.means, scales=beyond * gaussians.scales))
    assert "the sky cannot be walked to" in refused(str(copy / "far.ply"), *data, "--target", "0.1,0.5")
    save_ply(copy / "aside.ply", replace(gaussians, means=gaussians.means + 100))
    assert "none of the photographs sees the Gaussians" in refused(str(copy / "aside.ply"), *data)
    other = gaussians.sh[torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(0))]
    save_ply(copy / "other.ply", replace(gaussians, sh=other))
    assert "does not look like the photographs" in refused(str(copy / "other.ply"), *data)
    assert main([str(copy / "fit"), *QUICK, "--out", str(copy / "fit")]) == 2
    assert "own folder" in capsys.readouterr().err


VSD = ["--method", "vsd", "--factor", "2", "--rounds", "2", "--steps", "2"]


def test_a_scene_is_enlarged_without_a_prior(copy, capsys):
    assert main([str(copy / "fit"), *QUICK, *VSD, "--model", "none"]) in (0, 3)
    made = json.loads((copy / "fit-refined" / "refine.json").read_text())
    assert made["settings"]["model"] == "none"
    assert any("pixels were enlarged 2 times" in note for note in made["notes"])
    assert {path.name for path in (copy / "fit-refined" / "close_ups").iterdir()} == {
        f"x{factor}_{when}.png" for factor in (1, 2) for when in ("before", "after")
    }
    assert "close-ups: " in capsys.readouterr().err
    assert not list((copy / "fit-refined").rglob("*.checkpoint"))


def test_an_enlargement_that_was_cut_off_goes_on_with_the_round_it_was_in(copy, monkeypatch):
    arguments = [str(copy / "fit"), *QUICK, *VSD, "--model", "none"]
    assert main([*arguments, "--out", str(copy / "whole")]) in (0, 3)
    original = vsd.super_resolve

    def cut(*inputs):
        call = inputs[-1]

        def keep(name, make):
            made = call.keep(name, make)
            if name == "enlarged1":
                raise KeyboardInterrupt
            return made

        return original(*inputs[:-1], replace(call, keep=keep))

    monkeypatch.setattr(vsd, "super_resolve", cut)
    assert main([*arguments, "--out", str(copy / "cut")]) == 130
    monkeypatch.undo()
    kept = {path.name.split("-")[1] for path in (copy / "cut" / "state").iterdir() if path.name.startswith("vsd-")}
    assert {"enlarged0", "scene0", "enlarged1"} <= kept
    assert main([*arguments, "--out", str(copy / "cut"), "--resume"]) in (0, 3)
    whole, again = (load_splats(copy / name / "splat.ply") for name in ("whole", "cut"))
    assert torch.equal(whole.means, again.means)
    assert not list((copy / "cut").rglob("*.checkpoint"))


@pytest.mark.slow
def test_a_scene_is_enlarged_with_the_shipped_model(copy):
    assert main([str(copy / "fit"), *QUICK, *VSD, "--rounds", "1"]) in (0, 3)
    assert json.loads((copy / "fit-refined" / "refine.json").read_text())["gaussians"][1] > 0


def test_what_cannot_be_enlarged_is_said_before_the_work(copy, capsys):
    def refused(*arguments: str) -> str:
        assert main([str(copy / "fit"), "--method", "vsd", *arguments, "--out", str(copy / "out")]) == 2
        assert not (copy / "out" / "splat.ply").exists()
        return capsys.readouterr().err

    assert "by a whole factor from 2 to 16; got --factor 2.5" in refused("--factor", "2.5")
    with pytest.raises(InputError, match="they show that already; use --size 512"):
        vsd.check_enlargement(512, 4, 128)
    with pytest.raises(InputError, match="more than fits"):
        vsd.check_enlargement(4000, 4, 4000)
    assert "there is no model at" in refused("--model", "nowhere", "--size", "96")
    assert "enlarges 4 times, not 2; use --factor 4" in refused("--model", "sd-x4", "--factor", "2", "--size", "96")
    assert "name one with --model" in refused("--model", "none", "--lora", "mine", "--size", "96")
