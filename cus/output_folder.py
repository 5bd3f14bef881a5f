"""The folder that a command fills: which files in it the command made, and nobody else's touched.

`.closeupshot-files` lists every file that was written to the folder, one JSON string a line, before the file itself is
written: whatever a killed run leaves is listed. Only listed files are ever replaced or removed.
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
RESUMABLE = "what was finished is kept: free some space, or mend the folder, and run the same command with --resume"
# What file managers leave wherever they look.
_CLUTTER = (".DS_Store", "Thumbs.db", "desktop.ini")


class OutputFolder:
    """A folder with the list of what was made in it.

    Args:
        path: the folder; need not exist.
        kind: what fills it, such as "a run of cus-infer"; another kind's folder is never taken over.
        remedy: what the user can do where a file cannot be written.
    """

    def __init__(self, path: Path, kind: str, remedy: str = RESUMABLE) -> None:
        self.path, self.kind, self.remedy = Path(path), kind, remedy
        self.made, self.found_kind = read_record(self.path)
        self.lock: FolderLock | None = None
        self._new: list[Path] = []

    def open(self, planned: Sequence[str], inputs: Iterable[Path] = (), *, share: str = "") -> None:
        """Lock the folder and make sure that nothing of the user's is in the way.

        Args:
            planned: patterns of the files that may be written, relative, such as "frames/*.png".
            inputs: what is read; none of it may be among the files that the folder's record lists.
            share: see `FolderLock`.

        Raises:
            InputError: another process works here, the folder cannot be written to, holds something of another kind
                or files in the way that no command made, or lists an input as its own.
        """
        self._make()
        lock = FolderLock(self.path, share)
        try:
            lock.acquire()
        except OSError as error:
            raise InputError(f"cannot write to {self.path} ({error.strerror}); choose another folder") from error
        self.lock = lock
        try:
            # Only now: another process may have finished since.
            self.made, self.found_kind = read_record(self.path)
            self._check_kind()
            self._check_inputs(inputs)
            self._check_free(planned)
            # Whoever takes another share of the work from now on writes parts that are younger than this lock.
            taken = lock.path.stat().st_mtime
            if not share or lock.is_alone():
                for folder in {self.path, *(self.path / name for name in self._made_folders())}:
                    files.remove_parts(folder, taken if share else math.inf)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others in; a folder that was made for this and is still empty goes."""
        if self.lock is None:
            return
        self.lock.release()
        self.lock = None
        for folder in self._new:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()

    def holds(self) -> list[str]:
        """Listed files that are there, folders as such, at the top level: what the user is told of."""
        found = dict.fromkeys(
            PurePosixPath(name).parts[0] + ("/" if "/" in name.rstrip("/") else "")
            for name in self.made
            if self.is_ours(name)
        )
        return list(found)

    def is_ours(self, name: str) -> bool:
        """Whether a file or folder is there, is listed, and is not reached through a link of the user's."""
        path = self.path / name
        if name not in self.made or path.is_symlink():
            return False
        if not (path.is_dir() if name.endswith("/") else path.is_file()):
            return False
        return path.parent.resolve() == self.path.resolve() / PurePosixPath(name).parent

    def write(self, name: str, writer: Callable[[Path], Any]) -> Path:
        """Write a file through `writer(temporary path)`; it appears under its name only when complete."""
        path = self.claim(name)
        with files.replacing(path, self.remedy, sweep=False) as part:
            writer(part)
        return path

    def claim(self, name: str) -> Path:
        """List a file that is about to be written, with the folders that are made for it; its path.

        Raises:
            InputError: a file of that name is there that no command made, or the list cannot be written.
        """
        path = self.path / name
        if not self.is_ours(name) and os.path.lexists(path):
            # Another process that shares the work may have listed it since.
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
                    # Another process that shares the work may have made it since.
                    folder.mkdir(exist_ok=True)
        self._list(name)
        return path

    def adopt(self, part: Path, name: str = "") -> None:
        """Move every file below `part`, a folder written beside, to its place below the sub-folder `name`.

        Files that a command has left there earlier, and that are not among the new ones, are removed.
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
        """Move a folder written beside to its place at once: it is there complete, or not at all."""
        for file in (path for path in sorted(part.rglob("*")) if path.is_file()):
            self._list(f"{name}/{file.relative_to(part).as_posix()}")
        for folder in (part, *(path for path in sorted(part.rglob("*")) if path.is_dir())):
            self._list(f"{name}/{folder.relative_to(part).as_posix()}/".replace("/./", "/"))
        path = self.claim(f"{name}/")
        with files.explained(path, self.remedy):
            os.replace(part, path)

    def part(self, name: str) -> Path:
        """An empty folder to write to before `adopt`."""
        path = self.path / f"{files.PART}{name}"
        shutil.rmtree(path, ignore_errors=True)
        with files.explained(path, self.remedy):
            path.mkdir()
        return path

    def remove(self, names: Iterable[str]) -> None:
        """Remove listed files, then the listed folders that are empty without them; anything else stays."""
        names = [name for name in names if name in self.made]
        for name in names:
            if self.is_ours(name) and not name.endswith("/"):
                with files.explained(self.path / name, self.remedy):
                    (self.path / name).unlink()
        emptied = {f"{parent}/" for name in names for parent in PurePosixPath(name).parents} | set(names)
        for folder in sorted((n for n in self.made if n.endswith("/")), key=len, reverse=True):
            if folder in emptied and self.is_ours(folder):
                with contextlib.suppress(OSError):  # something of the user's is in it
                    (self.path / folder).rmdir()
        if names:
            self.rewrite()

    def below(self, folder: str) -> list[str]:
        """Listed names inside a sub-folder."""
        return [name for name in self.made if name.startswith(f"{folder}/")]

    def rewrite(self) -> None:
        """Write the list anew, in order, without what is no longer there."""
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
        """Whether an empty folder that stands where a listed file was has been removed."""
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
        """No input may be, hold or lie in something that the folder's record lists."""
        ours = {name for name in self.made if self.is_ours(name)}
        ours |= {str(parent) for name in ours for parent in PurePosixPath(name).parents[:-1]}
        # By what the system knows them as: names may differ in case alone.
        ours_by_identity = {_identity(self.path / name) for name in ours}
        for given in inputs:
            if given.exists() and _identity(given) in ours_by_identity:
                raise InputError(
                    f"{given} is to be read, but it was written by {self.kind} in {self.path}, which would replace it; "
                    "copy it elsewhere, or choose another folder with --out"
                )

    def _check_free(self, planned: Sequence[str]) -> None:
        """Nothing that is not listed may stand where a file is going to be written."""
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
        # Another process that shares the work may have made it since.
        self.made |= read_record(self.path)[0]
        if self.is_ours(name):
            return
        raise InputError(
            f"{self.path} holds {name}, which no run made (its list {RECORD} does not name it), and {self.kind} would "
            "write there; move it away or choose another folder with --out"
        )


@contextlib.contextmanager
def new_folder(path: Path, kind: str, *, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder beside `path` to fill, which takes its place when the block is through; errors leave all as it was.

    Args:
        path: the folder to make.
        kind: what fills it, such as "an export".
        overwrite: whether an earlier one of that kind is replaced.
        inputs: what is read; none of it may lie in `path`.

    Raises:
        InputError: `path` holds anything that its record does not list, or an earlier folder of the kind unasked;
            another process makes the same folder; the disk is full or read-only.
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
            # What the user knows of is the folder itself.
            raise InputError(str(error).replace(str(part), str(path))) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
            _recover(path, earlier, kind)
            lock.release()


@contextlib.contextmanager
def _folders_for(path: Path) -> Iterator[None]:
    """Make the folders above a path; those that are empty in the end go again."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()


def check_replaceable(path: Path, kind: str, *, overwrite: bool, inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder that may not be replaced, see `new_folder`. Raises InputError."""
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
    """Every file below a folder, and every folder with a slash, but for the list itself."""
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
    """Put a folder back that was moved aside when its successor did not come, or remove it when that is there."""
    if earlier.is_dir() and not path.exists():
        os.replace(earlier, path)
    _remove_listed(earlier, kind)


def _remove_listed(path: Path, kind: str) -> None:
    """Remove a folder with what its record lists; anything else, and the folder around it, stay."""
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
