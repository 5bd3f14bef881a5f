"""The methods that a table can compare. To add one, write a file next to this one and add its class to `ROWS`."""

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cus.errors import InputError, shown
from cus.evaluation.rows.conditioning import FusedWarp, PointRender, Warp
from cus.evaluation.rows.frames import Frames
from cus.evaluation.rows.nearest import Nearest
from cus.evaluation.rows.row import Row
from cus.evaluation.rows.splats import ReferencesSplat, Splat, SuperResolved
from cus.training.config import of_values

ROWS: dict[str, type[Row]] = {
    row.kind: row for row in (Nearest, Warp, PointRender, FusedWarp, ReferencesSplat, SuperResolved, Frames, Splat)
}
"""Kinds of rows by name."""


def row_of(entry: Any) -> Row:
    """Make a row from an entry of a config file, such as `{kind: warp, scales: [1]}`; without a kind it is a warp.

    Raises:
        InputError: an unknown kind, a setting that its rows do not have, or an invalid value.
    """
    if not isinstance(entry, Mapping):
        raise InputError(f"a row must be a mapping such as {{kind: warp}}, got {shown(entry)}")
    kind = str(entry.get("kind", Warp.kind))
    if kind not in ROWS:
        near = difflib.get_close_matches(kind, ROWS, n=1, cutoff=0)
        raise InputError(f"there is no kind of row {kind!r}; did you mean {near[0]!r}?")
    known = [field.name for field in fields(ROWS[kind])]
    where = f"row {entry.get('name') or kind}"
    for name in entry:
        if name not in known:
            raise InputError(f"{where}: rows of kind {kind} have no {name!r}; they have {', '.join(known)}")
    return of_values(ROWS[kind], entry, where)


__all__ = [
    "ROWS",
    "Frames",
    "FusedWarp",
    "Nearest",
    "PointRender",
    "ReferencesSplat",
    "Row",
    "Splat",
    "SuperResolved",
    "Warp",
    "row_of",
]
