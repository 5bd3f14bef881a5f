"""The list of files that commands made in a folder, `.closeupshot-files`: a header, then one JSON string per line."""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from cus.folder_lock import NAME as LOCK

RECORD = ".closeupshot-files"


def header_line(kind: str) -> str:
    """The first line of the record in a folder of the given kind."""
    return json.dumps({"closeupshot": 1, "kind": kind})


def read_record(folder: Path) -> tuple[dict[str, None], str]:
    """Names in a folder's list, and the kind of folder; ("", nothing) without one. Damaged lines are ignored."""
    made: dict[str, None] = {}
    kind = ""
    try:
        lines = (folder / RECORD).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return made, kind
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str):
            kind = entry["kind"]
        elif isinstance(entry, str) and _is_inside(entry):
            made[entry] = None
    return made, kind


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and parts[0] not in (RECORD, LOCK)


def cut_partial_line(stream: Any) -> None:
    """Cut off a partial line of an interrupted write at the end of a file opened with "ab+"."""
    size = stream.seek(0, os.SEEK_END)
    if not size:
        return
    stream.seek(max(0, size - 65536))
    tail = stream.read()
    if not tail.endswith(b"\n"):
        stream.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
