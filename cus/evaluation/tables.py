"""Makes tables from records: means per scene and over scenes, intervals, differences from a baseline, failures.

A mean in a group of a table (a combination of the axes' values) is over the cases for which every row has a score, so
rows are compared on the same pictures. A row without any score in the group is ignored here; its cells are empty, and
its failures are counted and listed like all others. If a row has more cases than are compared, `Cell.own` is its mean
over all of them.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress

import numpy as np

from cus.errors import InputError
from cus.evaluation.metrics import Metric
from cus.evaluation.records import Record, latest_records
from cus.evaluation.statistics import DRAWS, Estimate, estimates

# Order and names as in the paper's tables; other values follow in natural order under their own names.
VALUE_LABELS = {"closeup": "Close-up view", "regular": "Regular view", "easy": "Easy set", "hard": "Hard set"}
REGION_LABELS = {"frame": "Whole frame", "covisible": "Co-visible part"}


@dataclass(frozen=True)
class MetricColumn:
    """A metric as a column: name in the records, label, unit ("dB" or ""), direction."""

    name: str
    label: str
    unit: str
    higher_is_better: bool

    @property
    def decimals(self) -> int:
        """Number of decimals, as in the paper: two for decibels, three for everything else."""
        return 2 if self.unit == "dB" else 3

    @property
    def arrow(self) -> str:
        """An arrow in the direction of better scores."""
        return "↑" if self.higher_is_better else "↓"

    def text(self, value: float, sign: bool = False) -> str:
        """A score as printed; symbols for infinite and missing ones."""
        if not math.isfinite(value):
            return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
        return f"{value:{'+' if sign else ''}.{self.decimals}f}".replace("-", "−")


@dataclass(frozen=True)
class TableOptions:
    """Options of a table.

    Attributes:
        axes: keys of `Record.group` (or "scene") whose values make the column groups, outermost first.
        baseline: name of the row to which differences are taken; None: no differences.
        draws: number of bootstrap draws.
        seed: seed of the draws.
    """

    axes: tuple[str, ...] = ()
    baseline: str | None = None
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One row's metric in one group.

    Attributes:
        estimate: mean over the compared cases; None if there is none.
        difference: paired difference from the baseline row over the same cases; None for the baseline itself.
        own: mean over all cases that the row has, if these are more than the compared ones.
        rank: 1 for the best of the group as printed, 2 for the second, else 0.
    """

    estimate: Estimate | None = None
    difference: Estimate | None = None
    own: Estimate | None = None
    rank: int = 0


@dataclass(frozen=True)
class Count:
    """Numbers of a row's cases in one group that are scored, failed or missing; mean seconds of the scored ones."""

    planned: int
    scored: int
    failed: int
    seconds: float

    @property
    def missing(self) -> int:
        """Number of cases without a record, because the evaluation has not reached them or was interrupted."""
        return self.planned - self.scored - self.failed

    def __str__(self) -> str:
        parts = [f"{self.scored} of {self.planned}" if self.scored < self.planned else str(self.planned)]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.missing} missing"] if self.missing else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Group:
    """A column group of a table.

    Attributes:
        values: values of the axes.
        cells: row -> metric -> cell.
        counts: row -> count.
        planned: number of cases of the group for which any row has a record.
        compared: number of cases for which every row with a score in the group has scores.
        absent_scenes: scenes with planned cases, none of which are compared.
    """

    values: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]
    counts: dict[str, Count]
    planned: int
    compared: int
    absent_scenes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A table: one region of the pictures, one scene or (None) the mean over scenes."""

    region: str
    scene: str | None
    groups: list[Group]


@dataclass(frozen=True)
class Summary:
    """All tables of an evaluation.

    Attributes:
        metrics: columns in order.
        rows: name -> label, in order.
        options: options of the tables.
        scenes: scenes in natural order.
        sections: for each region the mean over scenes, then each scene.
        failures: records without scores.
        notes: notes for readers of the tables.
        count: number of records in the tables.
    """

    metrics: list[MetricColumn]
    rows: dict[str, str]
    options: TableOptions
    scenes: list[str]
    sections: list[Section]
    failures: list[Record]
    notes: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def failure_note(self) -> str:
        """The number of failed records and its effect on the means; empty if none failed."""
        if not self.failures:
            return ""
        return (
            f"{len(self.failures)} of {self.count} records failed. A case that a row failed at is left out for all "
            "rows that it is compared with."
        )


def natural_key(text: str) -> tuple[tuple[int, float, str], ...]:
    """A key that sorts numbers in texts by value: "x4" before "x10"."""
    parts = re.findall(r"\d+(?:\.\d+)?|\D+", text)
    return tuple((0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts)


def value_key(value: str) -> tuple[int, tuple[tuple[int, float, str], ...]]:
    """A key that sorts values of an axis: the paper's in its order, then all others naturally."""
    known = list(VALUE_LABELS)
    return (known.index(value) if value in known else len(known), natural_key(value))


def value_label(axis: str, value: str) -> str:
    """A value of an axis in words: a bare number is preceded by the axis's name."""
    if value in VALUE_LABELS:
        return VALUE_LABELS[value]
    return f"{axis} {value}" if re.fullmatch(r"[\d.]+", value) else value


def axis_values(record: Record, axes: Iterable[str]) -> tuple[str, ...]:
    """The group of a record. Raises InputError if the record lacks an axis."""
    values = []
    for axis in axes:
        if axis == "scene":
            values.append(record.scene)
        elif axis in record.group:
            values.append(record.group[axis])
        else:
            known = [*sorted(record.group), "scene"]
            near = difflib.get_close_matches(axis, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(
                f"the axis {axis} is not among the groups of case {record.case} of {record.scene}: "
                f"expected one of {', '.join(known)}{hint}"
            )
    return tuple(values)


def summarise(
    records: Iterable[Record],
    metrics: Sequence[Metric | MetricColumn],
    rows: Iterable[str],
    options: TableOptions | None = None,
) -> Summary:
    """Make tables from records.

    Args:
        records: records in any order; the last one of each case and row counts.
        metrics: columns in order.
        rows: names of the rows in order; records of other rows are left out, with a note.
        options: axes, baseline and bootstrap.

    Raises:
        InputError: an axis that the records do not have, or an unknown baseline.
    """
    options = options or TableOptions()
    names = list(dict.fromkeys(rows))
    if options.baseline is not None and options.baseline not in names:
        near = difflib.get_close_matches(options.baseline, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"there is no row {options.baseline}: expected one of {', '.join(names)}{hint}")
    latest = latest_records(records)
    kept = [record for record in latest if record.row in set(names)]
    columns = [MetricColumn(m.name, m.label, m.unit, m.higher_is_better) for m in metrics]
    labels = {record.row: record.row_label for record in kept}
    scenes = sorted({record.scene for record in kept}, key=natural_key)
    labelled = {row: labels.get(row, row) for row in names}
    summary = Summary(columns, labelled, options, scenes, [], [], count=len(kept))
    found = {region for record in kept for region in record.scores} or {"frame"}
    regions = [region for region in REGION_LABELS if region in found] + sorted(found - set(REGION_LABELS))
    for region in regions:
        for scene in [None, *scenes] if len(scenes) > 1 else [None]:
            some = [record for record in kept if scene in (None, record.scene)]
            summary.sections.append(Section(region, scene, _groups(some, region, summary)))
    summary.failures.extend(record for record in kept if record.error is not None)
    summary.notes.extend(_notes(summary, [record for record in latest if record.row not in labels], kept))
    return summary


def _groups(records: list[Record], region: str, summary: Summary) -> list[Group]:
    by_values: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        by_values.setdefault(axis_values(record, summary.options.axes), []).append(record)
    order = sorted(by_values, key=lambda values: [value_key(value) for value in values])
    return [_group(values, by_values[values], region, summary) for values in order]


def _group(values: tuple[str, ...], records: list[Record], region: str, summary: Summary) -> Group:
    """Compute one column group of one region."""
    names = list(summary.rows)
    cases = sorted({(r.scene, r.case) for r in records}, key=lambda c: (natural_key(c[0]), natural_key(c[1])))
    place = {case: index for index, case in enumerate(cases)}
    scores = np.full((len(summary.metrics), len(names), len(cases)), np.nan)
    state = np.zeros((len(names), len(cases)), np.int8)  # 1 scored, 2 failed
    seconds = np.full((len(names), len(cases)), np.nan)
    for record in records:
        row, case = names.index(record.row), place[record.scene, record.case]
        state[row, case] = 2 if record.error is not None else 1
        if record.error is None:
            seconds[row, case] = record.seconds
            found = record.scores.get(region, {})
            scores[:, row, case] = [found.get(metric.name, np.nan) for metric in summary.metrics]
    counts = {
        name: Count(len(cases), int((state[i] == 1).sum()), int((state[i] == 2).sum()), _mean_known(seconds[i]))
        for i, name in enumerate(names)
    }
    scenes = [scene for scene, _ in cases]
    by_metric = [_cells(scores[i], scenes, metric, summary) for i, metric in enumerate(summary.metrics)]
    cells = {name: {m.name: by_metric[i][j] for i, m in enumerate(summary.metrics)} for j, name in enumerate(names)}
    tried = (state == 1).any(axis=1)
    compared = (state[tried] == 1).all(axis=0) & tried.any()
    remaining = set(compress(scenes, compared))
    absent = tuple(dict.fromkeys(scene for scene in scenes if scene not in remaining))
    return Group(values, cells, counts, len(cases), int(compared.sum()), absent)


def _mean_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _sizes(scenes: Sequence[str], kept: np.ndarray) -> list[int]:
    """Numbers of kept cases per scene, in the order of the scenes, without scenes that have none."""
    return list(Counter(compress(scenes, kept)).values())


def _cells(scores: np.ndarray, scenes: list[str], metric: MetricColumn, summary: Summary) -> list[Cell]:
    """Cells of one metric, one per row, from scores [R, n] with NaN for missing ones."""
    known = ~np.isnan(scores)
    present = known.any(axis=1)
    common = np.asarray(known[present].all(axis=0)) & present.any()
    sizes, options = _sizes(scenes, common), summary.options
    bootstrap = {"draws": options.draws, "seed": options.seed}
    means = estimates(scores[present][:, common], sizes, **bootstrap)
    shown = dict(zip(np.flatnonzero(present).tolist(), means, strict=True))
    names = list(summary.rows)
    differences: dict[int, Estimate] = {}
    base = names.index(options.baseline) if options.baseline is not None else None
    if base in shown and sizes:
        others = [row for row in shown if row != base]
        with np.errstate(invalid="ignore"):  # the difference of two infinities is undefined
            apart = scores[others][:, common] - scores[base, common]
        differences = dict(zip(others, estimates(apart, sizes, **bootstrap), strict=True))
    own = {
        row: estimates(scores[row : row + 1, known[row]], _sizes(scenes, known[row]), **bootstrap)[0]
        for row in shown
        if known[row].sum() > common.sum()
    }
    ranks = _ranks({row: e.mean for row, e in shown.items()}, metric)
    return [
        Cell(shown.get(row) if sizes else None, differences.get(row), own.get(row), ranks.get(row, 0))
        for row in range(len(names))
    ]


def _ranks(means: dict[int, float], metric: MetricColumn) -> dict[int, int]:
    """Best and second-best rows among at least two; values that print alike rank alike."""
    rounded = {row: round(mean, metric.decimals) for row, mean in means.items() if not math.isnan(mean)}
    if len(rounded) < 2:
        return {}
    levels = sorted(set(rounded.values()), reverse=metric.higher_is_better)[:2]
    return {row: levels.index(mean) + 1 for row, mean in rounded.items() if mean in levels}


def _notes(summary: Summary, others: Collection[Record], kept: Collection[Record]) -> list[str]:
    notes = []
    stray = sorted({record.row for record in others if record.row not in summary.rows})
    if stray:
        notes.append(f"Records of rows that are not in these tables are left out: {', '.join(stray)}.")
    absent = [label for row, label in summary.rows.items() if all(record.row != row for record in kept)]
    if absent:
        notes.append(f"No record yet of: {', '.join(absent)}.")
    absent_scenes = {
        (scene, group_label(group, summary.options.axes))
        for section in summary.sections
        for group in section.groups
        for scene in group.absent_scenes
    }
    for scene, name in sorted(absent_scenes):
        where = f"{scene} ({name})" if name else scene
        notes.append(f"{where} has no case that all compared rows have a score of, so no part in means over scenes.")
    return notes


def group_label(group: Group, axes: Sequence[str]) -> str:
    """The values of a group in words, empty if a table has no axes."""
    return ", ".join(value_label(axis, value) for axis, value in zip(axes, group.values, strict=True))
