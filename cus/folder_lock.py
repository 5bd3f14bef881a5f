"""Allows one process at a time in a folder. The lock ends with its process, even if that is killed."""

import contextlib
import json
import os
import platform
import sys
import time
import weakref
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from cus.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".closeupshot-lock"
_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


class FolderLock:
    """An exclusive lock on a folder.

    The system holds the lock (`flock`), so it cannot outlive its process; the file only names the holder. On file
    systems without locks, or on Windows, the file itself is the lock: it is valid as long as the process that it names
    is alive.

    Args:
        folder: existing folder to lock.
        share: name that distinguishes processes sharing the work in a folder; each share has its own lock.
    """

    def __init__(self, folder: Path, share: str = "") -> None:
        self.folder = folder
        self.path = folder / f"{NAME}{share}"
        self.stream: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: another process holds it; the message says which, and since when.
            OSError: the folder is not writable.
        """
        while True:
            stream = self._open()
            if not self._locked(stream):
                stream.close()
                raise InputError(self._refusal())
            if self._is_current(stream):
                break
            # The lock was released, and its file removed, between opening and locking it.
            stream.close()
        self.stream = stream
        _forget_in_children()
        _held.add(self)
        self._name_holder(stream)

    def release(self) -> None:
        """Release the lock, if held."""
        if self.stream is None:
            return
        with contextlib.suppress(OSError):  # the folder has become read-only, or Windows, where the file is open
            # Remove the file first, while nobody else can hold the lock.
            self.path.unlink()
        self.stream.close()
        self.stream = None

    def is_alone(self) -> bool:
        """Whether no process works in another share of the folder; False if this is unknown."""
        holders = [_content(path) for path in self.folder.glob(f"{NAME}*") if path != self.path]
        return all(holder and not _is_alive(holder) for holder in holders)

    def _open(self) -> IO[str]:
        return os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")

    def _locked(self, stream: IO[str]) -> bool:
        """Whether the lock was taken."""
        if fcntl is not None:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                return False
            except OSError:
                pass  # a file system without locks
        return not _is_alive(_content(self.path))

    def _is_current(self, stream: IO[str]) -> bool:
        try:
            return os.path.samestat(os.fstat(stream.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _name_holder(self, stream: IO[str]) -> None:
        holder = {"pid": os.getpid(), "host": platform.node(), "born": _born(os.getpid()), "started": time.time()}
        try:
            stream.truncate(0)
            stream.write(json.dumps(holder | {"command": Path(sys.argv[0]).name}))
            stream.flush()
        except OSError:
            pass  # on a full disk the lock still works; only the holder's name is missing

    def _refusal(self) -> str:
        for _ in range(20):
            holder = _content(self.path)
            if holder:
                break
            time.sleep(0.01)  # the holder has just taken the lock and not yet written its name
        else:
            return f"another process is at work in {self.folder}; wait for it or name another folder"
        since = datetime.fromtimestamp(holder["started"]).strftime("%Y-%m-%d %H:%M:%S")
        where = "" if holder.get("host") == platform.node() else f" on {holder.get('host')}"
        return (
            f"another run is at work in {self.folder}: process {holder['pid']}{where}, started {since}; wait until it "
            "is done, stop it, or name another folder"
        )


def _content(path: Path) -> dict[str, Any]:
    """The holder of a lock; empty if the file does not say."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        datetime.fromtimestamp(holder["started"])
        int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}
    return holder


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether a lock's process still runs; assumed for another machine."""
    if not holder:
        return False
    if holder.get("host") != platform.node():
        return True
    born = _born(int(holder["pid"]))
    # The process id may be in use again, e.g. after a restart of the machine.
    return born is not None and abs(born - float(holder.get("born") or 0)) < 1


def _born(pid: int) -> float | None:
    """Start time of a process in seconds since the epoch, or None if there is none."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


_watched: list[bool] = []


def _forget_in_children() -> None:
    """A child of this process (e.g. a data loader's) must not keep the lock when this process is killed."""
    if _watched or not hasattr(os, "register_at_fork"):
        return
    _watched.append(True)
    os.register_at_fork(after_in_child=_close_inherited)


def _close_inherited() -> None:
    for lock in list(_held):
        if lock.stream is not None:
            lock.stream.close()
            lock.stream = None
