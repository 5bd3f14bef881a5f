"""Files as the commands meet them: what is no ordinary file is refused before anything waits for it."""

import os
import stat
from pathlib import Path

from cus.errors import InputError

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
