"""A run whose geometry is wrong: it ends, keeps what it made, and says loudly that it is not to be trusted."""

import json
from pathlib import Path

import pytest

from cus.cli.infer import main
from cus.inference import InferSettings, Run
from tests.conftest import ROOT
from tests.inference.test_run import Silent

EXAMPLE = ROOT / "examples" / "courtyard"
VIEWS = [str(EXAMPLE / "a.jpg"), str(EXAMPLE / "b.jpg")]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """The example small enough that too few features are left to refuse cameras, of which the second is wrong."""
    folder = tmp_path_factory.mktemp("untrusted")
    content = json.loads((EXAMPLE / "transforms.json").read_text())
    for frame in content["frames"]:
        frame["file_path"] = str(EXAMPLE / Path(frame["file_path"]).name)
    content["frames"][1]["transform_matrix"][2][3] += 0.15
    (folder / "wrong.json").write_text(json.dumps(content))
    small = ["--photo-size", "128", "--size", "64", "--frames", "2", "--conditioning-only"]
    return ["--views", *VIEWS, "--cameras", str(folder / "wrong.json"), "--out", str(folder / "out"), *small]


def test_it_ends_with_status_3_says_so_in_console_json_and_report_and_keeps_everything(arguments, capsys):
    assert main([*arguments, "--json", "--quiet"]) == 3
    printed = capsys.readouterr()
    end = json.loads(printed.out.splitlines()[-1])
    assert end["status"] == 3 and end["verdict"]["grade"] == "poor" and end["verdict"]["trusted"] is False
    assert printed.err.startswith("Not to be trusted: the geometry") and "--cameras" in printed.err
    assert printed.err.count("\n") == 1, "--quiet leaves this line, as it leaves errors"
    out = Path(end["out"])
    assert len(list((out / "conditioning").glob("*.png"))) == 2
    assert "Not to be trusted" in (out / "report.html").read_text()
    assert json.loads((out / "run.json").read_text())["verdict"] == end["verdict"]


def test_force_takes_it_quietly_and_the_report_notes_it(arguments, capsys):
    main(arguments[:-1] + ["--conditioning-only", "--resume", "--quiet"])
    capsys.readouterr()
    assert main([*arguments, "--resume", "--force", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["status"] == 0 and "Not to be trusted" not in printed.err
    page = (Path(arguments[arguments.index("--out") + 1]) / "report.html").read_text()
    assert "<code>--force</code> asked" in page and 'class="alarm"' not in page


def test_in_python_the_verdict_is_among_the_results(tmp_path):
    settings = InferSettings(
        tuple(map(Path, VIEWS)), out=tmp_path / "out", photo_size=256, size=64, frames=2, conditioning_only=True
    )
    run, told = Run(settings, Silent()), []
    run.execute(on_verdict=told.append)
    verdict = run.results.verdict
    assert verdict is not None and told == [verdict] and verdict.trusted
    assert verdict.measures.frame == 1 and {finding.name for finding in verdict.findings} >= {"geometry", "coverage"}
    again = Run(settings, Silent(), resume=True)
    again.execute()
    assert again.results.verdict is not None and again.results.verdict.to_json() == verdict.to_json()
    assert again.results.reused == ["scene", "conditioning"]
    assert again.results.plain_crop is not None and again.results.plain_crop.shape == (36, 64, 3)
