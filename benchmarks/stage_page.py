"""Makes tables, figures and docs/performance.md from the measurements of all stages."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth import exponent, judged, last_exponent
from benchmarks.stage_figure import figure
from benchmarks.stage_series import METHODS

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
# Paths of pages, figures and results relative to the repository's root.
PAGE, FIGURES, RESULTS = "docs/performance.md", "docs/figures", "benchmarks/stages.json"
# Results grow at most proportionally in every stage: nothing stores pairs.
MEMORY_EXPECTED = 1.0


def write_page(root: Path, results: dict[str, Any]) -> None:
    """Write the results, one figure per stage, and the measured part of the page; the rest of the page stays.

    Raises:
        ValueError: the page lacks the two marks.
    """
    before, after = around_results(root)
    (root / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, part in results["stages"].items():
        _replace(root / FIGURES / f"{name}.png", figure(part))
    _replace(root / RESULTS, (json.dumps(results, indent=1) + "\n").encode())
    _replace(root / PAGE, "\n".join([before + BEGIN, "", *page_lines(results), "", END + after]).encode())


def around_results(root: Path) -> tuple[str, str]:
    """The page before and after the marks. Raises ValueError if it lacks them."""
    before, begin, rest = (root / PAGE).read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} must hold the lines {BEGIN!r} and {END!r}, between which results are written")
    return before, after


def page_lines(results: dict[str, Any]) -> list[str]:
    """The measured part of the page."""
    lines = ["## Growth", "", *growth_lines(results["stages"]), ""]
    lines += [*(f"- {line}" for line in results["absent"]), ""] if results["absent"] else []
    for name, part in results["stages"].items():
        picture = f"![{part['label']}: time and memory over size](figures/{name}.png)"
        lines += [*stage_lines(part), "", picture, ""]
    return lines[:-1]


def growth_lines(stages: dict[str, Any]) -> list[str]:
    """One row per stage, dimension, and implementation: fitted exponents of time and memory."""
    lines = [
        "| stage | form | time grows as | last step | at most | verdict | memory grows as | verdict |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for part in stages.values():
        for series in part["series"]:
            for method, rows in _by_method(series).items():
                amounts, times, memories = columns(rows)
                if len(set(amounts)) < 2:
                    lines.append(f"| {part['label']} | {METHODS[method]} | {series['grows']}: not known | | | | | |")
                    continue
                slopes = exponent(amounts, times), last_exponent(amounts, times), exponent(amounts, memories)
                expected = series["expected"]
                lines.append(
                    f"| {part['label']} | {METHODS[method]} | {series['grows']}^{slopes[0]:.2f} | ^{slopes[1]:.2f} "
                    f"| ^{expected:g} | {judged(slopes[0], expected)} "
                    f"| {series['grows']}^{slopes[2]:.2f} | {judged(slopes[2], MEMORY_EXPECTED)} |"
                )
    return lines


def stage_lines(part: dict[str, Any]) -> list[str]:
    """Heading, machine, and one table per dimension."""
    lines = [f"## {part['label']}", "", part["about"], "", part["machine"]]
    for series in part["series"]:
        found = _by_method(series)
        baseline = {row["amount"]: row.get("seconds") for row in found.get(part["baseline"], ())}
        compared = [method for method in found if baseline and method != part["baseline"]]
        heads = [f"{METHODS[m]}, time | memory" for m in found] + [f"x {METHODS[part['baseline']]}" for _ in compared]
        lines += ["", f"| {series['grows']} | " + " | ".join(heads) + " |"]
        lines.append("| ---: |" + " ---: |" * (2 * len(found) + len(compared)))
        for rows in zip(*found.values(), strict=True):
            cells = [_cells(row) for row in rows]
            for row in rows:
                if row["method"] in compared:
                    plain, own = baseline[row["amount"]], row.get("seconds")
                    cells.append(f"{plain / own:.1f}" if plain and own else "")
            lines.append(f"| {rows[0]['amount']:,} | " + " | ".join(cells) + " |")
        errors = [f"{METHODS[r['method']]}, {r['amount']:,}: {r['error']}" for r in series["rows"] if r["error"]]
        lines += ["", *(f"- {error}" for error in errors)] if errors else []
        if series["why"]:
            lines += ["", f"{series['grows'].capitalize()}: {series['why']}."]
    return lines


def columns(rows: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """Amounts, seconds and bytes of the measured rows."""
    good = [row for row in rows if row["error"] is None]
    return [row["amount"] for row in good], [row["seconds"] for row in good], [row["memory"] for row in good]


def _by_method(series: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in series["rows"]:
        found.setdefault(row["method"], []).append(row)
    return found


def _cells(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return "failed | "
    seconds = row["seconds"]
    time = f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"
    return f"{time} | {row['memory'] / 2**20:.0f} MiB"


def _replace(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(content)
    os.replace(partial, path)
