"""A small real run as a COLMAP model, a nerfstudio folder and compressed Gaussians."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cus.cameras import Cameras, load_transforms
from cus.cameras.colmap import load_colmap
from cus.cli.export import main
from cus.errors import InputError
from cus.inference.exports import check_stage, collect_views, export_run
from cus.splats import Gaussians, load_splats, save_ply
from cus.splats.ply import load_point_cloud
from cus.splats.spz import read_spz_header
from tests.conftest import ROOT

pycolmap = pytest.importorskip("pycolmap")
EXAMPLE = ROOT / "examples" / "courtyard"
SMALL = ["--photo-size", "384", "--size", "96", "--frames", "4", "--steps", "1", "--no-splat"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cus.cli.infer import main as infer

    folder = tmp_path_factory.mktemp("run") / "out"
    views = [str(EXAMPLE / "a.jpg"), str(EXAMPLE / "b.jpg")]
    assert infer(["--views", *views, "--out", str(folder), *SMALL]) == 0
    n = 300
    generator = torch.Generator().manual_seed(0)
    save_ply(
        folder / "splat.ply",
        Gaussians(
            torch.randn(n, 3, generator=generator),
            torch.randn(n, 4, generator=generator),
            torch.rand(n, 3, generator=generator) + 0.01,
            torch.rand(n, generator=generator) * 0.9 + 0.05,
            torch.randn(n, 1, 3, generator=generator),
        ),
    )
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_colmap_model_has_the_cameras_of_the_run_and_reprojects_its_points(run: Path, tmp_path: Path) -> None:
    made = export_run(run, tmp_path / "colmap", "colmap")
    assert (made.photos, made.frames, made.off_centre) == (2, 4, 0)
    posed = load_colmap(tmp_path / "colmap" / "sparse" / "0", tmp_path / "colmap" / "images")
    frames, photos = load_transforms(run), load_transforms(run, "photos")
    assert [p.name for p in posed.paths] == [f"frame_000{i}.png" for i in range(4)] + ["photo_a.jpg", "photo_b.jpg"]
    assert (posed.Ks - torch.cat([frames.Ks, photos.Ks])).abs().max() <= 1e-5
    assert (posed.viewmats - torch.cat([frames.viewmats, photos.viewmats])).abs().max() <= 1e-6
    for path, size in zip(posed.paths, posed.sizes, strict=True):
        with Image.open(path) as image:
            assert image.size == size
    model = pycolmap.Reconstruction(str(tmp_path / "colmap" / "sparse" / "0"))
    points, colors = load_point_cloud(run / "points.ply")
    stored = np.array([model.points3D[i].xyz for i in sorted(model.points3D)])
    assert made.points == len(points) and np.abs(stored - points.numpy()).max() <= 1e-6
    assert min(point.track.length() for point in model.points3D.values()) >= 1
    assert np.abs(model.points3D[min(model.points3D)].color / 255 - colors[0].numpy()).max() <= 1e-6
    for index, path in enumerate(posed.paths):
        image = next(i for i in model.images.values() if i.name == path.name)
        camera = Cameras(posed.viewmats[index][None], posed.Ks[index][None], *posed.sizes[index])
        observed = [p for p in image.get_observation_points2D()][::20]
        xyz = torch.tensor(np.array([model.points3D[p.point3D_id].xyz for p in observed])).float()
        ours = camera.project(xyz)[0][0].numpy()
        theirs = np.array([image.project_point(point) for point in xyz.double().numpy()])
        assert len(observed) > 3 and np.abs(ours - theirs).max() < 0.01
        assert np.abs(np.array([p.xy for p in observed]) - ours).max() < 0.01


def test_the_points_have_the_colours_of_the_pictures_where_they_are_observed(run: Path, tmp_path: Path) -> None:
    """Pixels, poses and points belong together: an axis or a size mixed up anywhere would show here."""
    export_run(run, tmp_path / "colmap", "colmap", cameras="photos")
    model = pycolmap.Reconstruction(str(tmp_path / "colmap" / "sparse" / "0"))
    for image in model.images.values():
        pixels = np.asarray(Image.open(tmp_path / "colmap" / "images" / image.name)).astype(float)
        shrunk = np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((384, 216), Image.Resampling.BOX), float)
        observed = image.get_observation_points2D()
        at = np.array([p.xy for p in observed]) * [384 / pixels.shape[1], 216 / pixels.shape[0]]
        colors = np.array([model.points3D[p.point3D_id].color for p in observed], float)
        difference = np.abs(shrunk[at[:, 1].astype(int), at[:, 0].astype(int)] - colors).mean(axis=1)
        assert np.median(difference) < 12


def test_the_nerfstudio_folder_is_what_its_parser_and_ours_read(run: Path, tmp_path: Path) -> None:
    made = export_run(run, tmp_path / "ns", "nerfstudio")
    content = json.loads((tmp_path / "ns" / "transforms.json").read_text())
    assert content["camera_model"] == "OPENCV" and content["ply_file_path"] == "points.ply"
    assert len(content["frames"]) == 6
    for frame in content["frames"]:
        assert set(frame) == {"file_path", "w", "h", "fl_x", "fl_y", "cx", "cy", "transform_matrix"}
    posed = load_transforms(tmp_path / "ns")
    photos, frames = load_transforms(run, "photos"), load_transforms(run)
    assert torch.equal(posed.Ks, torch.cat([photos.Ks, frames.Ks]))
    assert (posed.viewmats - torch.cat([photos.viewmats, frames.viewmats])).abs().max() <= 1e-6
    images, _ = posed.select([0]).load(64)
    expected, _ = photos.select([0]).load(64)
    assert torch.equal(images, expected)
    assert torch.equal(load_point_cloud(tmp_path / "ns" / "points.ply")[0], load_point_cloud(run / "points.ply")[0])
    assert len(load_point_cloud(tmp_path / "ns" / "points.ply")[0]) == made.points
    assert not list(tmp_path.glob(".*")), "nothing is left beside the folder"


@pytest.mark.parametrize(("cameras", "photos", "frames"), [("photos", 2, 0), ("frames", 0, 4)])
def test_either_kind_of_picture_can_be_left_out(
    run: Path, tmp_path: Path, cameras: str, photos: int, frames: int
) -> None:
    made = export_run(run, tmp_path / "out", "nerfstudio", cameras=cameras)
    assert (made.photos, made.frames) == (photos, frames)
    assert len(list((tmp_path / "out" / "images").iterdir())) == photos + frames


def test_turned_photographs_are_upright_and_bent_ones_straight(copy: Path, tmp_path: Path) -> None:
    content = json.loads((copy / "transforms.json").read_text())
    photo = content["photos"][0]
    with Image.open(EXAMPLE / "a.jpg") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    content["photos"][0]["file_path"] = str(tmp_path / "turned.jpg")
    content["photos"][1] |= {"file_path": str(EXAMPLE / "b.jpg"), "k1": 0.1}
    (copy / "transforms.json").write_text(json.dumps(content))
    export_run(copy, tmp_path / "out", "nerfstudio", cameras="photos")
    posed = load_transforms(tmp_path / "out")
    assert [path.name for path in posed.paths] == ["photo_turned.png", "photo_b.png"]
    with Image.open(posed.paths[0]) as upright, Image.open(EXAMPLE / "a.jpg") as original:
        assert upright.size == (photo["w"], photo["h"]) == original.size
        assert np.abs(np.asarray(upright, float) - np.asarray(original, float)).mean() < 6
    assert posed.Ks[1, 0, 0] > load_transforms(copy, "photos").Ks[1, 0, 0], "the empty border is cut away"
    assert posed.distortion.abs().max() == 0
    pixels = np.asarray(Image.open(posed.paths[1])).max(axis=-1)
    for border in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (border == 0).mean() < 0.01, "no black border"


def test_pictures_that_inria_would_misplace_are_counted(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((copy / "transforms.json").read_text())
    content["frames"][1]["cx"] += 3
    (copy / "transforms.json").write_text(json.dumps(content))
    assert main([str(copy), "--format", "colmap", "--cameras", "frames"]) == 0
    assert "principal point is off their middle: 1." in capsys.readouterr().err


def test_the_commands_default_places_and_what_they_refuse(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file_format, path in (("colmap", "colmap"), ("nerfstudio", "nerfstudio"), ("spz", "splat.spz")):
        photos = ["--photos", str(EXAMPLE)] if file_format != "spz" else []
        assert main([str(copy), "--format", file_format, *photos]) == 0
        assert (copy / path).exists()
        before = {p: p.stat().st_mtime_ns for p in [copy / path, *(copy / path).rglob("*")]}
        capsys.readouterr()
        assert main([str(copy), "--format", file_format, *photos]) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert before == {p: p.stat().st_mtime_ns for p in [copy / path, *(copy / path).rglob("*")]}
        assert main([str(copy), "--format", file_format, *photos, "--overwrite"]) == 0
    assert read_spz_header(copy / "splat.spz").antialiased, "a run fits for antialiased rendering"
    assert main([str(copy), "--format", "spz", "--no-antialiased", "--spz-version", "3", "--overwrite"]) == 0
    header = read_spz_header(copy / "splat.spz")
    assert header.version == 3 and not header.antialiased


def test_a_folder_with_other_things_in_it_is_never_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "images").mkdir(parents=True)
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds images/ and no list of what a command has made"):
        export_run(run, tmp_path / "mine", "colmap", overwrite=True)
    with pytest.raises(InputError, match="is to be read, but lies in"):
        export_run(run, run, "colmap", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_data_set_that_looks_like_an_export_is_never_replaced(run: Path, tmp_path: Path) -> None:
    """nerfstudio's own layout: images/ and transforms.json."""
    (tmp_path / "garden" / "images").mkdir(parents=True)
    (tmp_path / "garden" / "transforms.json").write_text("{}")
    for file_format in ("colmap", "nerfstudio"):
        with pytest.raises(InputError, match="no list of what a command has made"):
            export_run(run, tmp_path / "garden", file_format, overwrite=True)
    export_run(run, tmp_path / "made", "nerfstudio", cameras="frames")
    (tmp_path / "made" / "images" / "mine.png").write_text("added by hand")
    with pytest.raises(InputError, match="holds images/mine.png, which no command made"):
        export_run(run, tmp_path / "made", "nerfstudio", overwrite=True)
    assert (tmp_path / "garden" / "transforms.json").read_text() == "{}"


def test_an_export_that_was_killed_while_it_took_its_place_is_mended(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "made", "nerfstudio", cameras="frames")
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").rglob("*.png")}
    (tmp_path / "made").rename(tmp_path / ".cus-earlier-made")
    with pytest.raises(InputError, match="--overwrite replaces it"):
        export_run(run, tmp_path / "made", "nerfstudio", cameras="frames")
    assert {path.name: path.read_bytes() for path in (tmp_path / "made").rglob("*.png")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_stage_that_is_missing_is_named_with_what_makes_it(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "never"
    for gone, message in [
        ("points.ply", "'Point cloud' is missing.*--resume"),
        ("frames/0002.png", "no frames/0002.png: the stage 'Frames, final pass' is missing"),
        ("transforms.json", "'Conditioning images' is missing"),
        ("run.json", "no output folder of cus-infer"),
    ]:
        (copy / gone).unlink()
        with pytest.raises(InputError, match=message):
            export_run(copy, out, "colmap", photo_folder=EXAMPLE)
    with pytest.raises(InputError, match="'Gaussian scene' is missing; cus-fit"):
        (copy / "run.json").write_text("{}")
        check_stage(copy, "splat", ["absent.ply"])
    assert not out.exists()


def test_photographs_that_have_moved_are_asked_for(copy: Path, tmp_path: Path) -> None:
    content = json.loads((copy / "transforms.json").read_text())
    for photo in content["photos"]:
        photo["file_path"] = "gone/" + Path(photo["file_path"]).name
    (copy / "transforms.json").write_text(json.dumps(content))
    (copy / "run.json").write_text("{}")
    with pytest.raises(InputError, match="--photos, or leave them out with --cameras frames"):
        collect_views(copy)
    assert len(collect_views(copy, photo_folder=EXAMPLE)) == 6 and len(collect_views(copy, "frames")) == 4
    with Image.open(EXAMPLE / "a.jpg") as image:
        for name in ("a.jpg", "b.jpg"):
            image.resize((200, 100)).save(tmp_path / name)
    with pytest.raises(InputError, match="200x100 pixels, but the run used one of"):
        collect_views(copy, "photos", tmp_path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cus.errors import InputError
from cus.inference.exports import export_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for file_format in ("colmap", "nerfstudio"):
    try:
        export_run(Path(sys.argv[1]), Path(sys.argv[2]) / file_format, file_format, cameras="frames", overwrite=True)
        print("done")
    except InputError as error:
        print("refused", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the file size limit that stands for a full disk is POSIX")
def test_a_full_disk_leaves_the_earlier_export(run: Path, tmp_path: Path) -> None:
    for file_format in ("colmap", "nerfstudio"):
        export_run(run, tmp_path / file_format, file_format, cameras="frames")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    command = [sys.executable, "-c", FULL_DISK, str(run), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.count("refused") == 2 and "done" not in result.stdout, result.stdout + result.stderr
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_the_compressed_scene_is_that_of_the_run(run: Path, tmp_path: Path) -> None:
    assert main([str(run), "--format", "splat", "--out", str(tmp_path / "a.splat")]) == 0
    assert main([str(run), "--format", "ply", "--out", str(tmp_path / "a.ply")]) == 0
    original = load_splats(run / "splat.ply")
    assert torch.equal(load_splats(tmp_path / "a.ply").means, original.means)
    assert len(load_splats(tmp_path / "a.splat")) == len(original)
