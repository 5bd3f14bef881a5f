"""Folders on remote storage (s3://, gs://, hf://, ...) through fsspec: copied to this machine to be read, and filled.

Clips are mapped into memory, and a build resumes by its own records, so both use a local folder: a copy that holds what
was fetched, or a workplace whose finished files are sent. `CLOSEUPSHOT_CACHE` is where these folders are, by default
`~/.cache/closeupshot`.
"""

import contextlib
import fnmatch
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cus.errors import InputError
from cus.files import read_json, replacing, write_json
from cus.output_folder import OutputFolder

CACHE = "CLOSEUPSHOT_CACHE"
# What training data consist of; other files of a remote folder are not copied.
SUFFIXES = (".safetensors", ".tar", ".json", ".yaml")
_COPIED = ".copied.json"
_URL = re.compile(r"[A-Za-z][\w+.-]*://.+")
_SPARE_BYTES = 2**30


def is_remote(name: str | Path) -> bool:
    """Whether a setting names a folder of remote storage: `protocol://...`."""
    return _URL.fullmatch(str(name)) is not None


@functools.lru_cache(maxsize=64)
def local_folder(name: str) -> Path:
    """The folder with this name, or a copy of the remote one, made or completed now.

    Files that are here already with the remote one's size and version are not fetched again. Processes that ask
    for the same folder wait for one another. A remote folder is looked at once per process.

    Args:
        name: local path, or URL of a folder.

    Raises:
        InputError: no such remote folder, no access, a missing package for its protocol, or too little free space.
    """
    if not is_remote(name):
        return Path(name)
    from filelock import FileLock

    remote, folder = RemoteFolder(name), _place("copy", name)
    with FileLock(folder / ".lock"):
        remote.copy_to(folder)
    return folder


class RemoteFolder:
    """A folder of remote storage.

    Args:
        url: `protocol://...`; options and logins are those of the protocol's fsspec package.

    Raises:
        InputError: an unknown protocol, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            self.system, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise InputError(f"{url} needs another package ({error}); install it with pip") from error
        except ValueError as error:
            known = "s3://, gs://, az://, hf:// or another of fsspec's"
            raise InputError(f"{url}: {str(error).splitlines()[0]}; expected {known}, or a local folder") from error
        self.root = root.rstrip("/")

    def files(self) -> dict[str, dict[str, Any]]:
        """Fsspec's facts of all files, by name relative to the folder; {} if there is no folder."""
        with self._explained("list"):
            # Listings are cached, and another machine may have added files.
            self.system.invalidate_cache()
            try:
                found = self.system.find(self.root, detail=True)
            except FileNotFoundError:
                return {}
        names = {path.removeprefix(self.root).lstrip("/"): facts for path, facts in found.items()}
        return {name: facts for name, facts in names.items() if name and ".." not in PurePosixPath(name).parts}

    def has(self, name: str) -> bool:
        """Whether there is a file with this name."""
        with self._explained("list"):
            self.system.invalidate_cache()
            return bool(self.system.isfile(f"{self.root}/{name}"))

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file from there."""
        with self._explained(f"fetch {name} of"):
            self.system.get_file(f"{self.root}/{name}", str(target))

    def send(self, source: Path, name: str) -> None:
        """Copy a file to there, replacing one of that name."""
        with self._explained(f"write {name} to"):
            self.system.makedirs(str(PurePosixPath(f"{self.root}/{name}").parent), exist_ok=True)
            self.system.put_file(str(source), f"{self.root}/{name}")

    def copy_to(self, folder: Path) -> None:
        """Fetch the training data that a folder lacks, and remove those of its copies that are there no longer."""
        found = {name: facts for name, facts in self.files().items() if name.endswith(SUFFIXES)}
        if not found:
            raise InputError(f"there are no training data at {self.url}: expected {', '.join(SUFFIXES)}")
        copied = read_json(folder / _COPIED) if (folder / _COPIED).is_file() else {}
        versions = {name: _version(facts) for name, facts in found.items()}
        missing = [n for n in found if copied.get(n) != versions[n] or not (folder / n).is_file()]
        size, free = sum(found[name].get("size") or 0 for name in missing), shutil.disk_usage(folder).free
        if size + _SPARE_BYTES > free:
            raise InputError(
                f"{self.url} has {size / 1e9:.1f} GB that are not in {folder} yet, where {free / 1e9:.1f} GB are free; "
                f"free some space, or set {CACHE} to a larger disk"
            )
        for name in sorted(set(copied) - set(found)):
            (folder / name).unlink(missing_ok=True)
        copied = {name: version for name, version in copied.items() if name in found}
        for name in missing:
            with replacing(folder / name, parents=True) as part:
                self.fetch(name, part)
            write_json(folder / _COPIED, copied := {**copied, name: versions[name]})

    @contextlib.contextmanager
    def _explained(self, act: str) -> Iterator[None]:
        """Turn the errors of any storage's package into one InputError."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:200]
            raise InputError(
                f"cannot {act} {self.url} ({type(error).__name__}: {reason}); check the address and your login"
            ) from error


class Destination:
    """Where a command's files end up: in its local folder, or in a remote one that it fills from a workplace.

    Args:
        name: local path, or URL.
    """

    def __init__(self, name: str) -> None:
        self.remote = RemoteFolder(name) if is_remote(name) else None
        self.path = Path(name) if self.remote is None else _place("work", name)

    def bring(self, folder: OutputFolder, *patterns: str) -> None:
        """Fetch matching files into the open workplace, replacing its own."""
        if self.remote is None:
            return
        for name in (name for name in self.remote.files() if _matches(name, patterns)):
            folder.write(name, lambda part, name=name: self.remote and self.remote.fetch(name, part))

    def check_free(self, planned: tuple[str, ...], settings: str) -> None:
        """Refuse a remote folder that has files in the way, but not the settings of an earlier run."""
        found = {} if self.remote is None else self.remote.files()
        taken = [name for name in found if _matches(name, planned)]
        if taken and settings not in found:
            raise InputError(
                f"{self.remote and self.remote.url} holds {taken[0]}, and no {settings}; name another out="
            )

    def names(self) -> list[str]:
        """The files of a remote folder; [] for a local one."""
        return [] if self.remote is None else list(self.remote.files())

    def has(self, name: str) -> bool:
        """Whether a remote folder has a file."""
        return self.remote is not None and self.remote.has(name)

    def move(self, folder: OutputFolder, names: Sequence[str]) -> None:
        """Send complete files of the open workplace and remove them here, if the folder is remote."""
        if self.remote is not None:
            for name in names:
                self.remote.send(folder.path / name, name)
            folder.remove(names)

    def send(self, source: Path, name: str) -> None:
        """Send a file that is complete, if the folder is remote."""
        if self.remote is not None:
            self.remote.send(source, name)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _version(facts: dict[str, Any]) -> str:
    """What distinguishes versions of a file, as far as the storage says."""
    keys = ("size", "ETag", "etag", "blob_id", "oid", "md5Hash", "LastModified", "last_modified", "mtime", "created")
    return json.dumps([str(facts[key]) for key in keys if facts.get(key) is not None])


def cache_folder() -> Path:
    """The user's folder for what this package keeps between runs; it may not exist yet."""
    given = os.environ.get(CACHE)
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "closeupshot")


def _place(kind: str, url: str) -> Path:
    """The local folder of a remote one."""
    words = re.sub(r"[^\w-]+", "-", url)[-60:].strip("-")
    folder = cache_folder() / kind / f"{words}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder} ({error.strerror}); set {CACHE} to a folder") from error
    return folder
