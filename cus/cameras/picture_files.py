"""Finds photographs on disk by the names in camera files."""

import os
from collections import defaultdict
from pathlib import Path, PureWindowsPath

from cus.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".bmp", ".jp2")


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder by name, excluding subfolders."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


class PictureFinder:
    """Finds pictures by name and lists each folder only once."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, path: Path) -> Path | None:
        """The picture at `path`: that file, or one in its folder that differs only in extension or case.

        `frame.0001` may be `frame.0001.jpg`, and `0001.png` may be `0001.JPG` if there is no other; files that are not
        pictures (`0001.depth.npy`) do not count.

        Raises:
            InputError: several pictures match, and none exactly.
        """
        if os.path.isfile(path):
            return path
        names = self._names(path.parent)
        for wanted in _forms(path.name):
            fitting = names.get(wanted.lower(), [])
            # Prefer exact case.
            exact = [name for name in fitting if Path(name).stem == wanted or name == path.name]
            found = exact or fitting
            if len(found) > 1:
                raise InputError(
                    f"{path} does not exist, and {' and '.join(found[:3])} in its folder both fit; give the full name"
                )
            if found:
                return path.parent / found[0]
        return None

    def below(self, base: Path, name: str) -> tuple[Path, bool]:
        """Resolve a name in a camera file from the folder `base`: (path, whether a picture is there).

        The name is taken literally first; if nothing is there, backslashes are taken as Windows' separators, and for a
        path of another machine, the longest suffix that exists below `base` is used.
        """
        literal = base / name
        windows = PureWindowsPath(name)
        places = [literal]
        if "\\" in name or windows.drive:
            places.append(base / Path(*(part for part in windows.parts if part != windows.anchor)))
        if literal.is_absolute() or windows.anchor:
            parts = [part for part in windows.parts if part != windows.anchor]
            places += [base / Path(*parts[start:]) for start in range(len(parts))]
        for place in places:
            found = self.find(place)
            if found is not None:
                return found, True
        return places[1] if "\\" in name else literal, False

    def _names(self, folder: Path) -> dict[str, list[str]]:
        """Pictures of a folder by their lower-case stems."""
        key = str(folder)
        if key not in self._listings:
            names: dict[str, list[str]] = defaultdict(list)
            try:
                for name in sorted(os.listdir(folder)):
                    stem, suffix = os.path.splitext(name)
                    if suffix.lower() in SUFFIXES:
                        names[stem.lower()].append(name)
            except (OSError, ValueError):
                names.clear()
            self._listings[key] = names
        return self._listings[key]


def _forms(name: str) -> list[str]:
    """The stems that a name may stand for: itself, and without a picture's extension."""
    stem, suffix = os.path.splitext(name)
    return [name, stem] if suffix.lower() in SUFFIXES else [name]
