"""Split files: what is written comes back, and data that changed are told."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from cus.cameras import load_transforms
from cus.datasets.scenes import open_source
from cus.errors import InputError
from cus.evaluation.protocol import Rules, choose_cases
from cus.evaluation.splits import SceneSplit, Split, _used, build_split, differences, load_split, save_split
from cus.evaluation.targets import read_target
from tests.datasets.layouts import procedural_views, write_transforms

RULES = Rules(pair_overlap=0.3, overlap=0.3, easy=(1.0, 28.0), between=(-1.0, 2.0), aside=3.0, zooms=(2.0,))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with one scene of four photographs."""
    folder = tmp_path_factory.mktemp("data")
    write_transforms(folder / "wall", *procedural_views(4, 288, 192))
    return folder


@pytest.fixture(scope="module")
def split(data):
    split, failures = build_split(data, "closeup", 96, RULES)
    assert not failures and len(split) > 0
    return split


def test_a_split_file_gives_back_the_split_and_fits_its_data(data, split, tmp_path):
    save_split(tmp_path / "sub" / "split.json", split)
    assert load_split(tmp_path / "sub" / "split.json", data) == split
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["split.json"]


def test_building_again_gives_the_same_bytes(data, split, tmp_path):
    save_split(tmp_path / "a.json", split)
    save_split(tmp_path / "b.json", build_split(data, "closeup", 96, RULES)[0])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_scene_of_a_split_opens_and_its_cases_have_targets(data, split):
    source = split.source("wall", data)
    posed = open_source(source)
    target = read_target(posed, split.scenes["wall"].cases[0], 96)
    picture, camera = target.picture, target.camera
    assert picture.shape == (3, camera.height, camera.width) == (3, 64, 96)


def test_a_single_scene_is_a_data_folder_too(data, split, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    alone, failures = build_split("wall", "closeup", 96, RULES)
    assert not failures and alone.scenes["wall"].source == "."
    assert alone.scenes["wall"].cases == split.scenes["wall"].cases
    save_split(tmp_path / "alone.json", alone)
    assert load_split(tmp_path / "alone.json", data / "wall") == alone
    with pytest.raises(InputError, match="wall: "):
        load_split(tmp_path / "alone.json", data)


def test_scenes_without_cases_are_listed_with_their_reason(data, tmp_path):
    shutil.copytree(data / "wall", tmp_path / "wall")
    shutil.copytree(data / "wall", tmp_path / "broken")
    for path in sorted((tmp_path / "broken" / "images").iterdir())[1:]:
        path.unlink()
    split, failures = build_split(tmp_path, "closeup", 96, RULES)
    assert set(split.scenes) == {"wall"} and "missing" in failures["broken"]
    with pytest.raises(InputError, match="no scene door"):
        build_split(tmp_path, "closeup", 96, RULES, only=["door"])


def test_data_that_changed_are_told(data, split, tmp_path):
    save_split(tmp_path / "split.json", split)
    assert differences(split, data) == []
    assert "there is no" in differences(split, tmp_path)[0]
    with pytest.raises(InputError, match="the data in .* are not those of"):
        load_split(tmp_path / "split.json", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    for path in (copy / "wall" / "images").iterdir():
        with Image.open(path) as image:
            image.resize((144, 96)).save(path)
    assert all("144x96 pixels, 288x192 in the split" in line for line in differences(split, copy))
    (copy / "wall" / "images" / "0002.png").unlink()
    assert any("no photograph 0002.png" in line for line in differences(split, copy))


def test_other_cameras_are_told(data, split, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    file = tmp_path / "copy" / "wall" / "transforms.json"
    content = json.loads(file.read_text())
    content["frames"][1]["transform_matrix"][0][3] += 1.0
    content["frames"][2]["fl_x"] *= 1.1
    file.write_text(json.dumps(content))
    found = differences(split, tmp_path / "copy")
    assert len(found) == 2 and "another place" in found[0] and "focal length" in found[1]
    content["frames"].pop(0)
    file.write_text(json.dumps(content))
    assert any("no photograph 0000.png" in line for line in differences(split, tmp_path / "copy"))


def edited(split_file, change):
    content = json.loads(split_file.read_text())
    change(content)
    split_file.write_text(json.dumps(content))
    return split_file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="cus-split-0"), "no split file of this version"),
        (lambda c: c.pop("rules"), "damaged"),
        (lambda c: c["rules"].update(zoms=[3]), "no rule zoms"),
        (lambda c: c["rules"].update(triples=0), "'triples'"),
        (lambda c: c.update(protocol="macro"), "expected a protocol"),
        (lambda c: c.update(size=10**400), "a size of 1 to 8192 pixels, got .*1000"),
        (lambda c: c["scenes"]["wall"].update(kind="video"), "expected a kind"),
        (lambda c: c["scenes"]["wall"]["cases"][0].update(target="9.png"), "names 9.png"),
        (lambda c: c["scenes"]["wall"]["cases"][0].update(zoom=0.1), "is none that there is"),
        (lambda c: c["scenes"]["wall"]["cases"][0].update(colour="red"), "damaged"),
        (lambda c: c["scenes"]["wall"]["cases"].append(c["scenes"]["wall"]["cases"][0]), "unique"),
        (lambda c: c["scenes"]["wall"]["cases"][0].update(references=["0000.png", "0000.png"]), "different"),
        (lambda c: c.update(scenes=[1]), "damaged"),
        (lambda c: c["scenes"]["wall"]["cases"][0].update(name="../../x"), "cannot"),
        (lambda c: c["scenes"]["wall"].update(source="../other"), "leads out"),
        (lambda c: c["scenes"].update({"/elsewhere/x": c["scenes"]["wall"]}), "leads out"),
    ],
)
def test_a_damaged_split_file_says_where(split, tmp_path, change, message):
    file = tmp_path / "split.json"
    save_split(file, split)
    with pytest.raises(InputError, match=message):
        load_split(edited(file, change))


def test_a_split_that_cannot_be_written_leaves_the_earlier_one(split, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="cannot write"):
        save_split(tmp_path / "file" / "split.json", split)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(InputError, match="cannot read"):
        load_split(tmp_path / "none.json")


def test_the_fountain_split_is_that_of_its_photographs(photos, tmp_path):
    """Given depths would do: only that a real scene's cases survive the file is asked here."""
    posed = load_transforms(photos / "fountain_p11").select([5, 6, 7])
    cases = tuple(choose_cases(posed, replace(Rules(), zooms=(4.0,)), "closeup"))
    assert cases[0].name == "0005+0007-0006-x4-centre" and len(cases) == 5
    split = Split("closeup", 512, Rules(), {"f": SceneSplit("fountain_p11", "transforms", _used(posed, cases), cases)})
    save_split(tmp_path / "split.json", split)
    assert load_split(tmp_path / "split.json", photos) == split
