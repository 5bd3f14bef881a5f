"""The benchmark of the stages: its arithmetic, its measurements, its page, and the script as a user runs it."""

import io
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.growth import exponent, judged, last_exponent
from benchmarks.measure import measured, preload
from benchmarks.stage_page import BEGIN, END, columns, growth_lines, stage_lines, write_page
from benchmarks.stage_series import AMOUNTS, METHODS, quick, stages
from benchmarks.stage_works import TINY, WORKS, Size, StageTask
from benchmarks.stages import main
from cus.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sleep:
    """A task with a known cost."""

    seconds: float
    mebibytes: int

    def tiny(self) -> Callable[[], object]:
        return lambda: None

    def work(self) -> Callable[[], object]:
        def call() -> None:
            held = torch.ones(self.mebibytes << 18)
            time.sleep(self.seconds)
            del held

        return call


@dataclass(frozen=True)
class Fails(Sleep):
    def work(self) -> Callable[[], object]:
        raise RuntimeError("there is no such size")


def part(seconds: list[float], memory: list[float], error: str | None = None) -> dict[str, Any]:
    rows = []
    for method, factor in (("cpu", 1.0), ("torch", 4.0)):
        for amount, s, m in zip((10, 20, 40), seconds, memory, strict=True):
            numbers = {"seconds": factor * s, "memory": m * 2**20}
            rows.append({"method": method, "amount": amount, "error": None} | numbers)
    if error is not None:
        rows[-1] = {"method": "torch", "amount": 40, "error": error}
    series = {"grows": "views", "expected": 1.0, "why": "a reason", "rows": rows}
    return {"label": "A stage", "about": "What.", "baseline": "torch", "machine": "A machine.", "series": [series]}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power: float):
    amounts = [3.0, 7.0, 20.0, 41.0]
    assert exponent(amounts, [5 * a**power for a in amounts]) == pytest.approx(power, abs=1e-12)


def test_a_fixed_cost_pulls_the_exponent_down_and_the_last_step_less():
    amounts = [1.0, 2.0, 4.0, 8.0]
    costs = [1 + a for a in amounts]
    assert exponent(amounts, costs) < last_exponent(amounts, costs) < 1


def test_an_exponent_of_fewer_than_two_costs_is_not_known():
    assert math.isnan(exponent([1.0, 2.0], [0.0, 3.0]))
    assert judged(math.nan, 1) == "not known"
    assert judged(1.1, 1) == "OK"
    assert judged(1.5, 1) == "worse than 1"


def test_time_and_memory_of_a_known_task_are_found():
    preload(["benchmarks.stages", "pytest"])
    small, large = (measured(Sleep(0.05, size), repeats=2, patience=1.0) for size in (32, 128))
    assert 0.05 <= small.seconds < 0.5
    assert large.memory - small.memory == pytest.approx(96 * 2**20, rel=0.1)
    # The allocator's own pages, some 30 MiB on a loaded machine, come on top.
    assert 128 * 2**20 <= large.memory < 192 * 2**20


def test_a_task_that_fails_says_why_and_stops_nothing():
    found = measured(Fails(0, 1), repeats=1, patience=1.0)
    assert found.error == "RuntimeError: there is no such size"
    assert math.isnan(found.seconds)


def test_every_stage_has_forms_with_names_and_sizes_that_grow():
    known = stages("cpu")
    assert list(known) == list(WORKS)
    for stage in known.values():
        assert set(stage.methods) <= set(METHODS)
        for one in (*stage.series, *quick(stage).series):
            amounts = [AMOUNTS[one.grows](size) for size in one.sizes]
            assert amounts == sorted(set(amounts)) and len(amounts) > 1
            assert one.expected == 1 or one.why


@pytest.mark.parametrize("stage", ["conditioning", "fusion", "points", "unet", "encode", "decode", "fit", "render"])
def test_every_stage_runs_at_its_tiniest_size(stage: str):
    for method in stages("cpu")[stage].methods:
        assert StageTask(stage, method, TINY).tiny()() is not False


def test_a_target_may_have_another_size_than_the_references():
    made: Any = StageTask("conditioning", "torch", Size(width=128, target_width=64, frames=1)).work()()
    assert made.images.shape == (1, 3, 36, 64)


def test_tables_state_ratios_to_the_baseline_exponents_and_reasons():
    made = part([1.0, 2.0, 4.0], [10.0, 10.0, 10.0])
    text = "\n".join(stage_lines(made))
    assert "| 10 | 1.00 s | 10 MiB | 4.00 s | 10 MiB | 4.0 |" in text
    assert "Views: a reason." in text
    growth = growth_lines({"one": made})
    assert "| A stage | CPU kernels | views^1.00 | ^1.00 | ^1 | OK | views^0.00 | OK |" in growth


def test_a_size_that_failed_is_listed_with_its_reason():
    made = part([1.0, 2.0, 4.0], [1.0, 1.0, 1.0], error="OutOfMemoryError: too large")
    assert "- plain torch, 40: OutOfMemoryError: too large" in stage_lines(made)
    assert len(columns(made["series"][0]["rows"])[0]) == 5


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "docs" / "performance.md"
    page.parent.mkdir()
    (tmp_path / "benchmarks").mkdir()
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    results = {"absent": ["Something was not measured."], "stages": {"fit": part([1.0, 2.0, 4.0], [1.0, 2.0, 4.0])}}
    for _ in range(2):
        write_page(tmp_path, results)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert text.count("## A stage") == 1 and "- Something was not measured." in text
    assert json.loads((tmp_path / "benchmarks" / "stages.json").read_text()) == results
    picture = (tmp_path / "docs" / "figures" / "fit.png").read_bytes()
    assert Image.open(io.BytesIO(picture)).format == "PNG" and len(picture) < 30_000


def test_a_page_without_marks_is_left_alone(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text("mine")
    with pytest.raises(ValueError, match="must hold the lines"):
        write_page(tmp_path, {"absent": [], "stages": {}})
    assert (tmp_path / "docs" / "performance.md").read_text() == "mine"


def test_the_repository_page_has_its_marks_and_quotes_no_number_of_its_own():
    text = (ROOT / "docs" / "performance.md").read_text()
    written = text[: text.index(BEGIN)] + text[text.index(END) :]
    assert not [word for word in written.split() if word.rstrip(".,;") in ("ms", "MiB", "GiB")]


def test_a_stage_is_measured_and_nothing_is_written_when_asked_not_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    page = ROOT / "docs" / "performance.md"
    before = page.read_text()
    monkeypatch.setattr(sys, "argv", "stages.py --quick --no-write --repeats 1 --stages fusion".split())
    assert main() == 0
    shown = capsys.readouterr()
    assert "## Fusion into the cloud" in shown.out and "| views^" in shown.out
    assert "load average at the start" in shown.out
    assert "fusion, torch, 8 views: " in shown.err
    assert page.read_text() == before


def test_the_script_runs_from_its_file_and_explains_itself():
    command = [sys.executable, "benchmarks/stages.py", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    assert "docs/performance.md" in run.stdout and "--no-write" in run.stdout


def test_the_script_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["stages.py", "--repeats", "0"])
    with pytest.raises(InputError, match="--repeats must be at least 1, got 0"):
        main()
