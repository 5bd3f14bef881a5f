"""Photographs on disk by the names that files of cameras give them."""

import os
from collections import defaultdict
from pathlib import Path, PureWindowsPath

from cus.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".bmp", ".jp2")


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder by name, without those of its subfolders."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


class PictureFinder:
    """Finds pictures by name and lists each folder once, however many are asked for."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, list[str]]] = {}

    def find(self, path: Path) -> Path | None:
        """The picture at `path`: that file, or the one in its folder that differs by the extension or by case alone.

        `frame.0001` is `frame.0001.jpg`, and `0001.png` is `0001.JPG` where that is all there is; files beside that
        are no pictures (`0001.depth.npy`) do not count.

        Raises:
            InputError: several pictures fit, and none exactly.
        """
        if os.path.isfile(path):
            return path
        names = self._names(path.parent)
        for wanted in _forms(path.name):
            fitting = names.get(wanted.lower(), [])
            # By the exact letters where a picture has them.
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
        """Where a name in a file of cameras leads, from the folder `base`: (path, whether a picture is there).

        The name counts as it stands; where nothing is there, backslashes are taken for Windows' separators, and of a
        path of another machine the longest end that exists below `base`.
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
    """The stems that a name may stand for: itself, and without an extension of a picture."""
    stem, suffix = os.path.splitext(name)
    return [name, stem] if suffix.lower() in SUFFIXES else [name]
