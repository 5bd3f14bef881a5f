"""The output folder of a command, with a record of the files that the command made; others are never touched.

`.closeupshot-files` lists every file written to the folder, one JSON string per line, before the file itself is
written: everything left by a killed run is listed. Only listed files are ever replaced or removed.
"""

import contextlib
import fnmatch
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cus import files
from cus.errors import InputError
from cus.folder_lock import FolderLock
from cus.folder_record import RECORD, cut_partial_line, header_line, read_record

LEAST_FREE_BYTES = 300 * 2**20
RESUMABLE = "what was finished is kept: free some space, or fix the folder, and run the same command with --resume"
# Files that file managers leave everywhere.
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")


class OutputFolder:
    """A folder with a record of the files made in it.

    Args:
        path: path of the folder, which need not exist.
        kind: kind of content, such as "a run of cus-infer"; folders of another kind are refused.
        remedy: what the user can do if a file cannot be written.
    """

    def __init__(self, path: Path, kind: str, remedy: str = RESUMABLE) -> None:
        self.path, self.kind, self.remedy = Path(path), kind, remedy
        self.made, self.found_kind = read_record(self.path)
        self.lock: FolderLock | None = None
        self._new: list[Path] = []

    def open(self, planned: Sequence[str], inputs: Iterable[Path] = (), *, share: str = "") -> None:
        """Lock the folder and check that no files of the user's are in the way.

        Args:
            planned: patterns of the files that may be written, relative, such as "frames/*.png".
            inputs: files to be read; none may be among the files in the folder's record.
            share: name of this process's share of the work (`FolderLock`).

        Raises:
            InputError: another process works here, the folder is not writable, contains another kind of output or
                unlisted files in the way, or lists an input.
        """
        self._make()
        lock = FolderLock(self.path, share)
        try:
            lock.acquire()
        except OSError as error:
            raise InputError(f"cannot write to {self.path} ({error.strerror}); choose another folder") from error
        self.lock = lock
        try:
            # Read only now, because another process may have finished in the meantime.
            self.made, self.found_kind = read_record(self.path)
            self._check_kind()
            self._check_inputs(inputs)
            self._check_free(planned)
            # Processes that start another share of the work from now on write parts that are newer than this lock.
            taken = lock.path.stat().st_mtime
            if not share or lock.is_alone():
                for folder in {self.path, *(self.path / name for name in self._made_folders())}:
                    files.remove_parts(folder, taken if share else math.inf)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock; remove the folder if it was created for this and is still empty."""
        if self.lock is None:
            return
        self.lock.release()
        self.lock = None
        for folder in self._new:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()

    def holds(self) -> list[str]:
        """Existing listed files and folders at the top level, for messages."""
        found = dict.fromkeys(
            PurePosixPath(name).parts[0] + ("/" if "/" in name.rstrip("/") else "")
            for name in self.made
            if self.is_ours(name)
        )
        return list(found)

    def holds_only(self, name: str) -> bool:
        """Whether no other listed file exists than this one, and no other process works here that might make some."""
        alone = self.lock is not None and self.lock.is_alone()
        return alone and not any(self.is_ours(other) for other in self.made if other != name)

    def is_ours(self, name: str) -> bool:
        """Whether a file or folder exists, is listed, and is not reached through a link of the user's."""
        path = self.path / name
        if name not in self.made or path.is_symlink():
            return False
        if not (path.is_dir() if name.endswith("/") else path.is_file()):
            return False
        return path.parent.resolve() == self.path.resolve() / PurePosixPath(name).parent

    def write(self, name: str, writer: Callable[[Path], Any]) -> Path:
        """Write a file atomically through `writer(temporary path)`."""
        path = self.claim(name)
        with files.replacing(path, self.remedy, sweep=False) as part:
            writer(part)
        return path

    def claim(self, name: str) -> Path:
        """List a file that is about to be written, with the folders created for it; returns its path.

        Raises:
            InputError: an unlisted file with that name exists, or the record cannot be written.
        """
        path = self.path / name
        if not self.is_ours(name) and os.path.lexists(path):
            # Another process that shares the work may have listed it in the meantime.
            self.made |= read_record(self.path)[0]
        if not self.is_ours(name) and os.path.lexists(path) and not self._give_way(name):
            raise InputError(f"{path} is there, and no command made it; move it away or choose another folder")
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            folder = self.path / parent
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise InputError(f"{folder} is a {'link' if folder.is_symlink() else 'file'}; a folder is made there")
            if not folder.is_dir():
                self._list(f"{parent}/")
                with files.explained(folder, self.remedy):
                    # Another process that shares the work may have created it in the meantime.
                    folder.mkdir(exist_ok=True)
        self._list(name)
        return path

    def adopt(self, part: Path, name: str = "") -> None:
        """Move every file in `part`, a temporary folder, to its place in the sub-folder `name`.

        Earlier listed files there that are not among the new ones are removed.
        """
        found = [file.relative_to(part).as_posix() for file in sorted(part.rglob("*")) if file.is_file()]
        new = [f"{name}/{file}" if name else file for file in found]
        for file, target in zip(found, new, strict=True):
            path = self.claim(target)
            with files.explained(path, self.remedy):
                os.replace(part / file, path)
        shutil.rmtree(part, ignore_errors=True)
        kept = {f"{parent}/" for file in new for parent in PurePosixPath(file).parents} | set(new)
        self.remove([file for file in self.below(name) if file not in kept] if name else [])

    def adopt_whole(self, part: Path, name: str) -> None:
        """Move a temporary folder to its place atomically."""
        for file in (path for path in sorted(part.rglob("*")) if path.is_file()):
            self._list(f"{name}/{file.relative_to(part).as_posix()}")
        for folder in (part, *(path for path in sorted(part.rglob("*")) if path.is_dir())):
            self._list(f"{name}/{folder.relative_to(part).as_posix()}/".replace("/./", "/"))
        path = self.claim(f"{name}/")
        with files.explained(path, self.remedy):
            os.replace(part, path)

    def part(self, name: str) -> Path:
        """An empty temporary folder to write to before `adopt`."""
        path = self.path / f"{files.PART}{name}"
        shutil.rmtree(path, ignore_errors=True)
        with files.explained(path, self.remedy):
            path.mkdir()
        return path

    def remove(self, names: Iterable[str]) -> None:
        """Remove listed files, then listed folders that are now empty; everything else stays."""
        names = [name for name in names if name in self.made]
        for name in names:
            if self.is_ours(name) and not name.endswith("/"):
                with files.explained(self.path / name, self.remedy):
                    (self.path / name).unlink()
        emptied = {f"{parent}/" for name in names for parent in PurePosixPath(name).parents} | set(names)
        for folder in sorted((n for n in self.made if n.endswith("/")), key=len, reverse=True):
            if folder in emptied and self.is_ours(folder):
                with contextlib.suppress(OSError):  # it contains something of the user's
                    (self.path / folder).rmdir()
        if names:
            self.rewrite()

    def below(self, folder: str) -> list[str]:
        """Listed names inside a sub-folder."""
        return [name for name in self.made if name.startswith(f"{folder}/")]

    def rewrite(self) -> None:
        """Rewrite the record, sorted, without files that no longer exist."""
        self.made = dict.fromkeys(sorted(name for name in self.made if self.is_ours(name)))
        lines = [header_line(self.kind), *map(json.dumps, self.made)]
        files.write_text(self.path / RECORD, "".join(f"{line}\n" for line in lines), self.remedy)

    def _made_folders(self) -> list[str]:
        return [name for name in self.made if name.endswith("/") and self.is_ours(name)]

    def _list(self, name: str) -> None:
        if name in self.made:
            return
        header = "" if self.found_kind else header_line(self.kind) + "\n"
        record = self.path / RECORD
        with files.explained(record, self.remedy), record.open("ab+") as stream:
            cut_partial_line(stream)
            stream.write(f"{header}{json.dumps(name)}\n".encode())
        self.found_kind = self.kind
        self.made[name] = None

    def _give_way(self, name: str) -> bool:
        """Whether an empty folder in the place of a listed file has been removed."""
        path = self.path / name
        if name not in self.made or path.is_symlink() or not path.is_dir():
            return False
        with contextlib.suppress(OSError):
            path.rmdir()
            return True
        return False

    def _make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; name a folder with --out")
        try:
            self._new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise InputError(
                f"cannot write to {self.path} ({error.strerror}); choose another folder with --out"
            ) from error
        free = shutil.disk_usage(self.path).free
        if free < LEAST_FREE_BYTES:
            raise InputError(
                f"only {free >> 20} MiB are free at {self.path}; {LEAST_FREE_BYTES >> 20} MiB are needed: "
                "free some space or choose another folder with --out"
            )

    def _check_kind(self) -> None:
        if self.found_kind and self.found_kind != self.kind and self.holds():
            raise InputError(f"{self.path} holds {self.found_kind}, not {self.kind}; choose another folder with --out")

    def _check_inputs(self, inputs: Iterable[Path]) -> None:
        """Refuse inputs that are, contain, or lie in something listed in the folder's record."""
        ours = {name for name in self.made if self.is_ours(name)}
        ours |= {str(parent) for name in ours for parent in PurePosixPath(name).parents[:-1]}
        # Compared by the system's identity: names may differ only in case.
        ours_by_identity = {_identity(self.path / name) for name in ours}
        for given in inputs:
            if given.exists() and _identity(given) in ours_by_identity:
                raise InputError(
                    f"{given} is to be read, but it was written by {self.kind} in {self.path}, which would replace it; "
                    "copy it elsewhere, or choose another folder with --out"
                )

    def _check_free(self, planned: Sequence[str]) -> None:
        """Refuse unlisted files where a file is going to be written."""
        for top in dict.fromkeys(PurePosixPath(pattern).parts[0] for pattern in planned):
            for path in sorted(self.path.glob(top)):
                if path.name.startswith(files.PART):
                    continue
                name = path.relative_to(self.path).as_posix()
                if path.is_dir() and f"{top}/" not in planned and any(p.startswith(f"{top}/") for p in planned):
                    self._check_folder(name, planned)
                elif not self.is_ours(name) and not (name in self.made and _is_empty_folder(path)):
                    self._refuse(name)

    def _check_folder(self, name: str, planned: Sequence[str]) -> None:
        path = self.path / name
        inside = [p for p in sorted(path.iterdir()) if p.name not in _CLUTTER and not p.name.startswith(files.PART)]
        if path.is_symlink() or (inside and not any(map(self.is_ours, self.below(name)))):
            self._refuse(f"{name}/")
        for entry in inside:
            relative = entry.relative_to(self.path).as_posix()
            ours = self.is_ours(relative) or self.is_ours(f"{relative}/")
            if ours or (relative in self.made and _is_empty_folder(entry)):
                continue
            if any(fnmatch.fnmatchcase(relative, pattern) for pattern in planned):
                self._refuse(relative)

    def _refuse(self, name: str) -> None:
        # Another process that shares the work may have created it in the meantime.
        self.made |= read_record(self.path)[0]
        if self.is_ours(name):
            return
        raise InputError(
            f"{self.path} holds {name}, which no run made (its list {RECORD} does not name it), and {self.kind} would "
            "write there; move it away or choose another folder with --out"
        )


@contextlib.contextmanager
def new_folder(path: Path, kind: str, *, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A temporary folder to fill, which replaces `path` at the end of the block; errors leave everything unchanged.

    Args:
        path: target folder.
        kind: kind of content, such as "an export".
        overwrite: whether to replace an earlier folder of that kind.
        inputs: files to be read; none may lie in `path`.

    Raises:
        InputError: `path` contains unlisted files, or an earlier folder of the kind without `overwrite`; another
            process is writing the same folder; or the disk is full or read-only.
    """
    remedy = "nothing of it was kept: free some space, or choose another folder"
    place = Path(os.path.abspath(path))  # "." has no name
    part = place.with_name(f"{files.PART}{os.getpid()}-{place.name}")
    earlier = place.with_name(f".cus-earlier-{place.name}")
    lock = FolderLock(place.parent, f"-{place.name}")
    check_replaceable(path, kind, overwrite=overwrite, inputs=inputs)
    with files.explained(path, remedy), _folders_for(place):
        lock.acquire()
        try:
            files.remove_leftovers(place)
            _recover(path, earlier, kind)
            check_replaceable(path, kind, overwrite=overwrite, inputs=inputs)
            part.mkdir()
            yield part
            _list_all(part, kind)
            if path.exists():
                os.replace(path, earlier)
            os.replace(part, path)
            _remove_listed(earlier, kind)
        except InputError as error:
            # The user only knows the target folder.
            raise InputError(str(error).replace(str(part), str(path))) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
            _recover(path, earlier, kind)
            lock.release()


@contextlib.contextmanager
def _folders_for(path: Path) -> Iterator[None]:
    """Create the parent folders of a path; remove those that are empty at the end."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


def check_replaceable(path: Path, kind: str, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder that must not be replaced (`new_folder`). Raises InputError."""
    if not os.path.lexists(path):
        return
    if not path.is_dir() or path.is_symlink():
        raise InputError(f"{path} is a {'link' if path.is_symlink() else 'file'}; name a folder that is not there yet")
    for given in inputs:
        if files.lies_in(given, path):
            raise InputError(f"{given} is to be read, but lies in {path}, which would be replaced; name another folder")
    folder = OutputFolder(path, kind)
    others = [name for name in _content(path) if not folder.is_ours(name)]
    if others and not folder.found_kind:
        raise InputError(
            f"{path} holds {others[0]} and no list of what a command has made ({RECORD}): it is yours, or of an "
            "earlier version, and is never replaced; move it away yourself, or name another folder"
        )
    if others:
        raise InputError(
            f"{path} holds {others[0]}, which no command made (its list {RECORD} does not name it); name another folder"
        )
    if folder.found_kind not in ("", kind):
        raise InputError(f"{path} holds {folder.found_kind}, not {kind}; name another folder")
    if folder.made and not overwrite:
        raise InputError(f"{path} already exists: --overwrite replaces it, or name another folder")


def _content(path: Path) -> list[str]:
    """Every file below a folder, and every folder with a slash, except for the record itself."""
    found = []
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        if name != RECORD and entry.name not in _CLUTTER:
            found.append(f"{name}/" if entry.is_dir() and not entry.is_symlink() else name)
    return found


def _list_all(path: Path, kind: str) -> None:
    lines = [header_line(kind), *map(json.dumps, _content(path))]
    (path / RECORD).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _recover(path: Path, earlier: Path, kind: str) -> None:
    """Restore a folder that was moved aside if its successor is missing, or remove it if that exists."""
    if earlier.is_dir() and not path.exists():
        os.replace(earlier, path)
    _remove_listed(earlier, kind)


def _remove_listed(path: Path, kind: str) -> None:
    """Remove a folder's listed files, and the folder if it is then empty; everything else stays."""
    if not path.is_dir() or path.is_symlink():
        return
    folder = OutputFolder(path, kind)
    folder.remove(list(folder.made))
    if not _content(path):
        shutil.rmtree(path, ignore_errors=True)


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
