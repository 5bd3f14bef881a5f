"""One process at a time in a folder. The lock dies with the process that holds it, however that ends."""

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
    """The right to write to a folder.

    The system keeps the lock (`flock`), so it cannot outlive its process, and the file beside it only names the holder.
    Where a file system knows no locks, or on Windows, the file itself is the lock: it counts as long as the process
    that it names is alive.

    Args:
        folder: an existing folder.
        share: distinguishes processes that share the work in a folder; each share is locked by itself.
    """

    def __init__(self, folder: Path, share: str = "") -> None:
        self.folder = folder
        self.path = folder / f"{NAME}{share}"
        self.stream: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InputError: another process has it; says which, and since when.
            OSError: the folder cannot be written to.
        """
        while True:
            stream = self._open()
            if not self._locked(stream):
                stream.close()
                raise InputError(self._refusal())
            if self._is_current(stream):
                break
            # Released, and its file removed, between opening and locking it.
            stream.close()
        self.stream = stream
        _forget_in_children()
        _held.add(self)
        self._name_holder(stream)

    def release(self) -> None:
        """Give the lock back; without one nothing happens."""
        if self.stream is None:
            return
        with contextlib.suppress(OSError):  # a folder that has become read-only, or Windows, where it is open
            # The file goes first, while nobody else can hold it.
            self.path.unlink()
        self.stream.close()
        self.stream = None

    def is_alone(self) -> bool:
        """Whether nobody is at work in any other share of the folder; of what cannot be told, somebody is."""
        holders = [_content(path) for path in self.folder.glob(f"{NAME}*") if path != self.path]
        return all(holder and not _is_alive(holder) for holder in holders)

    def _open(self) -> IO[str]:
        return os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")

    def _locked(self, stream: IO[str]) -> bool:
        """Whether the lock could be taken."""
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
            pass  # on a full disk the lock holds all the same; only its name is missing

    def _refusal(self) -> str:
        for _ in range(20):
            holder = _content(self.path)
            if holder:
                break
            time.sleep(0.01)  # it has just taken the lock and not yet said who it is
        else:
            return f"another process is at work in {self.folder}; wait for it or name another folder"
        since = datetime.fromtimestamp(holder["started"]).strftime("%Y-%m-%d %H:%M:%S")
        where = "" if holder.get("host") == platform.node() else f" on {holder.get('host')}"
        return (
            f"another run is at work in {self.folder}: process {holder['pid']}{where}, started {since}; wait until it "
            "is done, stop it, or name another folder"
        )


def _content(path: Path) -> dict[str, Any]:
    """Who holds a lock; empty where the file does not say."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        datetime.fromtimestamp(holder["started"])
        int(holder["pid"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return {}
    return holder


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether a lock's process still runs; one on another machine is taken to."""
    if not holder:
        return False
    if holder.get("host") != platform.node():
        return True
    born = _born(int(holder["pid"]))
    # The number may be in use again, after a restart of the machine for one.
    return born is not None and abs(born - float(holder.get("born") or 0)) < 1


def _born(pid: int) -> float | None:
    """When a process began, seconds since the epoch, or None where there is none."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


_watched: list[bool] = []


def _forget_in_children() -> None:
    """A child of this process (a data loader's) must not keep the lock when this process is killed."""
    if _watched or not hasattr(os, "register_at_fork"):
        return
    _watched.append(True)
    os.register_at_fork(after_in_child=_close_inherited)


def _close_inherited() -> None:
    for lock in list(_held):
        if lock.stream is not None:
            lock.stream.close()
            lock.stream = None
