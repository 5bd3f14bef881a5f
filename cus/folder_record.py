"""The list of what commands made in a folder, `.closeupshot-files`: a header, then one JSON string a line."""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from cus.folder_lock import NAME as LOCK

RECORD = ".closeupshot-files"


def header_line(kind: str) -> str:
    """The first line of the record of a folder that holds `kind`."""
    return json.dumps({"closeupshot": 1, "kind": kind})


def read_record(folder: Path) -> tuple[dict[str, None], str]:
    """Names in a folder's list, and what the folder holds; ("", nothing) without one. A damaged line lists nothing."""
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
    """Cut off what an interrupted write has left at the end of a file opened with "ab+"."""
    size = stream.seek(0, os.SEEK_END)
    if not size:
        return
    stream.seek(max(0, size - 65536))
    tail = stream.read()
    if not tail.endswith(b"\n"):
        stream.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
