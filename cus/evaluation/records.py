"""Records of an evaluation's scored pictures: one JSON line per record, appended immediately."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from cus.errors import InputError, first_problem

# JSON has no numbers for these; as strings every JSON parser accepts the file.
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Number = Annotated[float, BeforeValidator(lambda value: NON_FINITE.get(str(value), value))]
"""A float, which JSON may store as a word."""


@dataclass(frozen=True)
class Record:
    """The scores of one row's picture of one case, or the reason why there are none.

    Attributes:
        scene: name of the scene.
        case: name of the case, unique within its scene and group.
        row: the row's name, such as "hierarchical".
        row_label: the row's name in tables.
        group: properties of the case, such as {"level": "easy", "protocol": "closeup"}; axes of the tables.
        scores: region ("frame", "covisible") -> metric name -> score; empty after an error. NaN means that a score is
            undefined, e.g. on an empty region; infinities are scores.
        picture: path relative to the output folder, None without a picture.
        seconds: time that the row took for this case.
        error: reason why there are no scores; None if everything went well.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    scene: str
    case: str
    row: str
    row_label: str
    group: dict[str, str]
    scores: dict[str, dict[str, Number]]
    picture: str | None
    seconds: Number
    error: str | None = None


_RECORD = TypeAdapter(Record)


def json_number(value: float) -> float | str:
    """A number for strict JSON: itself, or the word "NaN", "Infinity" or "-Infinity"."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def record_json(record: Record) -> dict[str, Any]:
    """A record as plain values for strict JSON."""
    scores = {
        region: {name: json_number(float(value)) for name, value in values.items()}
        for region, values in record.scores.items()
    }
    entry = {field.name: getattr(record, field.name) for field in fields(Record)}
    return entry | {"scores": scores, "seconds": json_number(float(record.seconds))}


def append_record(path: Path | str, record: Record) -> None:
    """Append one line and wait until it is on disk.

    The remainder of an interrupted write is first completed or removed, so that this line is separate.
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
    """Whether a line that lacks its newline is still a complete JSON value."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_records(path: Path | str) -> list[Record]:
    """All records of a file, in order.

    A torn last line of an interrupted write is ignored: its case has no record, and will be run again.

    Raises:
        InputError: the file cannot be read, or a line is not a record; the message names the line.
    """
    try:
        *lines, last = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"the records {path} cannot be read: {error.strerror}") from error
    if last and _is_whole(last):
        lines.append(last)
    return [_parsed(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def _parsed(line: bytes, where: str) -> Record:
    try:
        return _RECORD.validate_json(line)
    except ValidationError as error:
        remedy = "restore the line, or delete it to have its case run again"
        raise InputError(f"{where} is no record: {first_problem(error)}; {remedy}") from error


def latest_records(records: Iterable[Record]) -> list[Record]:
    """The last record of each scene, case, group and row: rerunning a case replaces its earlier record."""
    latest = {(r.scene, r.case, tuple(sorted(r.group.items())), r.row): r for r in records}
    return list(latest.values())
