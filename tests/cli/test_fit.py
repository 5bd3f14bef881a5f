"""The whole command, made small: on a run of the shipped example and on posed photographs of a wall."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from cus.cameras import Cameras, load_transforms, save_transforms
from cus.cameras.colmap import save_colmap
from cus.cli.fit import main
from cus.cli.infer import main as infer
from cus.report.video import read_video
from cus.splats import load_splats
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "courtyard"
SMALL = "--photo-size 320 --size 96 --frames 4 --steps 1 --splat-iterations 4".split()
QUICK = ["--iterations", "6", "--max-gaussians", "1500"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    views = [str(EXAMPLE / name) for name in ("a.jpg", "b.jpg")]
    assert infer(["--views", *views, "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_is_fitted_to_its_photographs_at_their_own_resolution(copy, tmp_path):
    scenes = {}
    for crops in ("0", "3"):
        out = tmp_path / crops
        arguments = [str(copy), *QUICK, "--iterations", "12", "--crops", crops, "--out", str(out)]
        assert main(arguments) == 0
        scenes[crops] = load_splats(out / "splat.ply").means
    assert not torch.equal(scenes["0"], scenes["3"])


def test_photographs_that_have_gone_leave_a_note_and_the_recorded_ones(copy):
    cameras = copy / "transforms.json"
    cameras.write_text(cameras.read_text().replace("b.jpg", "gone.jpg"))
    assert main([str(copy), *QUICK]) == 0
    notes = json.loads((copy / "run.json").read_text())["notes"]
    assert any("as the run recorded them alone" in note and "gone.jpg" in note for note in notes)


def test_a_run_is_not_super_resolved_here_but_by_the_command_that_is_named(copy, capsys):
    assert main([str(copy), *QUICK, "--super-resolve", "4"]) == 2
    assert "--method vsd --factor 4" in capsys.readouterr().err


@pytest.mark.slow
def test_small_photographs_give_a_scene_of_more_pixels(tmp_path, capsys):
    cameras = posed_wall(tmp_path / "wall")
    save_transforms(tmp_path / "wall" / "transforms.json", cameras, [f"images/{i:04d}.png" for i in range(5)])
    arguments = [str(tmp_path / "wall"), *QUICK, "--super-resolve", "2", "--out", str(tmp_path / "fit")]
    assert main([*arguments, "--size", "48"]) == 2
    assert "they show that already" in capsys.readouterr().err
    assert main([*arguments, "--size", "96"]) == 0
    made = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert made["settings"]["super_resolve"] == 2 and made["seconds"]["enlarged"] > 0
    assert any("enlarged by mini, SDS" in note for note in made["notes"])
    assert not list((tmp_path / "fit").rglob("*.checkpoint"))


def test_a_run_is_fitted_anew_in_place(copy):
    before = contents(copy)
    assert main([str(copy), *QUICK, "--strategy", "mcmc", "--sh-degree", "1", "--exposure", "--seed", "3"]) == 0
    after = contents(copy)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"splat.ply", "splat.mp4", "report.html", "run.json", "state/splat.safetensors"}
    assert set(after) == set(before)
    scene = load_splats(copy / "splat.ply")
    assert len(scene) <= 1500 and scene.sh_degree == 1
    assert read_video(copy / "splat.mp4").shape == (4, 54, 96, 3)
    made = json.loads((copy / "run.json").read_text())
    assert made["settings"]["splat_iterations"] == 6 and made["settings"]["splat_strategy"] == "mcmc"
    assert made["settings"]["splat_seed"] == 3 and made["missing"] == [] and "splat.ply" in made["files"]
    assert sum(note.startswith("Gaussian scene:") for note in made["notes"]) == 1
    assert main([str(copy), *QUICK]) == 0  # its own result is a run again


def test_another_folder_becomes_a_run_and_leaves_the_first_alone(run, tmp_path):
    before = contents(run)
    out = tmp_path / "other"
    assert main([str(run), *QUICK, "--size", "64", "--no-pixel-confidence", "--out", str(out)]) == 0
    assert contents(run) == before
    assert set(contents(out)) == set(before)
    photo = json.loads((out / "transforms.json").read_text())["photos"][0]
    assert (out / photo["file_path"]).resolve() == (EXAMPLE / "a.jpg").resolve()
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["splat_pixel_confidence"] is False and settings["splat_max_pixels"] == 64 * 36
    assert main([str(run), *QUICK, "--out", str(out)]) == 2  # not unasked
    assert main([str(run), *QUICK, "--out", str(out), "--overwrite"]) == 0


def test_cus_infer_goes_on_in_the_middle_of_a_fit(copy, monkeypatch):
    """Cut off at the checkpoint of step 100, --resume does the rest, to the same scene, and cleans up."""
    views = [str(EXAMPLE / name) for name in ("a.jpg", "b.jpg")]
    command = ["--views", *views, "--out", str(copy), *SMALL[:-1], "105", "--resume"]
    assert infer(command) == 0
    whole = load_file(copy / "state" / "splat.safetensors")
    (copy / "state" / "splat.safetensors").unlink()

    from cus.splats import optimization

    advance = optimization.Optimization.advance
    steps: list[int] = []

    def counted(self) -> None:
        if len(steps) == 102:
            raise KeyboardInterrupt
        steps.append(self.iteration)
        advance(self)

    monkeypatch.setattr(optimization.Optimization, "advance", counted)
    assert infer(command) == 130
    assert len(list((copy / "state").glob("*.checkpoint"))) == 1
    steps.clear()
    assert infer(command) == 0
    assert steps == [100, 101, 102, 103, 104]
    again = load_file(copy / "state" / "splat.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert not list((copy / "state").glob("*.checkpoint"))


def posed_wall(folder: Path, count: int = 5, size: tuple[int, int] = (96, 64)) -> Cameras:
    """Photographs of a textured plane, 2 units away, side by side."""
    width, height = size
    generator = np.random.default_rng(0)
    texture = torch.from_numpy(generator.random((1, 3, 40, 80), dtype=np.float32))
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = torch.linspace(0.3, -0.3, count)
    K = torch.tensor([[width * 1.0, 0, width / 2], [0, width * 1.0, height / 2], [0, 0, 1]])
    cameras = Cameras(viewmats, K.repeat(count, 1, 1), width, height)
    points = cameras.backproject(torch.full((count, height, width), 2.0))
    grid = points[..., :2] / torch.tensor([2.0, 1.0])
    pictures = torch.nn.functional.grid_sample(
        texture.expand(count, -1, -1, -1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    (folder / "images").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / "images" / f"{i:04d}.png")
    return cameras


@pytest.fixture
def wall(tmp_path) -> Path:
    cameras = posed_wall(tmp_path / "wall")
    names = [f"images/{i:04d}.png" for i in range(5)]
    save_transforms(tmp_path / "wall" / "transforms.json", cameras, names)
    return tmp_path / "wall"


def test_posed_photographs_are_fitted_and_scored_where_they_were_held_out(wall, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(wall), "--hold-out", "0002", "--out", str(out), "--iterations", "120", "--size", "96"]) == 0
    made = json.loads((out / "fit.json").read_text())
    (score,) = made["held_out"]
    assert score["name"] == "0002" and score["psnr"] > 22 and score["ssim"] > 0.8
    assert [s["name"] for s in made["training"]] == ["0000", "0001", "0003", "0004"]
    assert made["notes"][-1].startswith("estimator: ")
    assert "held out 0002: PSNR" in capsys.readouterr().err
    assert len(load_splats(out / "splat.ply")) == made["gaussians"]
    assert Image.open(out / "renders" / "0002.png").size == (192, 64)
    assert not list(out.rglob("*.checkpoint"))


def test_pseudo_labels_are_an_option_of_every_fit_and_are_counted(copy, wall, tmp_path):
    assert main([str(copy), *QUICK, "--pseudo-labels", "--iterations", "24"]) == 0
    run = json.loads((copy / "run.json").read_text())
    assert run["settings"]["splat_pseudo_labels"] is True
    (note,) = [note for note in run["notes"] if "pseudo-labels: " in note]
    assert "pixels kept" in note
    out = tmp_path / "photos"
    assert main([str(wall), "--pseudo-labels", "--iterations", "12", "--size", "96", "--out", str(out)]) == 0
    made = json.loads((out / "fit.json").read_text())
    assert made["settings"]["pseudo_labels"] is True and "pseudo-labels: " in made["notes"][-1]


def test_refined_cameras_are_kept_and_go_with_the_scene_they_belong_to(copy, wall, tmp_path):
    assert main([str(copy), "--iterations", "3", "--refine-cameras"]) == 0
    moved, run = load_transforms(copy / "refined_cameras.json"), load_transforms(copy / "transforms.json")
    photos = load_transforms(copy / "transforms.json", "photos")
    assert moved.paths == (*run.paths, *photos.paths)
    given = torch.cat([run.viewmats, photos.viewmats])
    assert 0 < (moved.viewmats - given).abs().max() < 0.1
    assert main([str(copy), "--iterations", "3"]) == 0
    assert not (copy / "refined_cameras.json").exists()
    assert main([str(wall), "--iterations", "3", "--refine-cameras", "--out", str(tmp_path / "photos")]) == 0
    kept = load_transforms(tmp_path / "photos" / "refined_cameras.json").paths
    assert [path.resolve() for path in kept] == [path.resolve() for path in load_transforms(wall).paths]


def test_a_colmap_model_is_fitted_like_transforms(tmp_path):
    folder = tmp_path / "model"
    cameras = posed_wall(folder)
    save_colmap(folder / "sparse" / "0", [cameras[i] for i in range(5)], [f"{i:04d}.png" for i in range(5)])
    out = tmp_path / "out"
    assert main([str(folder), "--hold-out", "0001.png", "--out", str(out), "--iterations", "40"]) == 0
    assert json.loads((out / "fit.json").read_text())["held_out"][0]["psnr"] > 15


def test_what_cannot_be_fitted_is_said_before_the_work(run, wall, tmp_path, capsys):
    def refused(*arguments: str) -> str:
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "no such folder" in refused(str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    assert "neither a run of cus-infer" in refused(str(tmp_path / "empty"))
    assert "no photograph with a camera is called 0009" in refused(str(wall), "--hold-out", "0009")
    assert "at least two photographs" in refused(str(wall), "--hold-out", *(f"{i:04d}" for i in range(4)))
    assert "named twice" in refused(str(wall), "--hold-out", "0001", "0001.png")
    assert "--iterations must be" in refused(str(run), "--iterations", "0")
    assert "--depth-weight must be" in refused(str(run), "--depth-weight", "nan")
    assert "--size must be" in refused(str(run), "--size", "8")
    assert "are for posed photographs" in refused(str(run), "--hold-out", "0001")
    assert "cannot be used here" in refused(str(run), "--device", "toaster")
    assert "leave --exposure out" in refused(str(wall), "--pseudo-labels", "--exposure")
    assert "leave --refine-cameras out" in refused(str(run), "--pseudo-labels", "--refine-cameras")
    Image.new("RGB", (50, 40)).save(wall / "images" / "0003.png")
    assert "is 50x40 pixels, but its camera is for 96x64" in refused(str(wall))
    for index in range(1, 5):
        (wall / "images" / f"{index:04d}.png").unlink()
    assert "4 of 5 photographs that have cameras are missing" in refused(str(wall))
    assert not (tmp_path / "out").exists()


def test_photographs_without_overlap_and_cameras_that_are_no_numbers_are_named(tmp_path, capsys):
    folder = tmp_path / "apart"
    cameras = posed_wall(folder, 2)
    turned = cameras.viewmats.clone()
    turned[1] = torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ turned[1]
    names = ["images/0000.png", "images/0001.png"]
    save_transforms(folder / "transforms.json", Cameras(turned, cameras.Ks, 96, 64), names)
    assert main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "cameras do not fit the photographs" in capsys.readouterr().err
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][0]["transform_matrix"][0][0] = float("nan")
    (folder / "transforms.json").write_text(json.dumps(content))
    assert main([str(folder), "--out", str(tmp_path / "out"), "--overwrite"]) == 2
    assert "finite 4x4 camera matrix" in capsys.readouterr().err


def test_a_run_that_lacks_a_stage_is_refused(copy, capsys):
    (copy / "state" / "cloud.safetensors").unlink()
    before = contents(copy)
    assert main([str(copy), *QUICK]) == 2
    assert "no finished stage 'Point cloud'" in capsys.readouterr().err and contents(copy) == before


def test_a_disk_that_fills_up_leaves_the_earlier_scene(copy, capsys, monkeypatch):
    from cus.errors import InputError
    from cus.inference import outputs

    before = contents(copy)

    def full(*_):
        raise InputError("the disk is full")

    monkeypatch.setattr(outputs, "write_report", full)
    assert main([str(copy), *QUICK]) == 2
    after = {name: data for name, data in contents(copy).items() if not name.endswith((".checkpoint", "-files"))}
    del before[".closeupshot-files"]
    assert "disk is full" in capsys.readouterr().err and after == before
    with safe_open(copy / "state" / "splat.safetensors", framework="pt") as file:
        assert file.metadata()["fingerprint"]
