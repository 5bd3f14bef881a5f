"""The whole command on the shipped example, made small: every stage is the real one."""

import json
import re
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cus
from cus.cameras import load_transforms
from cus.cli.infer import main
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.lora import FILE, TARGETS, add_lora, save_lora
from cus.inference import InferSettings, Run
from cus.report.video import read_video, write_video
from cus.splats import load_splats
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "courtyard"
VIEWS = [str(EXAMPLE / "a.jpg"), str(EXAMPLE / "b.jpg")]
CAMERA_FIELDS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "transform_matrix")
SMALL = [
    "--structure",
    "--photo-size",
    "384",
    "--size",
    "96",
    "--frames",
    "5",
    "--steps",
    "2",
    "--splat-iterations",
    "8",
]


class Silent:
    """A progress display that shows nothing."""

    def start(self, label: str, reused: bool):
        return lambda done, total, state="": None

    def finish(self, label: str, seconds: float) -> None:
        pass


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert main(["--views", *VIEWS, "--out", str(folder), *SMALL]) == 0
    return folder


def test_every_promised_file_is_there(out):
    assert len(list((out / "frames").glob("*.png"))) == len(list((out / "conditioning").glob("*.png"))) == 5
    for view in ("a", "b"):
        depth = np.load(out / "depth" / f"{view}_depth.npy")
        confidence = np.load(out / "depth" / f"{view}_confidence.npy")
        assert depth.shape == confidence.shape == (216, 384) and 0 <= confidence.min() <= confidence.max() <= 1
        assert Image.open(out / "depth" / f"{view}_depth.png").size == (384, 216)
    for video in ("video.mp4", "conditioning.mp4", "splat.mp4"):
        assert read_video(out / video).shape == (5, 54, 96, 3)
    assert len(load_splats(out / "splat.ply")) > 100
    assert (out / "points.ply").stat().st_size > 1000
    assert not list(out.rglob(".part*"))


def test_run_json_says_how_it_was_made(out):
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "finished" and run["missing"] == []
    assert run["settings"]["frames"] == 5 and run["settings"]["seed"] == 0 and run["settings"]["zoom"] == 4
    assert set(run["seconds"]) == {"scene", "conditioning", "coarse", "structure", "frames", "cloud", "splat", "report"}
    assert run["peak_memory_bytes"] > 2**20 and "torch" in run["versions"]


def test_transforms_hold_targets_and_photographs_at_their_own_resolution(out):
    targets = load_transforms(out)
    assert len(targets) == 5 and targets.sizes[0] == (96, 54)
    content = json.loads((out / "transforms.json").read_text())
    photo = content["photos"][0]
    with Image.open(EXAMPLE / "a.jpg") as image:
        assert (photo["w"], photo["h"]) == image.size
    assert (out / photo["file_path"]).resolve() == (EXAMPLE / "a.jpg").resolve()
    first = content["frames_at_photo_size"][0]
    assert first["fl_x"] == pytest.approx(photo["fl_x"], rel=1e-4), "a zoom starts at the photograph itself"


def test_the_report_is_one_page_that_loads_nothing(out):
    page = (out / "report.html").read_text()
    assert not re.search(r'src="(?!data:)|https?://', page)
    for part in (
        "Conditioning",
        "Generated frames",
        "Gaussian scene",
        "Cameras and depth",
        "data:image/jpeg",
        "data:video/mp4",
        'id="viewer-rows"',
    ):
        assert part in page


def test_frames_follow_their_conditioning(out):
    """The first frame of a zoom is the photograph itself: generated pictures stay near what they are conditioned on."""
    conditioning = np.asarray(Image.open(out / "conditioning" / "0000.png"), float)
    frame = np.asarray(Image.open(out / "frames" / "0000.png"), float)
    known = conditioning.sum(axis=-1) > 0
    assert np.abs(conditioning - frame)[known].mean() < 25


def test_the_same_seed_gives_the_same_frames(out, tmp_path):
    arguments = ["--views", *VIEWS, "--out", str(tmp_path / "again"), *SMALL, "--no-splat", "--no-structure"]
    assert main(arguments) == 0
    assert main([*arguments, "--overwrite"]) == 0
    # Of the first run only the scene and the conditioning are alike: it had a second pass.
    for name in ("conditioning/0003.png",):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_report_is_there_before_the_fit_and_says_what_is_still_to_come(tmp_path, monkeypatch):
    settings = InferSettings(
        tuple(map(Path, VIEWS)), out=tmp_path / "out", photo_size=384, size=96, frames=3, structure=False, steps=1
    )
    run = Run(settings, Silent(), started=time.perf_counter() - 100)
    seen: list[str] = []

    def look() -> None:
        seen.append((tmp_path / "out" / "report.html").read_text())
        seen.append((tmp_path / "out" / "run.json").read_text())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(look)
    page, record = seen[0], json.loads(seen[1])
    assert "Still to come when this page was written: Point cloud, Gaussian scene" in page
    assert "Generated frames" in page and "--resume" not in page
    assert record["status"] == "running" and record["total_seconds"] > record["loading_seconds"] > 100
    # However it ends, the page says that nothing more comes by itself.
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Still to come" not in page and "Missing: Gaussian scene" in page
    assert page.count("<code>report.html</code>") == 1


def test_a_quick_run_leaves_the_gaussian_scene_to_cus_fit(tmp_path, capsys):
    arguments = ["--views", *VIEWS, "--out", str(tmp_path / "out"), *SMALL, "--no-structure", "--quick", "--json"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    end = json.loads(printed.out.splitlines()[-1])
    assert f"cus-fit {tmp_path / 'out'} adds it" in printed.err and not (tmp_path / "out" / "splat.ply").exists()
    assert end["status"] == 0 and Path(end["report"]).is_file() and end["seconds"] > sum(end["stages"].values())
    assert end["bytes"] + end["state_bytes"] == sum(
        f.stat().st_size for f in (tmp_path / "out").rglob("*") if f.is_file()
    )


def test_an_interrupted_run_keeps_what_is_finished_and_resumes(tmp_path):
    settings = InferSettings(
        tuple(map(Path, VIEWS)),
        out=tmp_path / "out",
        photo_size=384,
        size=96,
        frames=5,
        steps=2,
        structure=False,
        splat=False,
    )

    class Interrupting(Silent):
        def start(self, label: str, reused: bool):
            if label == "Frames, final pass":
                raise KeyboardInterrupt
            return super().start(label, reused)

    run = Run(settings, Interrupting())
    with pytest.raises(KeyboardInterrupt):
        run.execute()
    assert run.missing() == ["Frames, final pass", "Point cloud"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["missing"] == run.missing()
    assert "Missing: Point cloud" in (tmp_path / "out" / "report.html").read_text()
    again = Run(settings, Silent(), resume=True)
    again.execute()
    assert again.results.reused == ["scene", "conditioning"] and not again.missing()
    assert again.results.conditioning is not None and run.results.conditioning is not None
    assert torch.equal(again.results.conditioning.images, run.results.conditioning.images)


def test_resuming_with_another_path_makes_anew_what_depends_on_it(tmp_path):
    arguments = ["--views", *VIEWS, "--out", str(tmp_path / "out"), *SMALL, "--conditioning-only"]
    assert main(arguments) == 0
    assert main([*arguments, "--resume", "--trajectory", "orbit"]) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["reused"] == ["scene"]


def test_photographs_of_another_size_work(tmp_path):
    with Image.open(VIEWS[1]) as image:
        image.resize((720, 405)).save(tmp_path / "small.jpg", exif=image.getexif(), quality=95)
    arguments = ["--views", VIEWS[0], str(tmp_path / "small.jpg"), "--out", str(tmp_path / "out"), *SMALL]
    assert main([*arguments, "--photo-size", "640", "--conditioning-only"]) == 0
    assert Image.open(tmp_path / "out" / "conditioning" / "0000.png").size == (96, 54)


def test_portrait_and_landscape_together_work(tmp_path):
    """The middle of b as a portrait picture, with the cameras known."""
    content = json.loads((EXAMPLE / "transforms.json").read_text())
    frames = {Path(frame["file_path"]).name: content | frame for frame in content["frames"]}
    a, b = ({key: f[key] for key in (*CAMERA_FIELDS, "file_path")} for f in (frames["a.jpg"], frames["b.jpg"]))
    left = int(b["w"]) * 3 // 10
    with Image.open(VIEWS[1]) as image:
        image.crop((left, 0, image.width - left, image.height)).save(tmp_path / "tall.png")
    tall = b | {"file_path": "tall.png", "w": b["w"] - 2 * left, "cx": b["cx"] - left}
    (tmp_path / "cameras.json").write_text(json.dumps({"frames": [a | {"file_path": VIEWS[0]}, tall]}))
    arguments = ["--views", VIEWS[0], str(tmp_path / "tall.png"), "--cameras", str(tmp_path / "cameras.json")]
    assert main([*arguments, "--out", str(tmp_path / "out"), *SMALL, "--conditioning-only"]) == 0
    assert Image.open(tmp_path / "out" / "conditioning" / "0000.png").size == (96, 54)
    assert np.load(tmp_path / "out" / "depth" / "tall_depth.npy")[:, 200:].max() == 0, "padding has no depth"


def test_point_renders_are_chosen_by_name_and_resuming_with_another_kind_makes_them_anew(tmp_path):
    short = [*VIEWS, "--out", str(tmp_path / "out"), "--conditioning-only", *SMALL]
    assert main(["--views", *short, "--conditioning", "points"]) == 0
    first, run = read_video(tmp_path / "out" / "conditioning.mp4"), json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["conditioning"] == "points"
    assert any("mini does best with fused ones" in note for note in run["notes"])
    assert main(["--views", *short, "--resume"]) == 0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["conditioning"] == "fused" and not any("does best" in note for note in run["notes"])
    assert run["reused"] == ["scene"]
    assert np.abs(first.astype(float) - read_video(tmp_path / "out" / "conditioning.mp4")).mean() > 1


def test_fused_conditioning_takes_colours_from_the_files_and_resumes(tmp_path):
    short = [*VIEWS, "--out", str(tmp_path / "out"), "--conditioning-only", *SMALL]
    assert main(["--views", *short, "--conditioning", "fused"]) == 0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["conditioning"] == "fused"
    fused = cv2.imread(str(tmp_path / "out" / "conditioning" / "0001.png")).astype(float)
    assert main(["--views", *short, "--conditioning", "fused", "--resume"]) == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["reused"] == ["scene", "conditioning"]
    assert main(["--views", *short, "--conditioning", "hierarchical", "--resume"]) == 0
    plain = cv2.imread(str(tmp_path / "out" / "conditioning" / "0001.png")).astype(float)
    assert np.abs(fused - plain).mean() > 1


def test_a_model_that_was_trained_on_point_renders_is_shown_them(tmp_path):
    model = shutil.copytree(Path(cus.__file__).parent / "weights" / "mini", tmp_path / "model")
    index = json.loads((model / "model_index.json").read_text())
    index["sampling"]["conditioning"] = "points"
    (model / "model_index.json").write_text(json.dumps(index))
    arguments = [*VIEWS, "--model", str(model), "--out", str(tmp_path / "out"), "--conditioning-only", *SMALL]
    assert main(["--views", *arguments]) == 0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["conditioning"] == "points" and not any("does best" in note for note in run["notes"])


def test_frames_of_a_video_are_a_run_s_photographs_and_lie_in_its_folder(tmp_path):
    """Half a second of each view of the example: of each half of the time one frame is taken."""
    views = [cv2.resize(cv2.imread(view)[..., ::-1], (384, 216), interpolation=cv2.INTER_AREA) for view in VIEWS]
    write_video(tmp_path / "clip.mp4", np.repeat(np.stack(views), 5, axis=0), 10)
    arguments = ["--views", str(tmp_path / "clip.mp4"), "--max-views", "2", "--out", str(tmp_path / "out"), *SMALL]
    assert main([*arguments, "--conditioning-only"]) == 0
    frames = sorted((tmp_path / "out" / "photos").iterdir())
    assert len(frames) == 2
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["settings"]["views"] == [str(frame) for frame in frames]
    assert any("clip.mp4: of each of 2 equal parts" in note for note in run["notes"])
    assert load_transforms(tmp_path / "out", "photos").paths[0].resolve() == frames[0].resolve()
    assert main([*arguments, "--conditioning-only", "--resume"]) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["reused"] == ["scene", "conditioning"]
    assert [frame.name for frame in frames] == sorted(path.name for path in (tmp_path / "out" / "photos").iterdir())


def test_a_photograph_that_cannot_be_placed_is_in_no_output_and_all_views_refuses_it(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    stranger = tmp_path / "stranger.png"
    Image.fromarray(noise).resize((384, 288), Image.Resampling.BICUBIC).save(stranger)
    out = tmp_path / "out"
    arguments = ["--views", str(stranger), *VIEWS, "--out", str(out), *SMALL, "--conditioning-only"]
    assert main(arguments) == 0
    assert sorted(path.name for path in (out / "depth").glob("*.npy")) == [
        f"{view}_{kind}.npy" for view in ("a", "b") for kind in ("confidence", "depth")
    ]
    photos = json.loads((out / "transforms.json").read_text())["photos"]
    assert [Path(photo["file_path"]).name for photo in photos] == ["a.jpg", "b.jpg"]
    with Image.open(VIEWS[0]) as first:
        assert (photos[0]["w"], photos[0]["h"]) == first.size
    assert any("view 1 is left out" in note for note in json.loads((out / "run.json").read_text())["notes"])
    assert main([*arguments, "--resume"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--overwrite", "--all-views"]) == 2
    assert "view 1 cannot be placed" in capsys.readouterr().err


def test_a_lora_changes_the_frames_and_the_record_and_resuming_without_it_makes_them_anew(tmp_path, capsys):
    pytest.importorskip("peft")
    pipeline = CloseUpShotPipeline.from_pretrained("mini")
    add_lora(pipeline.unet, 2, 2.0, TARGETS)
    for name, parameter in pipeline.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    (tmp_path / "lora" / "export").mkdir(parents=True)
    save_lora(pipeline.unet, tmp_path / "lora" / "export")
    arguments = ["--views", *VIEWS, "--out", str(tmp_path / "out"), *SMALL, "--no-splat", "--no-structure"]
    assert main([*arguments, "--lora", str(tmp_path / "lora")]) == 0
    run = json.loads((tmp_path / "out/run.json").read_text())
    assert run["settings"]["lora"] == str(tmp_path / "lora")
    changed = (tmp_path / "out/frames/0004.png").read_bytes()
    assert main([*arguments, "--resume"]) == 0
    again = json.loads((tmp_path / "out/run.json").read_text())
    assert again["settings"]["lora"] is None and again["reused"] == ["scene", "conditioning"]
    assert (tmp_path / "out/frames/0004.png").read_bytes() != changed
    capsys.readouterr()
    state = load_file(tmp_path / "lora" / "export" / FILE)
    save_file({name: values[:, :1].contiguous() for name, values in state.items()}, tmp_path / "cut.safetensors")
    assert main([*arguments, "--overwrite", "--lora", str(tmp_path / "cut.safetensors")]) == 2
    assert "is damaged: the matrices of" in capsys.readouterr().err
    assert (tmp_path / "out/frames/0004.png").is_file()
