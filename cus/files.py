"""Files as the commands meet them: what is no ordinary file is refused before anything waits for it."""

import codecs
import json
import os
import stat
from pathlib import Path
from typing import Any

from cus.errors import InputError

# Of a JSON file, in bytes: more than any list of cameras or record of a run takes.
LARGEST_JSON = 64 * 2**20

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(path: Path | str) -> int:
    """The size in bytes of an ordinary file, symbolic links followed.

    Reading a pipe or a device may wait or go on for ever; this asks the file system alone.

    Raises:
        InputError: there is nothing, it may not be looked at, or it is a folder, pipe, socket or device.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "no ordinary file")
        raise InputError(f"cannot read {path}: it is {kind}; expected an ordinary file")
    return found.st_size


def read_json(path: Path | str, remedy: str = "") -> dict[str, Any]:
    """A JSON object from a file in UTF-8 or, as its first bytes show, UTF-16, with or without a byte order mark.

    Args:
        path: the file.
        remedy: what the user can do about a file that is none; joins the message.

    Raises:
        InputError: no ordinary file, one of more than LARGEST_JSON bytes, no JSON, or no object.
    """
    size, after = require_regular(path), f"; {remedy}" if remedy else ""
    if size > LARGEST_JSON:
        raise InputError(
            f"{path} has {size / 2**20:,.0f} MiB; a JSON file here has at most {LARGEST_JSON >> 20}{after}"
        )
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_JSON)
        content = json.loads(data.decode(_encoding(data)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {str(error)[:200]}{after}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(content).__name__}{after}")
    return content


def _encoding(data: bytes) -> str:
    """The encoding that the first bytes show (RFC 4627, section 3)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if data[:1] == b"\0" else "utf-8"
