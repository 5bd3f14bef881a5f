"""Tables of an evaluation as LaTeX with booktabs, in the style of the paper's Tables I to V."""

from collections.abc import Sequence
from itertools import groupby

from cus.evaluation.markdown import counted, coverage_text, interval_text, method_text, region_label, scope_label
from cus.evaluation.tables import Cell, MetricColumn, Section, Summary, group_label, value_label

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "∞": r"$\infty$",
    "−": "$-$",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "σ": r"$\sigma$",
    "→": r"$\rightarrow$",
}
ARROWS = {True: r"$\uparrow$", False: r"$\downarrow$"}


def escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def _ranked(cell: Cell, metric: MetricColumn) -> str:
    if cell.estimate is None:
        return "--"
    text = escaped(metric.text(cell.estimate.mean))
    return {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)


def _with_interval(cell: Cell, metric: MetricColumn) -> str:
    if cell.estimate is None:
        return "--"
    interval = escaped(interval_text(cell.estimate, metric))
    return _ranked(cell, metric) + (rf" {{\scriptsize {interval}}}" if interval else "")


def _difference(cell: Cell, metric: MetricColumn) -> str:
    if cell.difference is None:
        return "--"
    interval = escaped(interval_text(cell.difference, metric, True))
    return escaped(metric.text(cell.difference.mean, True)) + (rf" {{\scriptsize {interval}}}" if interval else "")


def _heading(metric: MetricColumn) -> str:
    return f"{escaped(metric.label)} {ARROWS[metric.higher_is_better]}"


def _header(groups: Sequence[tuple[str, ...]], summary: Summary) -> list[str]:
    """One line per axis with its values over their columns, then the metrics."""
    width, lines = len(summary.metrics), []
    for depth, axis in enumerate(summary.options.axes):
        cells, rules, column = [], [], 2
        for values, members in groupby(groups, key=lambda group: group[: depth + 1]):
            span = width * len(list(members))
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{escaped(value_label(axis, values[-1]))}}}")
            rules.append(rf"\cmidrule(lr){{{column}-{column + span - 1}}}")
            column += span
        lines += [" & ".join(["", *cells]).strip() + r" \\", " ".join(rules)]
    lines.append(" & ".join(["Method", *(_heading(metric) for _ in groups for metric in summary.metrics)]) + r" \\")
    return lines


def _float(caption: str, label: str, columns: int, body: Sequence[str]) -> list[str]:
    return [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * columns}}}",
        r"\toprule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
        "",
    ]


def _title(text: str, columns: int) -> str:
    return rf"\multicolumn{{{columns + 1}}}{{l}}{{\textit{{{escaped(text)}}}}} \\"


def _means(sections: Sequence[Section], summary: Summary, caption: str, label: str) -> list[str]:
    """Means of several sections one below the other, groups side by side."""
    groups = list(dict.fromkeys(group.values for section in sections for group in section.groups))
    columns = len(groups) * len(summary.metrics)
    body = _header(groups, summary)
    for section in sections:
        body += [r"\midrule", *([_title(section.scene, columns)] if section.scene is not None else [])]
        by_values = {group.values: group for group in section.groups}
        for row, name in summary.rows.items():
            cells = [
                _ranked(by_values[values].cells[row][metric.name], metric) if values in by_values else "--"
                for values in groups
                for metric in summary.metrics
            ]
            body.append(" & ".join([escaped(name), *cells]) + r" \\")
    return _float(caption, label, columns, body)


def _details(section: Section, summary: Summary, caption: str, label: str, differences: bool) -> list[str]:
    """Groups one below the other: means, or differences from the baseline, with their intervals."""
    columns = len(summary.metrics)
    body = [" & ".join(["Method", *map(_heading, summary.metrics)]) + r" \\"]
    for group in section.groups:
        name = group_label(group, summary.options.axes)
        title = f"{name}: {coverage_text(group)}" if name else coverage_text(group)
        body += [r"\midrule", _title(title, columns)]
        for row, row_label in summary.rows.items():
            if differences and row == summary.options.baseline:
                continue
            write = _difference if differences else _with_interval
            cells = [write(group.cells[row][metric.name], metric) for metric in summary.metrics]
            body.append(" & ".join([escaped(row_label), *cells]) + r" \\")
    return _float(caption, label, columns, body)


def _failures(summary: Summary) -> list[str]:
    body = [r"Scene & Case & Method & Reason \\", r"\midrule"]
    for record in summary.failures:
        texts = (record.scene, record.case, summary.rows[record.row], record.error or "")
        body.append(" & ".join(map(escaped, texts)) + r" \\")
    lines = _float("Failures.", "tab:failures", 3, body)
    return [line.replace("{lrrr}", r"{lllp{0.5\linewidth}}") for line in lines]


def latex(summary: Summary) -> str:
    r"""Per region: means over scenes, the same with intervals, differences from the baseline, every scene; failures.

    Include the result with `\input`; it only needs the package booktabs.
    """
    lines = ["% Needs \\usepackage{booktabs}."]
    lines += ["% " + text for text in [summary.failure_note, *summary.notes, *method_text(summary)] if text]
    lines.append("")
    count = len(summary.failures)
    failed = f" {counted(count, 'record')} failed; see the table of failures." if count else ""
    for region in dict.fromkeys(section.region for section in summary.sections):
        overall, *scenes = [section for section in summary.sections if section.region == region]
        scope = f"{escaped(region_label(region))}, {escaped(scope_label(overall, summary))}"
        lines += _means([overall], summary, f"{scope}.{failed}", f"tab:{region}")
        caption = f"{scope}, with bootstrap intervals.{failed}"
        lines += _details(overall, summary, caption, f"tab:{region}-intervals", differences=False)
        if summary.options.baseline is not None:
            baseline = escaped(summary.rows[summary.options.baseline]).removesuffix(".")
            caption = f"{scope}: difference to {baseline}.{failed}"
            lines += _details(overall, summary, caption, f"tab:{region}-differences", differences=True)
        if scenes:
            caption = f"{escaped(region_label(region))}, scene by scene.{failed}"
            lines += _means(scenes, summary, caption, f"tab:{region}-scenes")
    if summary.failures:
        lines += _failures(summary)
    return "\n".join(lines)
