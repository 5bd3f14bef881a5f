"""Settings that cannot be are refused in one line; the shipped tables resolve and run."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from cus.errors import InputError
from cus.evaluation.protocol import Rules
from cus.evaluation.rows import ROWS, Frames, Warp
from cus.evaluation.runner import evaluate
from cus.evaluation.settings import EvalSettings, default_rows
from cus.training.config import resolve, save
from tests.conftest import ROOT
from tests.evaluation.small_scenes import SIZE, one_thread, write_scenes

CONFIGS = sorted((ROOT / "configs" / "eval").glob("*.yaml"))


def test_defaults_are_sound_and_classical_rows_have_their_best_blur():
    settings = EvalSettings()
    settings.check()
    assert all(row.blur != isinstance(row, Frames) for row in settings.rows)
    assert settings.row_names[:2] == ["nearest", "nearest+blur"] and settings.made_rules() == Rules()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "near"}, "protocol must be one of closeup, regular, both"),
        ({"poses": "guessed"}, "poses must be one of given, estimated"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"estimator": "magic"}, "estimator must be one of auto, stereo"),
        ({"rows": []}, "no row to evaluate"),
        ({"rows": [Warp(), Warp()]}, "two rows are called 'warp'"),
        ({"rows": [Warp(blur=True), Frames(name="warp+blur")]}, "called 'warp.blur'"),
        ({"baseline": "nothing"}, "the baseline 'nothing' is no row"),
        ({"axes": ["colour"]}, "axes must be one of level, .*, got 'colour'"),
        ({"size": 32}, "size must be 64 to 8192"),
        ({"frames": 0}, "frames must be 1 to 1000"),
        ({"splat_iterations": 0}, "--iterations must be 1 to"),
        ({"seed": -1}, "--seed must be 0 to"),
        ({"rules": {"zoom": [4]}}, "there is no rule 'zoom'; did you mean 'zooms'"),
        ({"rules": {"zooms": 4}}, "the rule 'zooms' must be such as"),
        ({"rules": {"zooms": [0.5]}}, "zooms must be at least 1"),
        ({"rules": {"centers": ["middle"]}}, "crop centres are"),
        ({"rules": {"easy": [4]}}, "the rule 'easy' must be such as"),
        ({"rules": {"easy": ["a", "b"]}}, "the rule 'easy' must be such as"),
        ({"rules": {"easy": [30, 4]}}, "from its least to its largest"),
        ({"rules": {"overlap": "much"}}, "the rule 'overlap' must be such as 0.7"),
        ({"rules": {"triples": 1.5}}, "the rule 'triples' must be a whole number"),
        ({"rules": {"triples": 0}}, "the rule 'triples' must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, message):
    settings = EvalSettings(rows=default_rows(), baseline="")
    for name, value in changes.items():
        setattr(settings, name, value)
    with pytest.raises(InputError, match=message) as refused:
        settings.check()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("warp", "a row must be a mapping such as {kind: warp}, got 'warp'"),
        ({"kind": "wrap"}, "no kind of row 'wrap'; did you mean 'warp'"),
        ({"kind": "warp", "name": "a/b"}, "must do as a file name"),
        ({"kind": "warp", "name": "target"}, "is the truth's"),
        (
            {"kind": "nearest", "scales": [1]},
            "row nearest: rows of kind nearest have no 'scales'; they have kind, name, ",
        ),
        (
            {"kind": "frames", "name": "f", "inpaint": True},
            "row f: rows of kind frames have no 'inpaint'; they have .*structure",
        ),
        ({"kind": "warp", "blur": "maybe"}, "row warp: Value 'maybe' is not a valid bool"),
        ({"kind": "warp", "scales": [4, 1]}, "row warp: scales must be ascending"),
        ({"kind": "fused", "photo_size": 12}, "row fused: photo_size must be 64 to 16384, got 12"),
        ({"kind": "frames", "conditioning": "warp"}, "row frames: conditioning must be one of auto, hier"),
        ({"kind": "frames", "conditioning": "points", "scales": [4]}, "points images have no scales, only shrink_ref"),
        (
            {"kind": "frames", "conditioning": "hierarchical", "photo_size": 512},
            "hierarchical images have no photo_size",
        ),
        ({"kind": "splat", "strategy": "best"}, "row splat: strategy must be one of"),
        ({"kind": "splat", "iterations": 0}, "row splat: iterations must be 1 to"),
        ({"kind": "frames", "steps": 0}, "row frames: steps must be 1 to 1000"),
        ({"kind": "frames", "guidance": -1.0}, "row frames: guidance must be 0 to 100"),
    ],
)
def test_a_row_that_its_kind_cannot_be_is_refused_in_one_line(tmp_path: Path, entry: object, message: str) -> None:
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"rows": [entry]}))
    with pytest.raises(InputError, match=message) as refused:
        resolve(EvalSettings, tmp_path / "table.yaml", [])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_of_every_kind_reads_back_from_what_is_written_of_it(tmp_path: Path, kind: str) -> None:
    settings = EvalSettings(rows=[{"kind": kind, "name": "mine", "blur": True}], baseline="")
    save(settings, tmp_path / "table.yaml")
    (row,) = resolve(EvalSettings, tmp_path / "table.yaml", []).rows
    assert row == settings.rows[0] and type(row) is ROWS[kind] and (row.name, row.label) == ("mine", ROWS[kind].label)
    assert settings.summary()["rows"][0].keys() == {field.name for field in fields(ROWS[kind])}


def test_a_config_that_misspells_a_setting_is_told_the_nearest_one(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text("protocl: regular\n")
    with pytest.raises(InputError, match="did you mean 'protocol'"):
        resolve(EvalSettings, path, [])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_table_resolves_and_says_its_command(path):
    settings = resolve(EvalSettings, path, [])
    settings.check()
    assert settings.baseline in settings.row_names
    assert len({row.label for row in settings.rows}) == len(settings.rows)
    if path.stem.startswith("table"):
        assert f"--config configs/eval/{path.name}" in path.read_text()
        assert settings.title == f"Table {['I', 'II', 'III', 'IV', 'V'][int(path.stem[-1]) - 1]}"


def test_the_lines_of_table_3_add_one_part_each():
    rows = resolve(EvalSettings, ROOT / "configs" / "eval" / "table3.yaml", []).rows
    parts = [(row.scales, row.suppress_background, row.structure) for row in rows]
    assert parts == [
        ([4], False, False),
        ([1], False, False),
        (None, False, False),
        (None, True, False),
        (None, True, True),
    ]


def test_the_lines_of_table_4_add_one_confidence_each():
    rows = resolve(EvalSettings, ROOT / "configs" / "eval" / "table4.yaml", []).rows
    splats = [(row.image_confidence, row.pixel_confidence) for row in rows if row.kind == "splat"]
    assert splats == [(False, False), (True, False), (True, True)]


@pytest.mark.parametrize("name", ["table1", "table3", "table4", "table5"])
def test_every_table_of_the_paper_runs_end_to_end(name, tmp_path):
    small = [f"size={SIZE}", "frames=3", "splat_iterations=4", "rules.zooms=[2]", "scenes=[one]", "metrics=[psnr]"]
    settings = resolve(EvalSettings, ROOT / "configs" / "eval" / f"{name}.yaml", small)
    data: Path = write_scenes(tmp_path / "data")
    with one_thread():
        outcome = evaluate(data, tmp_path / "out", settings)
    assert not outcome.failures and {record.row for record in outcome.records} == set(settings.row_names)
    table = (tmp_path / "out" / "results.md").read_text()
    assert table.startswith(f"# {settings.title}") and all(f"| {row.label} |" in table for row in settings.rows)
    if settings.protocol == "both":
        assert "Close-up view" in table and "Regular view" in table
