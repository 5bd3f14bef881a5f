"""The output files of an evaluation: results.json, results.md, results.tex, per_image.csv and page.html."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cus.evaluation.latex import latex
from cus.evaluation.markdown import markdown, method_text
from cus.evaluation.metrics import Metric
from cus.evaluation.page import page_html
from cus.evaluation.records import Record, json_number, latest_records, record_json
from cus.evaluation.statistics import COVERAGE, Estimate
from cus.evaluation.tables import Cell, Group, MetricColumn, Summary, TableOptions, group_label, summarise
from cus.files import write_text
from cus.runtime import versions

FORMAT = 1


def estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """An estimate as plain values for strict JSON."""
    if estimate is None:
        return None
    interval = None if estimate.interval is None else [json_number(bound) for bound in estimate.interval]
    return {
        "mean": json_number(estimate.mean),
        "interval": interval,
        "cases": estimate.cases,
        "scenes": estimate.scenes,
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    parts = {name: estimate_json(getattr(cell, name)) for name in ("estimate", "difference", "own")}
    return parts | {"rank": cell.rank}


def _group_json(group: Group, summary: Summary) -> dict[str, Any]:
    return {
        "values": dict(zip(summary.options.axes, group.values, strict=True)),
        "label": group_label(group, summary.options.axes),
        "planned": group.planned,
        "compared": group.compared,
        "counts": {
            row: asdict(count) | {"missing": count.missing, "seconds": json_number(count.seconds), "text": f"{count}"}
            for row, count in group.counts.items()
        },
        "cells": {row: {m: _cell_json(cell) for m, cell in cells.items()} for row, cells in group.cells.items()},
    }


def summary_json(summary: Summary) -> dict[str, Any]:
    """All tables as plain values for strict JSON: non-finite numbers are the words "NaN", "Infinity", "-Infinity"."""
    options = summary.options
    return {
        "metrics": [asdict(metric) | {"decimals": metric.decimals} for metric in summary.metrics],
        "rows": [{"name": name, "label": label} for name, label in summary.rows.items()],
        "axes": list(options.axes),
        "baseline": options.baseline,
        "bootstrap": {"draws": options.draws, "seed": options.seed, "coverage": COVERAGE},
        "method": method_text(summary),
        "notes": summary.notes,
        "failure_note": summary.failure_note,
        "scenes": summary.scenes,
        "tables": [
            {"region": s.region, "scene": s.scene, "groups": [_group_json(group, summary) for group in s.groups]}
            for s in summary.sections
        ],
        "failures": [
            {"scene": r.scene, "case": r.case, "row": r.row, "group": r.group, "error": r.error}
            for r in summary.failures
        ],
    }


def per_image_csv(records: Iterable[Record], summary: Summary) -> str:
    """One line per record and region; a record without scores has one line with the reason."""
    latest = [record for record in latest_records(records) if record.row in summary.rows]
    keys = list(dict.fromkeys(key for record in latest for key in record.group))
    metrics = [metric.name for metric in summary.metrics]
    text = io.StringIO()
    # Group keys and metrics may have equal names, or that of another column.
    groups = [f"group.{key}" for key in keys]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["scene", "case", *groups, "row", "label", "region", *metrics, "seconds", "picture", "error"])
    for record in latest:
        place = [record.scene, record.case, *(record.group.get(key, "") for key in keys), record.row, record.row_label]
        for region, scores in record.scores.items() if record.error is None else [("", {})]:
            values = [repr(scores[name]) if name in scores else "" for name in metrics]
            writer.writerow([*place, region, *values, repr(record.seconds), record.picture or "", record.error or ""])
    return text.getvalue()


def _written(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def write_results(
    folder: Path | str,
    records: Sequence[Record],
    metrics: Sequence[Metric | MetricColumn],
    rows: Iterable[str],
    settings: Mapping[str, Any],
    *,
    axes: Sequence[str] = (),
    baseline: str | None = None,
) -> list[Path]:
    """Write all tables and the page for the current records, replacing earlier files one by one, atomically.

    Args:
        folder: output folder, to which records' picture paths are relative; created if it does not exist.
        records: records to tabulate; the last one of each case and row counts.
        metrics: columns in order.
        rows: names of the rows in order.
        settings: settings of the run; "title", "seed" (of the bootstrap) and "scenes_without_cases" (name -> reason,
            for the notes) are used here, if given.
        axes: keys of `Record.group` whose values make the column groups, outermost first, such as protocol and level;
            "scene" is allowed, too.
        baseline: name of the row to which differences are taken.

    Returns:
        Paths of results.json, results.md, results.tex, per_image.csv and page.html.

    Raises:
        InputError: an axis that the records do not have, or an unknown baseline.
    """
    seed = settings.get("seed")
    options = TableOptions(tuple(axes), baseline, seed=seed if isinstance(seed, int) else 0)
    summary = summarise(records, metrics, rows, options)
    without = settings.get("scenes_without_cases") or {}
    summary.notes.extend(f"No case in {scene}: {reason}" for scene, reason in without.items())
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    title = str(settings.get("title") or "Close-up benchmark")
    tables = summary_json(summary)
    context = {"title": title, "settings": {k: _plain(v) for k, v in settings.items()}, "versions": versions()}
    everything = {"format": FORMAT} | context | tables | {"records": [record_json(r) for r in latest_records(records)]}
    contents: dict[str, Callable[[], str]] = {
        "results.json": lambda: _json_lines(everything),
        "results.md": lambda: markdown(summary, title),
        "results.tex": lambda: latex(summary),
        "per_image.csv": lambda: per_image_csv(records, summary),
        "page.html": lambda: page_html(folder, records, tables, context),
    }
    return [_written(folder / name, content()) for name, content in contents.items()]


def _json_lines(entries: Mapping[str, Any]) -> str:
    """A JSON object with one line per value, and per item of a list: quick to write and easy to compare."""

    def line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    texts = [
        f"{line(name)}: " + ("[\n" + ",\n".join(map(line, value)) + "\n]" if isinstance(value, list) else line(value))
        for name, value in entries.items()
    ]
    return "{\n" + ",\n".join(texts) + "\n}\n"


def _plain(value: Any) -> Any:
    """A setting for JSON; anything but numbers, text, lists and mappings is converted to text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return json_number(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
