"""Settings that cannot be are refused in one line; the shipped tables resolve and run."""

from pathlib import Path

import pytest

from cus.errors import InputError
from cus.evaluation.protocol import Rules
from cus.evaluation.runner import evaluate
from cus.evaluation.settings import EvalSettings, RowSettings, default_rows
from cus.training.config import resolve
from tests.conftest import ROOT
from tests.evaluation.small_scenes import SIZE, one_thread, write_scenes

CONFIGS = sorted((ROOT / "configs" / "eval").glob("*.yaml"))


def test_defaults_are_sound_and_classical_rows_have_their_best_blur():
    settings = EvalSettings()
    settings.check()
    assert all(row.blur == row.classical for row in settings.rows)
    assert settings.row_names[:2] == ["nearest", "nearest+blur"] and settings.made_rules() == Rules()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "near"}, "protocol must be one of closeup, regular, both"),
        ({"poses": "guessed"}, "poses must be one of given, estimated"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"estimator": "magic"}, "estimator must be one of auto, stereo"),
        ({"rows": []}, "no row to evaluate"),
        ({"rows": [RowSettings("wrap")]}, "no kind of row 'wrap'; did you mean 'warp'"),
        ({"rows": [RowSettings("warp"), RowSettings("warp")]}, "two rows are called 'warp'"),
        ({"rows": [RowSettings("warp", blur=True), RowSettings("frames", "warp+blur")]}, "called 'warp.blur'"),
        ({"rows": [RowSettings("warp", "a/b")]}, "must do as a file name"),
        ({"rows": [RowSettings("warp", "target")]}, "is the truth's"),
        ({"rows": [RowSettings("warp", scales=[4, 1])]}, "row warp: scales must be ascending"),
        ({"rows": [RowSettings("frames", conditioning="warp")]}, "row frames: conditioning must be one of auto, hier"),
        ({"rows": [RowSettings("splat", strategy="best")]}, "strategy must be one of"),
        ({"rows": [RowSettings("splat", iterations=0)]}, "--iterations must be 1 to"),
        ({"rows": [RowSettings("frames", steps=0)]}, "steps must be 1 to 1000"),
        ({"rows": [RowSettings("frames", guidance=-1.0)]}, "guidance must be 0 to 100"),
        ({"baseline": "nothing"}, "the baseline 'nothing' is no row"),
        ({"axes": ["colour"]}, "there is no axis 'colour'"),
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
