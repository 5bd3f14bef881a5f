"""Tables of an evaluation as Markdown."""

from collections.abc import Iterable, Sequence

from cus.evaluation.statistics import COVERAGE, Estimate
from cus.evaluation.tables import REGION_LABELS, Cell, Group, MetricColumn, Section, Summary, group_label


def region_label(region: str) -> str:
    """A region of the pictures in words."""
    return REGION_LABELS.get(region, region)


def scope_label(section: Section, summary: Summary) -> str:
    """The scope of a table's means in words."""
    if section.scene is not None:
        return section.scene
    return f"Mean over {len(summary.scenes)} scenes" if len(summary.scenes) > 1 else "".join(summary.scenes)


def interval_text(estimate: Estimate, metric: MetricColumn, sign: bool = False) -> str:
    """The interval as printed, empty without one."""
    if estimate.interval is None:
        return ""
    low, high = (metric.text(bound, sign) for bound in estimate.interval)
    return f"[{low}, {high}]"


def method_text(summary: Summary) -> list[str]:
    """How the numbers were computed, one or two sentences per entry."""
    options = summary.options
    return [
        "A scene's mean is over its cases; the mean over scenes is the mean of the scenes' means.",
        "Each table compares the cases that every row has a score of; a row without any score in a column group does "
        "not narrow it. Differences are paired, over the same cases.",
        f"Intervals are {100 * COVERAGE:.0f} % percentile bootstrap intervals ({options.draws:,} draws of cases within "
        f"scenes, seed {options.seed}): they speak of other cases in these scenes, not of other scenes, and are too "
        "narrow where cases are few or share photographs. There is none where every scene has a single case.",
        "The best value is bold, the second-best underlined; values that print alike rank alike.",
    ]


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def coverage_text(group: Group) -> str:
    """The number of cases behind a group's means, in words."""
    if group.compared == group.planned:
        return f"{counted(group.planned, 'case')}."
    return f"Means over the {group.compared} of {group.planned} cases that every row with scores has."


def _escaped(text: object) -> str:
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return " ".join(escaped.replace("_", "\\_").split())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _ranked(text: str, rank: int) -> str:
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank, text)


def _mean_text(cell: Cell, metric: MetricColumn) -> str:
    return "–" if cell.estimate is None else _ranked(metric.text(cell.estimate.mean), cell.rank)


def _heading(metric: MetricColumn) -> str:
    return " ".join(filter(None, [_escaped(metric.label), metric.arrow, metric.unit and f"({metric.unit})"]))


def _compact(section: Section, summary: Summary) -> list[str]:
    """All groups side by side, means only: the style of the paper's tables."""
    header = ["Method"]
    for group in section.groups:
        name = group_label(group, summary.options.axes)
        header += [(f"{_escaped(name)}: " if name else "") + _heading(metric) for metric in summary.metrics]
    rows = []
    for row, label in summary.rows.items():
        cells = [_mean_text(g.cells[row][m.name], m) for g in section.groups for m in summary.metrics]
        rows.append([_escaped(label), *cells])
    return _table(header, rows)


def _detailed_cell(cell: Cell, metric: MetricColumn, group: Group) -> str:
    if cell.estimate is None:
        return "–"
    fewer = f"(n = {cell.estimate.cases})" if cell.estimate.cases != group.compared else ""
    return " ".join(filter(None, [_mean_text(cell, metric), interval_text(cell.estimate, metric), fewer]))


def _difference_cell(cell: Cell, metric: MetricColumn) -> str:
    if cell.difference is None:
        return "–"
    return f"{metric.text(cell.difference.mean, True)} {interval_text(cell.difference, metric, True)}".strip()


def _detailed(group: Group, summary: Summary) -> list[str]:
    """One group with intervals, counts, seconds and differences from the baseline."""
    header = ["Method", *map(_heading, summary.metrics), "cases with scores", "seconds a case"]
    rows = []
    for row, label in summary.rows.items():
        cells, count = group.cells[row], group.counts[row]
        seconds = f"{count.seconds:.1f}" if count.scored else "–"
        texts = [_detailed_cell(cells[m.name], m, group) for m in summary.metrics]
        rows.append([_escaped(label), *texts, f"{count}", seconds])
    lines = [coverage_text(group), "", *_table(header, rows)]
    baseline = summary.options.baseline
    if baseline is not None and any(c.difference for cells in group.cells.values() for c in cells.values()):
        others = [
            [_escaped(label), *(_difference_cell(group.cells[row][m.name], m) for m in summary.metrics)]
            for row, label in summary.rows.items()
            if row != baseline
        ]
        header = [f"Difference to {_escaped(summary.rows[baseline])}", *map(_heading, summary.metrics)]
        lines += _table(header, others)
    return lines + _own_means(group, summary)


def _own_means(group: Group, summary: Summary) -> list[str]:
    """A line for each row that has more cases than are compared."""
    lines = []
    for row, label in summary.rows.items():
        means = [
            f"{m.label} {m.text(own.mean)} (n = {own.cases})"
            for m in summary.metrics
            if (own := group.cells[row][m.name].own) is not None
        ]
        if means:
            lines.append(f"- {_escaped(label)}, over all cases it has: {_escaped(', '.join(means))}")
    return [*lines, ""] if lines else []


def _failures(summary: Summary) -> list[str]:
    if not summary.failures:
        return []
    rows = [
        [_escaped(r.scene), _escaped(r.case), _escaped(summary.rows[r.row]), _escaped(r.error)]
        for r in summary.failures
    ]
    lines = ["| scene | case | row | reason |", "| --- | --- | --- | --- |"]
    return ["## Failures", "", *lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def markdown(summary: Summary, title: str = "Results") -> str:
    """The whole page: per region the means over scenes, then each scene; failures; how the numbers were computed."""
    lines = [f"# {_escaped(title)}", ""]
    if summary.failures:
        lines += [f"**{summary.failure_note}** See [Failures](#failures).", ""]
    lines += [line for note in summary.notes for line in (f"- {_escaped(note)}", "")]
    region = None
    for section in summary.sections:
        if section.region != region:
            region = section.region
            lines += [f"## {_escaped(region_label(region))}", ""]
        lines += [f"### {_escaped(scope_label(section, summary))}", ""]
        if len(section.groups) > 1 or section.scene is not None:
            lines += _compact(section, summary)
            lines += ["Cases: " + _counts_line(section, summary), ""] if section.scene is not None else []
        for group in section.groups if section.scene is None else []:
            name = group_label(group, summary.options.axes)
            lines += [f"#### {_escaped(name)}", ""] if name else []
            lines += _detailed(group, summary)
    lines += _failures(summary)
    lines += ["## How the numbers were made", "", *(f"- {text}" for text in method_text(summary)), ""]
    return "\n".join(lines)


def _counts_line(section: Section, summary: Summary) -> str:
    """How many cases of a scene are compared, and what is missing."""
    texts = []
    for group in section.groups:
        name = group_label(group, summary.options.axes)
        short = [
            f"{_escaped(summary.rows[row])}: {count}"
            for row, count in group.counts.items()
            if count.scored < count.planned
        ]
        of = f"{group.compared} of {group.planned}" if group.compared < group.planned else str(group.planned)
        texts.append((f"{_escaped(name)} " if name else "") + of + (f" ({'; '.join(short)})" if short else ""))
    return ", ".join(texts) + "."
