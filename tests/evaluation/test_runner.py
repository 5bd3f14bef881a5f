"""Whole evaluations of two rendered scenes: complete, repeatable, resumed, and honest about what failed."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cus
from cus.errors import InputError
from cus.estimators.choice import choose
from cus.evaluation.folder import MADE, RECORDS, EvaluationFolder, Mode
from cus.evaluation.rows import Frames, Warp
from cus.evaluation.runner import Outcome, evaluate
from cus.evaluation.settings import EvalSettings, default_rows
from cus.evaluation.splits import load_split
from tests.datasets.layouts import write_transforms
from tests.diffusion.tiny import tiny_pipeline
from tests.evaluation.small_scenes import approached, damage, numbers, one_thread, small, write_scenes
from tests.hub.client import connect, put_folder
from tests.hub.repositories import Repository
from tests.hub.server import running

RESUME, RETRY, OVERWRITE = Mode(resume=True), Mode(resume=True, retry=True), Mode(overwrite=True)
WARP = Warp(name="hierarchical")


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> tuple[Path, Outcome]:
    """Every default row of both protocols."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, evaluate(data, out, everything())


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory) -> tuple[Path, Outcome]:
    """One warp, its blur, and the model's frame."""
    out = tmp_path_factory.mktemp("plain") / "out"
    return out, evaluate(data, out, small())


@pytest.fixture
def copy(plain, tmp_path) -> Path:
    return Path(shutil.copytree(plain[0], tmp_path / "copy"))


def everything() -> EvalSettings:
    return small(*default_rows(), protocol="both", axes=["protocol", "level"])


def interrupter(after: int) -> Callable[..., None]:
    """A progress callback that is Ctrl+C at its call number `after`."""
    calls = []

    def report(*words: object) -> None:
        calls.append(words)
        if len(calls) == after:
            raise KeyboardInterrupt

    return report


def said(out: Path) -> dict[str, str]:
    """What each output shows a reader: text."""
    return {name: (out / name).read_text() for name in ("results.json", "results.md", "results.tex", "page.html")}


def test_a_whole_evaluation_leaves_a_record_and_a_picture_of_every_row_and_case(whole):
    out, outcome = whole
    split = load_split(out / "split.json")
    cases = {(scene, case.name) for scene, part in split.scenes.items() for case in part.cases}
    assert {case.protocol for part in split.scenes.values() for case in part.cases} == {"closeup", "regular"}
    names = everything()
    names.check()
    assert set(numbers(outcome.records)) == {(*case, row) for case in cases for row in names.row_names}
    assert not outcome.failures and not outcome.without_cases and len(split.scenes) == 2
    for record in outcome.records:
        assert record.picture is not None and Image.open(out / record.picture).size == (96, 64)
        assert set(record.scores) == {"frame", "covisible"} and set(record.scores["frame"]) == {"psnr", "ssim"}
        assert 3 < record.scores["frame"]["psnr"] < 50 and record.seconds > 0
    for scene, case in cases:
        assert (out / "pictures" / scene / case / "target.png").is_file()
    assert all((out / name).exists() for name in MADE) and not list(out.rglob("*.part"))


def test_the_table_has_a_column_for_each_protocol_and_a_line_for_each_row(whole):
    out, _ = whole
    table = (out / "results.md").read_text()
    assert "Close-up view, Easy set: PSNR" in table and "Regular view, Easy set: PSNR" in table
    assert all(f"| {row.label or 'Generated frame'} |" in table for row in default_rows() if row.label)


def test_the_best_blur_of_a_row_is_never_worse_than_the_row(whole):
    """The blur that the truth chooses includes none at all."""
    scores = {(r.scene, r.case, r.row): r.scores["frame"]["psnr"] for r in whole[1].records}
    blurred = [key for key in scores if key[2].endswith("+blur")]
    assert len(blurred) == 7 * 4
    for scene, case, row in blurred:
        assert scores[scene, case, row] >= scores[scene, case, row.removesuffix("+blur")]


def test_the_same_seed_gives_the_same_numbers_and_pictures_twice(data, whole, tmp_path):
    out, outcome = whole
    again = evaluate(data, tmp_path / "again", everything())
    assert numbers(again.records) == numbers(outcome.records)
    for record in again.records:
        assert record.picture is not None
        assert (tmp_path / "again" / record.picture).read_bytes() == (out / record.picture).read_bytes()


def test_another_seed_gives_another_frame(data, tmp_path):
    """Of a model that starts from noise; the shipped one does not."""
    noisy = shutil.copytree(Path(cus.__file__).parent / "weights" / "mini", tmp_path / "noisy")
    index = json.loads((noisy / "model_index.json").read_text())
    index["sampling"]["noise"] = 1.0
    (noisy / "model_index.json").write_text(json.dumps(index))
    found = [
        evaluate(data, tmp_path / str(seed), small(model=str(noisy), seed=seed, scenes=["one"])).records
        for seed in (0, 1)
    ]
    frames = {r.row: r.scores for r in found[0]}
    assert {r.row for r in found[1] if r.scores != frames[r.row]} == {"frames"}


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_evaluation_ends_with_the_same_numbers_and_repeats_nothing(data, plain, tmp_path, after):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, out, small(), on_progress=interrupter(after))
    done = (out / RECORDS).read_bytes() if (out / RECORDS).exists() else b""
    outcome = evaluate(data, out, small(), mode=RESUME)
    lines = (out / RECORDS).read_bytes()
    assert lines.startswith(done) and len(lines.splitlines()) == len(plain[1].records)
    assert numbers(outcome.records) == numbers(plain[1].records)
    told: list[tuple[object, ...]] = []
    evaluate(data, out, small(), mode=RESUME, on_progress=lambda *words: told.append(words))
    assert not told and (out / RECORDS).read_bytes() == lines


def test_tables_of_an_interrupted_evaluation_say_what_is_missing(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path / "out", small(), on_progress=interrupter(3))
    assert "1 missing" in (tmp_path / "out" / "results.md").read_text()


def test_a_torn_last_line_is_run_again(data, copy, plain):
    lines = (copy / RECORDS).read_bytes()
    (copy / RECORDS).write_bytes(lines[:-20])
    assert numbers(evaluate(data, copy, small(), mode=RESUME).records) == numbers(plain[1].records)


def test_a_damaged_photograph_fails_its_scene_alone_and_is_tried_again_once_mended(plain, tmp_path):
    data, out = write_scenes(tmp_path / "data"), tmp_path / "out"
    split = plain[0] / "split.json"
    photo = data / "one" / "images" / "0002.png"
    sound = damage(photo)
    outcome = evaluate(data, out, small(), split)
    assert {r.scene for r in outcome.failures} == {"one"} and len(outcome.failures) == 3
    assert all("0002.png" in str(r.error) for r in outcome.failures)
    for name, text in said(out).items():
        assert "0002.png" in text.replace("\\_", "_"), name
    rows = list(csv.DictReader((out / "per_image.csv").open()))
    assert [row["row"] for row in rows if "0002.png" in row["error"]] == ["hierarchical", "hierarchical+blur", "frames"]
    assert "3 of 6 records failed" in (out / "results.md").read_text()
    photo.unlink()
    sound.rename(photo)
    assert len(evaluate(data, out, small(), split, mode=RESUME).failures) == 3, "not unasked"
    assert not (mended := evaluate(data, out, small(), split, mode=RETRY)).failures
    assert numbers(mended.records) == numbers(plain[1].records)
    assert "failed" not in (out / "results.md").read_text()


def test_a_retry_that_is_interrupted_keeps_the_failures_in_the_tables(plain, tmp_path):
    data, out, split = write_scenes(tmp_path / "data"), tmp_path / "out", plain[0] / "split.json"
    sound = damage(data / "one" / "images" / "0001.png")
    assert len(evaluate(data, out, small(WARP), split).failures) == 1, "the target alone"
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, out, small(WARP), split, mode=RETRY, on_progress=interrupter(1))
    assert "1 of 2 records failed" in (out / "results.md").read_text() and sound.exists()


def test_a_scene_without_cases_is_listed_with_its_reason_and_chosen_from_once_mended(plain, tmp_path):
    data, out = write_scenes(tmp_path / "data"), tmp_path / "out"
    photo = data / "one" / "images" / "0000.png"
    sound = damage(photo)
    outcome = evaluate(data, out, small(WARP))
    assert {r.scene for r in outcome.records} == {"two"} and "0000.png" in outcome.without_cases["one"]
    resumed = evaluate(data, out, small(WARP), mode=RESUME)
    assert resumed.without_cases == outcome.without_cases
    for name, text in said(out).items():
        assert "0000.png" in text.replace("\\_", "_"), name
    sound.replace(photo)
    mended = evaluate(data, out, small(WARP), mode=RETRY)
    assert not mended.without_cases and "No case" not in (out / "results.md").read_text()
    wanted = {key: value for key, value in numbers(plain[1].records).items() if key[2] == "hierarchical"}
    assert numbers(mended.records) == wanted


def test_another_evaluation_is_neither_replaced_nor_mixed_with(data, copy, tmp_path):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    changed = small()
    changed.rows[0] = replace(changed.rows[0], suppress_background=False)
    other_split = tmp_path / "other.json"
    content = json.loads((copy / "split.json").read_text())
    content["scenes"].pop("two")
    other_split.write_text(json.dumps(content))
    for settings, split, mode, message in (
        (small(), None, Mode(), "--resume continues it, --overwrite replaces it"),
        (small(seed=3), None, RESUME, "seed was 0, is 3"),
        (small(size=128), None, RESUME, "size was 96, is 128"),
        (small(protocol="regular"), None, RESUME, "protocol was 'closeup', is 'regular'"),
        (small(scenes=["one"]), None, RESUME, "scenes was None, is"),
        (small(rules={"zooms": [5]}), None, RESUME, "rules was"),
        (changed, None, RESUME, "suppress_background of row hierarchical was True, is False"),
        (small(WARP), None, RESUME, "rows were hierarchical frames, are hierarchical"),
        (small(metrics=["psnr", "gmsd"]), None, RESUME, "not scored by gmsd; give --metrics psnr ssim"),
        (small(), other_split, RESUME, "other cases than those of"),
        (small(scenes=["three"]), None, OVERWRITE, "no scene three"),
        (small(), None, Mode(retry=True), "--retry goes with --resume"),
        (small(), None, Mode(resume=True, overwrite=True), "not both"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(data, copy, settings, split, mode=mode)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_a_table_may_be_laid_out_anew_without_any_work(data, copy):
    settings = small(title="Another title", axes=["scene", "level"], metrics=["psnr"], baseline="")
    before = (copy / RECORDS).read_bytes()
    evaluate(data, copy, settings, mode=RESUME)
    table = (copy / "results.md").read_text()
    assert table.startswith("# Another title") and "two, Easy set: PSNR" in table and "SSIM" not in table
    assert (copy / RECORDS).read_bytes() == before


def test_settings_that_an_earlier_version_did_not_know_are_as_they_are_by_default(data, copy):
    path = copy / "settings.json"
    content = json.loads(path.read_text())
    warp, frames = content["settings"]["rows"]
    del warp["scales"], frames["conditioning"], frames["shrink_references"]
    warp["conditioning"] = "auto"  # which its kind has no more
    path.write_text(json.dumps(content))
    before = (copy / "records.jsonl").read_text()
    evaluate(data, copy, small(), mode=RESUME)
    assert (copy / "records.jsonl").read_text() == before


def test_auto_is_written_down_as_the_estimator_that_it_took(data, copy):
    path = copy / "settings.json"
    content = json.loads(path.read_text())
    assert content["settings"]["estimator"] == choose("auto").estimator
    # An earlier version wrote "auto" for the only one that it had.
    path.write_text(json.dumps(content | {"settings": content["settings"] | {"estimator": "auto"}}))
    evaluate(data, copy, small(estimator="stereo"), mode=RESUME)
    assert json.loads(path.read_text())["settings"]["estimator"] == "stereo"
    content["settings"]["estimator"] = "vggt:facebook/VGGT-1B"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="estimator was 'vggt:facebook/VGGT-1B', is 'stereo'"):
        evaluate(data, copy, small(estimator="stereo"), mode=RESUME)


def test_overwriting_leaves_nothing_of_the_earlier_evaluation_and_what_is_not_its_own(data, copy, tmp_path):
    (copy / "notes.txt").write_text("mine")
    outcome = evaluate(data, copy, small(WARP, scenes=["two"]), mode=OVERWRITE)
    assert [(r.scene, r.row) for r in outcome.records] == [("two", "hierarchical")]
    assert {path.name for path in (copy / "pictures").iterdir()} == {"two"} and (copy / "notes.txt").exists()
    (tmp_path / "mine" / "pictures").mkdir(parents=True)
    (tmp_path / "mine" / "pictures" / "holiday.jpg").write_text("mine")
    evaluate(data, tmp_path / "mine", small(WARP, scenes=["two"]), mode=OVERWRITE)
    assert (tmp_path / "mine" / "pictures" / "holiday.jpg").exists(), "no evaluation was there"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "records.jsonl").write_text("mine")
    for mode in (OVERWRITE, RESUME, Mode()):
        with pytest.raises(InputError, match="holds records.jsonl, which no run made"):
            evaluate(data, tmp_path / "other", small(WARP, scenes=["two"]), mode=mode)
    assert (tmp_path / "other" / "records.jsonl").read_text() == "mine"


def test_an_earlier_evaluation_stays_until_the_new_one_has_something_to_show(data, copy, monkeypatch):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cus.evaluation.runner.estimate_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, copy, small(WARP, scenes=["two"]), mode=OVERWRITE)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_two_evaluations_at_once_in_a_folder_are_refused(data, copy):
    folder = EvaluationFolder(copy)
    folder.prepare(RESUME, [])
    with pytest.raises(InputError, match="another run is at work"):
        evaluate(data, copy, small(), mode=RESUME)


def test_a_split_of_another_evaluation_gives_its_cases_and_size(data, whole, tmp_path):
    out, outcome = whole
    settings = small(WARP, size=0, rules={}, scenes=["two"])
    again = evaluate(data, tmp_path / "again", settings, out / "split.json")
    wanted = {key: value for key, value in numbers(outcome.records).items() if key[0] == "two"}
    assert numbers(again.records) == {key: value for key, value in wanted.items() if key[2] == "hierarchical"}
    assert load_split(tmp_path / "again" / "split.json").size == 96
    assert settings.size == 0, "the caller's settings are the caller's"
    resumed = evaluate(data, tmp_path / "again", settings, out / "split.json", mode=RESUME)
    assert numbers(resumed.records) == numbers(again.records)


def test_what_cannot_be_is_refused_before_anything_is_written(data, tmp_path):
    for settings, path, message in (
        (small(metrics=["psmr"]), data, "did you mean 'psnr'"),
        (small(model="nothing/here/at/all"), data, "nothing/here/at/all"),
        (small(device="toaster"), data, "cannot be used here"),
        (small(), data / "none", "there is no"),
        (small(rules={"pair_overlap": 0.999}), data, "no scene in .* gives a case"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(path, tmp_path / "out", settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        evaluate(data, tmp_path / "file", small())
    assert not (tmp_path / "out").exists()


def test_pixels_of_pictures_on_the_disk_are_those_that_were_scored(plain):
    out, outcome = plain
    for record in outcome.records:
        folder = out / "pictures" / record.scene / record.case
        shown, truth = (np.asarray(Image.open(folder / f"{n}.png"), np.float64) / 255 for n in (record.row, "target"))
        psnr = -10 * np.log10(((shown - truth) ** 2).mean())
        assert record.scores["frame"]["psnr"] == pytest.approx(psnr, abs=0.05), record.row


def test_estimated_poses_put_their_errors_into_the_table(data, tmp_path):
    settings = small(WARP, poses="estimated", size=192, protocol="regular", scenes=["one"])
    outcome = evaluate(data, tmp_path / "out", settings)
    (record,) = outcome.records
    assert record.error is None
    assert 0 <= record.scores["frame"]["rotation_error"] < 5 and record.scores["frame"]["position_error"] >= 0
    assert 0 < record.scores["frame"]["place_error"] < 1
    assert "Rotation error ↓" in (tmp_path / "out" / "results.md").read_text()


def test_a_scene_with_cases_of_one_protocol_alone_says_so_in_a_table_of_both(tmp_path):
    write_transforms(tmp_path / "data" / "near", *approached())
    settings = small(WARP, protocol="both", axes=["protocol", "motion"], rules={"dolly": [0.3, 0.7], "overlap": 0.6})
    outcome = evaluate(tmp_path / "data", tmp_path / "out", settings)
    assert [(r.group["protocol"], r.group["motion"], r.error) for r in outcome.records] == [("closeup", "dolly", None)]
    assert set(outcome.without_cases) == {"near (regular)"}
    assert "No case in near (regular): no target" in (tmp_path / "out" / "results.md").read_text()


def test_a_model_of_the_hub_is_evaluated_at_one_commit_and_named_by_it(data, tmp_path, monkeypatch):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    frames = Frames(steps=1)
    with running() as hub:
        hub.repositories["org/tiny"] = Repository("org/tiny")
        put_folder(hub, "org/tiny", tmp_path / "model")
        connect(monkeypatch, hub.endpoint, tmp_path / "home")
        evaluate(data, tmp_path / "out", small(WARP, frames, model="org/tiny"))
        named = json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]["model"]
        name, _, commit = named.partition("@")
        assert name == "org/tiny" and len(commit) == 40
        # The branch moves on: rows of another commit must not join the table.
        hub.repositories["org/tiny"].put({"README.md": b"# tiny, trained on\n"})
        with pytest.raises(InputError, match="model"):
            evaluate(data, tmp_path / "out", small(WARP, frames, model="org/tiny"), mode=RESUME)
        evaluate(data, tmp_path / "out", small(WARP, frames, model=named), mode=RESUME)
