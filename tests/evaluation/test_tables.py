"""Means, intervals, what is compared, and the tables as files."""

import csv
import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest

from cus.errors import InputError
from cus.evaluation.latex import escaped, latex
from cus.evaluation.markdown import markdown
from cus.evaluation.records import Record
from cus.evaluation.results import write_results
from cus.evaluation.statistics import bootstrap_weights, estimates, scene_weights
from cus.evaluation.tables import Cell, Summary, TableOptions, summarise
from tests.evaluation.made_records import LPIPS, METRICS, PSNR, Made, made_records


def record(scene: str, case: str, row: str, psnr: float | None, level: str = "easy", **group: str) -> Record:
    scores = {} if psnr is None else {"frame": {"psnr": psnr}}
    error = "out of memory" if psnr is None else None
    return Record(scene, case, row, row.upper(), {"level": level} | group, scores, None, 1.0, error)


def cell(summary: Summary, row: str, metric: str = "psnr", section: int = 0, group: int = 0) -> Cell:
    return summary.sections[section].groups[group].cells[row][metric]


def mean(summary: Summary, row: str, section: int = 0) -> float:
    estimate = cell(summary, row, section=section).estimate
    assert estimate is not None
    return estimate.mean


# Statistics


def test_the_mean_over_scenes_weighs_scenes_alike_whatever_their_cases():
    values = np.array([[1.0, 2.0, 3.0, 10.0]])
    (estimate,) = estimates(values, [3, 1])
    assert estimate.mean == pytest.approx((2 + 10) / 2)
    assert (estimate.cases, estimate.scenes) == (4, 2)


def test_bootstrap_weights_draw_as_many_cases_as_a_scene_has():
    weights = bootstrap_weights([3, 1, 4], 500, seed=5)
    assert weights.shape == (500, 8)
    assert np.allclose(weights.sum(axis=1), 1)
    counts = weights / scene_weights([3, 1, 4])
    assert np.allclose(counts, counts.round())
    assert np.allclose(counts[:, :3].sum(axis=1), 3) and np.allclose(counts[:, 3], 1)
    assert np.allclose(weights.mean(axis=0), scene_weights([3, 1, 4]), atol=0.02)


def test_the_bootstrap_is_that_of_a_plain_loop_over_every_possible_draw():
    values = np.array([2.0, 3.0, 7.0, 11.0])
    draws = [np.mean(draw) for draw in itertools.product(values, repeat=4)]
    (estimate,) = estimates(values[None], [4], draws=200_000)
    assert estimate.interval == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.26)
    weights = bootstrap_weights([4], 200_000)
    assert (weights @ values).std() == pytest.approx(np.std(draws), rel=0.01)


def test_intervals_of_many_normal_cases_are_those_of_the_normal_distribution():
    values = np.random.default_rng(0).normal(20, 2, 400)
    (estimate,) = estimates(values[None], [400], draws=4000)
    error = 1.96 * values.std() / 20
    assert estimate.interval == pytest.approx((values.mean() - error, values.mean() + error), abs=0.02)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).normal(size=(1, 9))
    again = [estimates(values, [4, 5], seed=seed)[0].interval for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_one_case_a_scene_or_an_infinite_score_has_no_interval():
    assert estimates(np.array([[1.0, 2.0]]), [1, 1])[0].interval is None
    infinite, finite = estimates(np.array([[1.0, math.inf], [1.0, 2.0]]), [2])
    assert infinite.mean == math.inf and infinite.interval is None and finite.interval is not None


# What is compared


def test_rows_are_compared_over_the_cases_that_all_of_them_have_and_the_rest_is_stated():
    records = [record("s", f"c{i}", "a", 20.0 + i) for i in range(4)]
    records += [record("s", "c0", "b", None), *(record("s", f"c{i}", "b", 30.0 + i) for i in (1, 2))]
    summary = summarise(records, [PSNR], ["a", "b"], TableOptions(baseline="a"))
    group = summary.sections[0].groups[0]
    assert (group.planned, group.compared) == (4, 2)
    assert (mean(summary, "a"), mean(summary, "b")) == (21.5, 31.5)
    assert str(group.counts["b"]) == "2 of 4, 1 failed, 1 missing" and str(group.counts["a"]) == "4"
    own = cell(summary, "a").own
    assert own is not None and (own.mean, own.cases) == (21.5, 4)
    assert cell(summary, "b").own is None
    assert summary.failures == [records[4]] and "1 of 7 records failed" in summary.failure_note


def test_a_row_that_fails_everywhere_narrows_nothing_and_stands_in_the_table():
    records = [r for i in range(3) for r in (record("s", f"c{i}", "a", 20.0), record("s", f"c{i}", "b", None))]
    summary = summarise(records, [PSNR], ["a", "b"], TableOptions(baseline="b"))
    assert mean(summary, "a") == 20
    assert cell(summary, "b") == Cell() and cell(summary, "a").difference is None
    assert str(summary.sections[0].groups[0].counts["b"]) == "0 of 3, 3 failed"


def test_a_scene_that_is_left_out_of_the_means_is_named():
    records = [record("kept", "c", row, 20.0) for row in "ab"]
    records += [record("lost", "c", "a", 90.0), record("lost", "c", "b", None)]
    summary = summarise(records, [PSNR], ["a", "b"])
    assert mean(summary, "a") == 20
    assert any(note.startswith("lost has no case") for note in summary.notes)
    assert mean(summary, "a", section=2) == 90, "in its own table the row that has scores stands"


def test_a_missing_score_of_one_metric_narrows_that_metric_alone():
    records = [record("s", f"c{i}", row, 20.0 + i) for i in range(3) for row in "ab"]
    for one in records:
        one.scores["frame"]["lpips"] = math.nan if one.case == "c0" else 0.5
    summary = summarise(records, [PSNR, LPIPS], ["a", "b"])
    psnr, lpips = cell(summary, "a").estimate, cell(summary, "a", "lpips").estimate
    assert psnr is not None and lpips is not None and (psnr.cases, lpips.cases) == (3, 2)
    assert "(n = 2)" in markdown(summary)


def test_differences_are_paired_so_that_what_cases_share_cancels():
    generator = np.random.default_rng(0)
    records = []
    for i in range(12):
        base = float(generator.uniform(10, 30))
        records += [record("s", f"c{i}", "a", base), record("s", f"c{i}", "b", base + 0.5)]
    summary = summarise(records, [PSNR], ["a", "b"], TableOptions(baseline="a"))
    difference, estimate = cell(summary, "b").difference, cell(summary, "b").estimate
    assert difference is not None and difference.mean == pytest.approx(0.5)
    assert difference.interval == pytest.approx((0.5, 0.5))
    assert estimate is not None and estimate.interval is not None
    assert estimate.interval[1] - estimate.interval[0] > 3
    assert cell(summary, "a").difference is None


def test_ranks_follow_the_direction_and_what_prints_alike_ranks_alike():
    values = {"a": 20.001, "b": 20.004, "c": 19.0, "d": 18.0}
    records = [record("s", "c", row, value) for row, value in values.items()]
    for one in records:
        one.scores["frame"]["lpips"] = one.scores["frame"]["psnr"] / 100
    summary = summarise(records, [PSNR, LPIPS], list(values))
    assert [cell(summary, row).rank for row in values] == [1, 1, 2, 0]
    assert [cell(summary, row, "lpips").rank for row in values] == [0, 0, 2, 1]


def test_groups_stand_in_the_papers_order_then_by_number():
    zooms = ["10", "4", "4.5"]
    order = itertools.product(["regular", "closeup"], ["hard", "easy"], zooms)
    records = [
        record("s", f"c{i}", "a", 20.0, level, protocol=protocol, zoom=zoom)
        for i, (protocol, level, zoom) in enumerate(order)
    ]
    options = TableOptions(axes=("protocol", "level", "zoom"))
    groups = [group.values for group in summarise(records, [PSNR], ["a"], options).sections[0].groups]
    assert groups == list(itertools.product(["closeup", "regular"], ["easy", "hard"], ["4", "4.5", "10"]))


def test_the_last_record_of_a_case_counts():
    records = [record("s", "c", "a", None), record("s", "c", "a", 25.0)]
    summary = summarise(records, [PSNR], ["a"])
    assert mean(summary, "a") == 25 and not summary.failures


def test_what_is_not_in_the_table_is_noted():
    summary = summarise([record("s", "c", "a", 20.0), record("s", "c", "old", 1.0)], [PSNR], ["a", "later"])
    assert any("left out: old" in note for note in summary.notes)
    assert any("No record yet of: later" in note for note in summary.notes)


def test_wrong_axes_and_rows_are_errors_that_name_the_nearest():
    records = [record("s", "c", "a", 20.0)]
    with pytest.raises(InputError, match="axis lvel .*did you mean level"):
        summarise(records, [PSNR], ["a"], TableOptions(axes=("lvel",)))
    with pytest.raises(InputError, match="no row hierachical.*did you mean hierarchical"):
        summarise(records, [PSNR], ["a", "hierarchical"], TableOptions(baseline="hierachical"))


# Files


def table_one() -> Summary:
    """Table I's form: two axes of two, three rows of which one has no regular views."""
    scores = {"DepthSplat": 17.93, "DepthSplat*": 18.65, "Ours_50%": 20.61}
    records = []
    for name, psnr in scores.items():
        for protocol, level in itertools.product(["closeup", "regular"], ["easy", "hard"]):
            if (name, protocol) == ("DepthSplat*", "regular"):
                continue
            for scene, case in itertools.product(["one", "two"], "ab"):
                value = psnr - (level == "hard") + (case == "b") / 10
                frame = {"psnr": value, "ssim": value / 30, "lpips": 1 - value / 30}
                group = {"protocol": protocol, "level": level}
                records.append(Record(scene, f"{case}-{level}", name, name, group, {"frame": frame}, None, 2.0))
    return summarise(records, METRICS, list(scores), TableOptions(("protocol", "level"), "DepthSplat"))


def tabulars(text: str) -> list[list[str]]:
    """The lines between \\toprule and \\bottomrule of each table."""
    return [body.strip().splitlines() for body in re.findall(r"\\toprule(.*?)\\bottomrule", text, re.S)]


def cells_of(line: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))]


def test_latex_has_the_form_of_table_one():
    main = tabulars(latex(table_one()))[0]
    assert main[0] == r"& \multicolumn{6}{c}{Close-up view} & \multicolumn{6}{c}{Regular view} \\"
    assert main[1] == r"\cmidrule(lr){2-7} \cmidrule(lr){8-13}"
    assert main[2].count(r"\multicolumn{3}{c}{Easy set}") == 2
    assert cells_of(main[4])[:4] == ["Method", r"PSNR $\uparrow$", r"SSIM $\uparrow$", r"LPIPS $\downarrow$"]
    rows = {cells_of(line)[0]: cells_of(line)[1:] for line in main[6:]}
    assert rows["DepthSplat*"][:2] == [r"\underline{18.70}", r"\underline{0.623}"]
    assert rows["DepthSplat*"][6:] == ["--"] * 6
    assert rows[r"Ours\_50\%"][0] == r"\textbf{20.66}" and rows["DepthSplat"][6] == r"\underline{17.98}"


def test_latex_is_balanced_and_every_line_has_as_many_cells_as_columns(tmp_path):
    records = made_records(tmp_path, Made(pictures=False))
    options = TableOptions(("protocol", "level"), "row0")
    for summary in (table_one(), summarise(records, METRICS, [f"row{i}" for i in range(4)], options)):
        text = latex(summary)
        body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
        opened = re.findall(r"\\begin\{(.*?)\}", body)
        assert sorted(opened) == sorted(re.findall(r"\\end\{(.*?)\}", body))
        bare = body.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
        assert body.isascii(), "any engine takes it"
        specs = re.findall(r"\\begin\{tabular\}\{(.*)\}", body)
        for spec, lines in zip(specs, tabulars(body), strict=True):
            width = len(re.sub(r"p\{[^}]*\}*", "p", spec))
            for line in (line for line in lines if line.endswith(r"\\")):
                spans = [re.match(r"\\multicolumn\{(\d+)\}", part) for part in cells_of(line)]
                assert sum(int(span[1]) if span else 1 for span in spans) == width, line


def test_latex_escapes_what_it_would_take_for_commands():
    assert escaped(r"50 % of a_b & {c} $d$ #1 ~ ^ \x") == (
        r"50 \% of a\_b \& \{c\} \$d\$ \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}x"
    )


def test_markdown_tables_are_whole_and_mark_best_and_second():
    text = markdown(table_one(), "A | title")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        lines = block.strip().splitlines()
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1, lines
    assert "**20.66** [20.61, 20.71]" in text and "<u>18.70</u>" in text and "PSNR ↑ (dB)" in text
    assert "+2.68 [+2.68, +2.68]" in text and "−0.089" in text


def test_markdown_and_latex_list_failures_with_their_reasons(tmp_path):
    summary = summarise(made_records(tmp_path, Made(pictures=False)), METRICS, ["row0", "row1"])
    for text, reason in ((markdown(summary), "100 % of it"), (latex(summary), r"100 \% of it")):
        assert "the fit diverged" in text and reason in text and "1 of 24 records failed" in text


def test_all_files_are_written_and_agree(tmp_path):
    made = Made(pictures=False)
    records, settings = made_records(tmp_path, made), {"seed": 7, "data": tmp_path, "zoom": math.inf}
    arguments = (tmp_path, records, METRICS, made.row_names, settings)
    paths = write_results(*arguments, axes=["protocol"], baseline="row0")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths), "no temporary files"
    results = json.loads(paths[0].read_text(), parse_constant=pytest.fail)
    assert results["bootstrap"] == {"draws": 2000, "seed": 7, "coverage": 0.95}
    assert results["settings"]["zoom"] == "Infinity" and "numpy" in results["versions"]
    assert len(results["records"]) == len(records) and len(results["failures"]) == 1
    summary = summarise(records, METRICS, made.row_names, TableOptions(("protocol",), "row0", seed=7))
    stored = results["tables"][0]["groups"][1]["cells"]["row2"]["ssim"]
    expected = cell(summary, "row2", "ssim", group=1)
    assert expected.estimate is not None and stored["estimate"]["mean"] == expected.estimate.mean
    assert expected.difference is not None and stored["difference"]["mean"] == expected.difference.mean
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_results(*arguments, axes=["protocol"], baseline="row0")] == before


def test_the_csv_has_every_score_and_every_failure(tmp_path):
    made = Made(pictures=False)
    records = made_records(tmp_path, made)
    write_results(tmp_path, records, METRICS, made.row_names, {})
    with open(tmp_path / "per_image.csv", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == sum(max(1, len(record.scores)) for record in records)
    for one in (records[0], records[-1]):
        (line,) = [
            line
            for line in lines
            if (line["scene"], line["case"], line["row"], line["region"]) == (one.scene, one.case, one.row, "frame")
        ]
        assert float(line["psnr"]) == one.scores["frame"]["psnr"] and line["group.level"] == one.group["level"]
    (failed,) = [line for line in lines if line["error"]]
    assert failed["error"] == "the fit diverged: <b>NaN</b> & 100 % of it" and failed["psnr"] == ""


def test_files_can_be_written_before_anything_is_scored(tmp_path):
    paths = write_results(tmp_path / "new", [], METRICS, ["a"], {}, axes=["level"])
    assert all(path.stat().st_size for path in paths)
    failed = [record("s", "c", "a", None)]
    write_results(tmp_path / "new", failed, METRICS, ["a"], {}, axes=["level"], baseline="a")
    assert "out of memory" in (tmp_path / "new" / "results.md").read_text()


def test_a_perfect_picture_keeps_its_infinite_score():
    records = [record("s", f"c{i}", row, math.inf if row == "a" else 20.0) for i in range(2) for row in "ab"]
    summary = summarise(records, [PSNR], ["a", "b"], TableOptions(baseline="a"))
    assert mean(summary, "a") == math.inf and cell(summary, "a").rank == 1
    assert "**∞**" in markdown(summary) and r"\textbf{$\infty$}" in latex(summary)


def test_labels_of_metrics_and_rows_cannot_break_the_tables():
    records = [dataclasses.replace(record("s", "c", "a", 20.0), row_label="a | b\n*c*")]
    assert r"a \| b \*c\*" in markdown(summarise(records, [PSNR], ["a"]))
