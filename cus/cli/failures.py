"""Explains a command's failure: one line for the user, and a file for developers."""

import errno
import os
import sys
import tempfile
import traceback
from pathlib import Path

from cus.errors import InputError

# Also in docs/commands.md.
DONE, OUR_BUG, INPUT, UNTRUSTED, BROKEN_PIPE = 0, 1, 2, 3, 141
STATUSES = """\
exit status: 0 done, 1 a bug of CloseUpShot, 2 an error that you can fix, 3 finished, but not to be trusted
(cus-infer, cus-refine, cus-check-scene), 130 ended by Ctrl-C, 143 by SIGTERM
"""
_FULL = (errno.ENOSPC, errno.EDQUOT)
# PyTorch reports it as a RuntimeError, OpenCV as its own error.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Insufficient memory", "Failed to allocate")


def explain(error: BaseException, advice: str) -> str | None:
    """Explain an error that the user can fix in one line; None if the error is ours.

    Args:
        error: the error that ended the command.
        advice: what to do if memory ran out, in terms of the command's options.
    """
    if isinstance(error, InputError):
        return str(error)
    if _is_out_of_memory(error):
        wanted = str(error).strip().splitlines()
        detail = f" ({wanted[0]})" if wanted else ""
        return f"the memory does not suffice{detail}; {advice}"
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in _FULL:
            return f"the disk is full{_place(error)}: free some space and run the same command again"
        return f"{error.strerror or error}{_place(error)}"
    return None


def _place(error: OSError) -> str:
    return "" if error.filename is None else f": {os.fsdecode(error.filename)}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    foreign = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return foreign and any(words in str(error) for words in _OUT_OF_MEMORY)


def record(error: BaseException, command: str) -> str:
    """Write the traceback, with facts for a report, to a new file; if that fails, say where the error arose."""
    from cus.runtime import versions

    arguments = " ".join(repr(argument) for argument in sys.argv[1:])
    facts = [f"{name}: {value}" for name, value in {"command": f"{command} {arguments}", **versions()}.items()]
    text = "\n".join([*facts, "", *traceback.format_exception(error)])
    try:
        number, name = tempfile.mkstemp(prefix=f"{command}-", suffix=".log")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return f"the traceback is in {name}"
    except OSError:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"at {Path(frame.filename).name}:{frame.lineno}"
