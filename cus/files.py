"""Safe reading and writing of files.

Anything but an ordinary file is refused without blocking. Writes are atomic: a file is written next to its target
under a name that starts with `PART`, synced to disk, and then renamed. Readers of the target see the earlier file or
the new one, and a killed process leaves at most a hidden part.
"""

import codecs
import contextlib
import errno
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cus.errors import InputError

# Maximum size of a JSON file in bytes: larger than any list of cameras or record of a run.
LARGEST_JSON = 64 * 2**20

# Prefix of the names of unfinished files and folders; followed by the id of the process that writes them.
PART = ".cus-part-"
KEPT = "a file that was there is unchanged: free some space, or choose another place"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
# The message of PyTorch's writer if the system refused to write, whatever the reason.
_TORCH_SAVE = ("PytorchStreamWriter failed", "iostream error", "unexpected pos")
_NEARLY_NOTHING = 2**20


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def require_regular(path: Path | str) -> int:
    """The size in bytes of an ordinary file, following symbolic links.

    Reading a pipe or a device may block forever; this only asks the file system.

    Raises:
        InputError: the path does not exist, is not accessible, or is a folder, pipe, socket or device.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "no ordinary file")
        raise InputError(f"cannot read {path}: it is {kind}; expected an ordinary file")
    return found.st_size


def same_file(one: Path | str, other: Path | str) -> bool:
    """Whether two paths lead to one file or folder: through links, or because the system ignores case in names."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them does not exist
        return False


def lies_in(path: Path | str, folder: Path | str) -> bool:
    """Whether a path is a folder, or something in it, by any name."""
    real = Path(path).resolve()
    return any(same_file(place, folder) for place in (real, *real.parents))


def check_target(
    path: Path | str, *, overwrite: bool, inputs: Iterable[Path | str] = (), option: str = "--overwrite"
) -> None:
    """Refuse to write a file if that would destroy something.

    Args:
        path: file to write.
        overwrite: whether an existing file may be replaced.
        inputs: files to be read; none of them is ever replaced.
        option: option that permits replacing; empty if there is none.

    Raises:
        InputError: the file is an input, exists without `overwrite`, or is not an ordinary file.
    """
    for given in inputs:
        if same_file(given, path):
            raise InputError(f"{path} is the same file as {given}, which is to be read; name another file")
    if not os.path.lexists(path):
        return
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "folder" if os.path.isdir(path) else "device, pipe or socket"
        raise InputError(f"{path} is a {kind}, not a file that can be replaced; name another file")
    if not overwrite:
        raise InputError(f"{path} already exists: {f'{option} replaces it, or ' if option else ''}name another file")


def keep_copy(path: Path) -> Path | None:
    """Copy a file that is about to be replaced to `<name>.bak-1`, or the next free number; None without such a file.

    Raises:
        InputError: the file cannot be copied.
    """
    if not path.is_file():
        return None
    number = 1
    while os.path.lexists(kept := path.with_name(f"{path.name}.bak-{number}")):
        number += 1
    with replacing(kept) as part:
        shutil.copy2(path, part)
    return kept


def read_json(path: Path | str, remedy: str = "") -> dict[str, Any]:
    """Read a JSON object from a file in UTF-8 or, according to its first bytes, UTF-16, with or without a BOM.

    Args:
        path: file to read.
        remedy: what the user can do about a missing or invalid file, for the message.

    Raises:
        InputError: not an ordinary file, larger than LARGEST_JSON bytes, not JSON, or not an object.
    """
    after = f"; {remedy}" if remedy else ""
    try:
        size = require_regular(path)
    except InputError as error:
        raise InputError(f"{error}{after}") from error
    if size > LARGEST_JSON:
        raise InputError(
            f"{path} has {size / 2**20:,.0f} MiB; a JSON file here has at most {LARGEST_JSON >> 20}{after}"
        )
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_JSON)
        content = json.loads(data.decode(_encoding(data)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}{after}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {str(error)[:200]}{after}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(content).__name__}{after}")
    return content


def _encoding(data: bytes) -> str:
    """The encoding according to the first bytes (RFC 4627, section 3)."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if data[:1] == b"\0" else "utf-8"


@contextlib.contextmanager
def replacing(path: Path | str, remedy: str = KEPT, *, parents: bool = False, sweep: bool = True) -> Iterator[Path]:
    """A temporary path next to `path` for writing a file, which replaces `path` at the end of the block.

    After an error or interrupt, the new file and folders made for it are removed, and the earlier file is
    unchanged.

    Args:
        path: target file.
        remedy: what the user can do if it cannot be written.
        parents: whether to create missing folders.
        sweep: whether to remove parts of the same file left by killed processes.

    Yields:
        The path to write to. Its suffix is the target's, because many writers choose their format by it.

    Raises:
        InputError: the disk is full, or the path is not writable.
    """
    path = Path(path)
    part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
    made: list[Path] = []
    try:
        with explained(path, remedy):
            if parents:
                made = [folder for folder in path.parents if not folder.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
            if sweep:
                remove_leftovers(path)
            yield part
            _reach_the_disk(part)
            os.replace(part, path)
        made = []
    finally:
        with contextlib.suppress(OSError):  # gone after the rename
            part.unlink()
        for folder in made:
            with contextlib.suppress(OSError):  # already in use
                folder.rmdir()


def write_text(path: Path | str, text: str, remedy: str = KEPT) -> None:
    """Write a UTF-8 text file, keeping its newlines. Errors as in `replacing`."""
    with replacing(path, remedy) as part:
        part.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path | str, content: Any, remedy: str = KEPT) -> None:
    """Write a JSON file. Errors as in `replacing`."""
    write_text(path, json.dumps(content, indent=1) + "\n", remedy)


@contextlib.contextmanager
def explained(path: Path | str, remedy: str = KEPT) -> Iterator[None]:
    """Turn errors of a failed write into an InputError that names the file, the reason and the remedy."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = _system_error(error)
        if found is None:
            raise
        number, words = found
        if number is None and _is_full(Path(path)):
            number = errno.ENOSPC
        raise InputError(_reason(Path(path), number, words, remedy)) from error


def _system_error(error: BaseException | None) -> tuple[int | None, str] | None:
    """Number and message of the system error, or None if there is none.

    Writers in other languages raise their own errors with the system's message (safetensors, FFmpeg), or hide it
    behind a later one (torch.save).
    """
    while error is not None:
        if isinstance(error, OSError):
            return error.errno, error.strerror or str(error)
        words = " ".join(str(error).split())
        for number in (*_FULL, *_FORBIDDEN):
            if os.strerror(number) in words:
                return number, os.strerror(number)
        if any(said in words for said in _TORCH_SAVE):
            return None, words[:200]
        error = error.__cause__ or error.__context__
    return None


def _is_full(path: Path) -> bool:
    place = next((folder for folder in path.absolute().parents if folder.is_dir()), None)
    return place is not None and shutil.disk_usage(place).free < _NEARLY_NOTHING


def _reason(path: Path, number: int | None, words: str, remedy: str) -> str:
    if number in _FULL:
        return f"the disk is full: {path} could not be written; {remedy}"
    if number in _FORBIDDEN:
        return f"cannot write {path} ({words}): its folder is read-only or another user's; {remedy}"
    return f"cannot write {path} ({words}); {remedy}"


def remove_parts(folder: Path, before: float = math.inf) -> None:
    """Remove parts left by killed processes in a folder that no other process writes to.

    Args:
        folder: folder to clean up.
        before: keep files modified after this time, in seconds since the epoch.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(PART) and path.lstat().st_mtime < before:
                _remove(path)


def remove_leftovers(path: Path) -> None:
    """Remove the parts of one file or folder, and files written next to them, whose processes no longer exist."""
    import psutil

    for other in path.parent.iterdir():
        number, dash, name = other.name.removeprefix(PART).partition("-")
        if not (other.name.startswith(PART) and dash and f"{name}.".startswith(f"{path.name}.") and number.isdecimal()):
            continue
        if int(number) != os.getpid() and not psutil.pid_exists(int(number)):
            _remove(other)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _reach_the_disk(path: Path) -> None:
    """Sync a file to disk: some file systems only then report that they are full."""
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())
