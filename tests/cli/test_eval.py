"""`cus-eval` as a command, on two small rendered scenes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cus.cli.eval import EvalOptions, main, over, settings_of
from cus.cli.reading import read
from cus.evaluation.metrics import METRIC_NAMES
from cus.evaluation.records import read_records
from tests.conftest import ROOT
from tests.evaluation.small_scenes import damage, numbers, one_thread, write_scenes

SMALL = ["rules.zooms=[2]", "rules.centers=[centre]", "splat_iterations=4", "frames=3"]
QUICK = ["--size", "96", "--rows", "hierarchical", "--metrics", "psnr"]


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    assert main(["--data", str(data), "--out", str(out), *QUICK, *SMALL]) == 0
    return out


def settings(*arguments: str):
    given = ["--data", "anywhere", *arguments]
    return settings_of(read(EvalOptions, given, "cus-eval", "", over(read(EvalOptions, given, "cus-eval", ""))))


def refused(capsys, *arguments: str) -> str:
    """The message of a command that must refuse: one line on stderr, status 2, no traceback."""
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and "Traceback" not in message
    return message.split("error:")[1]


def test_help_gives_every_option_a_default_or_a_unit_and_every_output(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "--data",
        "--protocol",
        "--split",
        "--rows",
        "--metrics",
        "--poses",
        "--resume",
        "--retry",
        "key=value",
    ):
        assert option in text
    for file in ("page.html", "results.md", "split.json", "records.jsonl"):
        assert file in text
    assert "PIXELS" in text and "default" in text


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom cus.cli.eval import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "cus-eval" in result.stdout


def test_options_stand_over_key_value_over_the_config():
    table = str(ROOT / "configs" / "eval" / "table1.yaml")
    assert settings("--config", table).protocol == "both"
    changed = settings(
        "--config", table, "--seed", "7", "seed=5", "splat_iterations=3", "rules.triples=9", "axes=[scene]"
    )
    assert (changed.seed, changed.splat_iterations, changed.axes) == (7, 3, ["scene"])
    assert changed.rules == {"zooms": [4, 5], "centers": ["centre"], "triples": 9}


def test_settings_may_follow_a_list_of_names():
    found = settings("--rows", "frames", "seed=3", "--metrics", "psnr", "ssim", "frames=5")
    assert [row.name for row in found.rows] == ["frames"] and found.metrics == ["psnr", "ssim"]
    assert (found.seed, found.frames) == (3, 5)


def test_rows_are_chosen_by_name_and_a_baseline_that_is_left_out_is_none():
    assert [row.name for row in settings("--rows", "frames", "nearest").rows] == ["nearest", "frames"]
    assert settings("--rows", "frames").baseline == "" and settings("--rows", "hierarchical").baseline == "hierarchical"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--rows", "hierarchicl"], "there is no row 'hierarchicl'; there are nearest"),
        (["--metrics", "psnrr"], "did you mean 'psnr'"),
        (["--size", "7"], "size must be 64 to 8192"),
        (["--model", "nothing/here/at/all"], "nothing/here/at/all"),
        (["--device", "toaster"], "cannot be used here"),
        (["--config", "none.yaml"], "no config file at none.yaml"),
        (["--scenes", "three"], "has no scene three"),
        (["--split", "none.json"], "none.json"),
        (["--retry"], "--retry goes with --resume"),
        (["--protocol", "regular", "--split", "none.json"], "leave --protocol out"),
        (["rules.zoom=4"], "did you mean 'zooms'"),
        (["rules.easy=4"], "the rule 'easy' must be such as"),
        (["axes=[color]"], "axes must be one of level, motion"),
        (["baseline=nothing"], "the baseline 'nothing' is no row"),
        (["protocol=near"], "protocol must be one of"),
        (["rows=[{kind: wrap}]"], "did you mean 'warp'"),
        (["sizes=96"], "did you mean 'size'"),
        (["size=large"], "size"),
        (["nonsense"], "expected key=value"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(capsys, data, tmp_path, extra, message):
    assert message in refused(capsys, "--data", data, "--out", tmp_path / "out", *extra)
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there_cost_no_earlier_evaluation(capsys, data, done):
    before = (done / "records.jsonl").read_bytes()
    assert "there is no" in refused(capsys, "--data", data / "none", "--out", done, "--overwrite", *QUICK)
    assert "--resume continues" in refused(capsys, "--data", data, "--out", done, *QUICK, *SMALL)
    assert "seed was 0, is 3" in refused(
        capsys, "--data", data, "--out", done, "--resume", "--seed", "3", *QUICK, *SMALL
    )
    assert (done / "records.jsonl").read_bytes() == before


def test_the_table_is_told_and_so_is_what_is_missing(capsys, data, tmp_path):
    assert main(["--data", str(data), "--out", str(tmp_path / "out"), *QUICK[:4], "--scenes", "one", *SMALL]) == 0
    told = capsys.readouterr().err
    assert "Close-up benchmark" in told and "| Hierarchical warp, best blur |" in told
    assert str(tmp_path / "out" / "page.html") in told.replace("\n", "")


def test_settings_given_on_the_command_line_are_written_down(done):
    kept = json.loads((done / "settings.json").read_text())["settings"]
    assert kept["splat_iterations"] == 4 and kept["rules"] == {"zooms": [2], "centers": ["centre"]}
    assert [row["name"] for row in kept["rows"]] == ["hierarchical"] and kept["size"] == 96


def test_a_split_is_run_again_elsewhere_and_the_same_command_resumes(data, done, tmp_path):
    command = ["--data", str(data), "--split", str(done / "split.json"), "--out", str(tmp_path / "again"), *QUICK]
    assert main(command) == 0
    assert numbers(read_records(tmp_path / "again" / "records.jsonl")) == numbers(read_records(done / "records.jsonl"))
    lines = (tmp_path / "again" / "records.jsonl").read_bytes()
    assert main([*command, "--resume"]) == 0
    assert (tmp_path / "again" / "records.jsonl").read_bytes() == lines


def test_failures_are_told_and_retried(capsys, done, tmp_path):
    data = write_scenes(tmp_path / "data")
    photo = data / "two" / "images" / "0001.png"
    sound = damage(photo)
    command = ["--data", str(data), "--split", str(done / "split.json"), "--out", str(tmp_path / "out"), *QUICK]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "failed two 0000+0002-0001-x2-centre, Hierarchical warp:" in told and "0001.png" in told
    sound.replace(photo)
    assert main([*command, "--resume", "--retry"]) == 0
    assert "failed" not in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(capsys, data, tmp_path, monkeypatch):
    from cus.evaluation import runner

    append, calls = runner.append_record, []

    def interrupted(*arguments) -> None:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(arguments)
        append(*arguments)

    monkeypatch.setattr(runner, "append_record", interrupted)
    command = ["--data", str(data), "--out", str(tmp_path / "out"), *QUICK, "--resume", "--", *SMALL]
    assert main(command) == 130
    assert "--resume continues" in capsys.readouterr().err.replace("\n", " ")
    monkeypatch.undo()
    assert main(command) == 0
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == 4


def test_help_names_every_metric(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out.split()
    assert set(METRIC_NAMES) <= set(told)
