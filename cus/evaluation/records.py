"""What an evaluation leaves behind of each picture it scored: one JSON line a record, appended as it happens."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cus.errors import InputError

# JSON has no words for these; as strings every reader of JSON takes the file.
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Record:
    """One row's picture of one case, scored; or why it could not be.

    Attributes:
        scene: name of the scene.
        case: name of the case, unique within its scene and group.
        row: the row's name, such as "hierarchical".
        row_label: the row's name in tables.
        group: what the case belongs to, such as {"level": "easy", "protocol": "closeup"}; axes of the tables.
        scores: region ("frame", "covisible") -> metric name -> score; empty where there is an error. NaN says that a
            score does not exist, e.g. on an empty region; infinities are scores.
        picture: path relative to the output folder, None where there is none.
        seconds: what the row took for this case.
        error: why there are no scores; None where all went well.
    """

    scene: str
    case: str
    row: str
    row_label: str
    group: dict[str, str]
    scores: dict[str, dict[str, float]]
    picture: str | None
    seconds: float
    error: str | None = None


def json_number(value: float) -> float | str:
    """A number as strict JSON holds it: itself, or the word "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def record_json(record: Record) -> dict[str, Any]:
    """A record as plain values that strict JSON holds."""
    scores = {
        region: {name: json_number(float(value)) for name, value in values.items()}
        for region, values in record.scores.items()
    }
    entry = {field.name: getattr(record, field.name) for field in fields(Record)}
    return entry | {"scores": scores, "seconds": json_number(float(record.seconds))}


def append_record(path: Path | str, record: Record) -> None:
    """Add one line and wait until it is on the disk.

    What an interrupted write left at the end is first completed or cut off, so that this line stands by itself.
    """
    line = json.dumps(record_json(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with open(path, "ab+") as stream:
        _end_last_line(stream)
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def _end_last_line(stream: Any) -> None:
    """Leave a file opened with "ab+" empty or ending in a newline."""
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        return
    stream.seek(size - 1)
    if stream.read(1) == b"\n":
        return
    stream.seek(0)
    torn = stream.read().rpartition(b"\n")[2]
    if _is_whole(torn):
        stream.write(b"\n")
    else:
        stream.truncate(size - len(torn))
    stream.seek(0, os.SEEK_END)


def _is_whole(line: bytes) -> bool:
    """Whether a line without its newline is a JSON value all the same."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_records(path: Path | str) -> list[Record]:
    """All records of a file, in its order.

    A last line that an interrupted write left torn is passed over: its case has no record, and will be run again.

    Raises:
        InputError: the file cannot be read, or a line is no record; the message names the line.
    """
    try:
        *lines, last = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"the records {path} cannot be read: {error.strerror}") from error
    if last and _is_whole(last):
        lines.append(last)
    return [_parsed(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def _parsed(line: bytes, where: str) -> Record:
    remedy = "restore the line, or delete it to have its case run again"
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}); {remedy}") from error
    names = {field.name for field in fields(Record)}
    if not isinstance(entry, dict) or set(entry) != names:
        got = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        raise InputError(f"{where} is no record: expected the keys {sorted(names)}, got {got}; {remedy}")
    for name in ("scene", "case", "row", "row_label"):
        _check(isinstance(entry[name], str), f"{where}: {name} must be text, got {entry[name]!r}; {remedy}")
    for name in ("picture", "error"):
        known = entry[name] is None or isinstance(entry[name], str)
        _check(known, f"{where}: {name} must be text or null, got {entry[name]!r}; {remedy}")
    group, scores = entry["group"], entry["scores"]
    texts = isinstance(group, dict) and all(isinstance(value, str) for value in group.values())
    _check(texts, f"{where}: group must hold texts by name, got {group!r}; {remedy}")
    nested = isinstance(scores, dict) and all(isinstance(values, dict) for values in scores.values())
    _check(nested, f"{where}: scores must hold numbers by region and metric, got {scores!r}; {remedy}")
    numbers = {
        region: {name: _number(value, f"{where}: {region} {name}", remedy) for name, value in values.items()}
        for region, values in scores.items()
    }
    seconds = _number(entry["seconds"], f"{where}: seconds", remedy)
    return Record(**entry | {"scores": numbers, "seconds": seconds})


def _check(good: bool, message: str) -> None:
    if not good:
        raise InputError(message)


def _number(value: Any, what: str, remedy: str) -> float:
    if isinstance(value, str) and value in NON_FINITE:
        return NON_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{what} must be a number or one of {sorted(NON_FINITE)}, got {value!r}; {remedy}")
    return float(value)


def latest_records(records: Iterable[Record]) -> list[Record]:
    """The last record of each scene, case, group and row: a case that was run again replaces its earlier record."""
    latest = {(r.scene, r.case, tuple(sorted(r.group.items())), r.row): r for r in records}
    return list(latest.values())
