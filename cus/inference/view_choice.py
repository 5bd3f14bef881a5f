"""Chooses the photographs of a run: files by name, or a selection from a folder, a pattern or a video."""

import filecmp
import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from cus.cameras.photos import Photo
from cus.cameras.picture_kinds import RAW_SUFFIXES, SUFFIXES, is_video, raw_message
from cus.cameras.pictures import LONGEST_SIDE, grey_preview, sharpness
from cus.errors import InputError
from cus.inference.overlap import overlapping
from cus.inference.video_frames import Frame, choose_frames

DEFAULT_MOST = 8
FRAMES_FOLDER = "photos"
# Maximum number of pictures examined in each part of a folder.
_LOOKED_AT = 6


@dataclass(frozen=True)
class Views:
    """The photographs of a run.

    Attributes:
        paths: files in the order of the arguments; those of video frames are still to be written.
        frames: frames of videos, by the paths to which they will be written.
        sources: files and videos that they come from.
        notes: what was chosen and why.
    """

    paths: tuple[Path, ...]
    frames: dict[Path, Frame]
    sources: tuple[Path, ...]
    notes: tuple[str, ...]

    def photo(self, path: Path) -> Photo | None:
        """The header of a video's frame once written, or None for any other file."""
        frame = self.frames.get(path)
        return None if frame is None else Photo(path, frame.pixels.shape[1], frame.pixels.shape[0], None)


@dataclass(frozen=True)
class _Source:
    """One argument: a file, a video, or the pictures of a folder or a pattern."""

    path: Path
    pictures: tuple[Path, ...] = ()
    start: bytes = b""

    @property
    def is_file(self) -> bool:
        return not self.pictures and not self.start


def choose_views(views: Sequence[Path], most: int | None, out: Path) -> Views:
    """The photographs specified by arguments.

    A file stands for itself. A folder, a pattern (`'shots/*.jpg'`) or a video is divided into equal parts in the order
    of names or time, and the sharpest picture of each part is taken; if neighbours would overlap too little to find
    their cameras, a shorter stretch around the middle is divided (`overlapping`).

    Args:
        views: files, folders, patterns and videos.
        most: maximum number of photographs; None: 8 if a choice is made, else all.
        out: folder of the run, in which frames of videos will be saved.

    Raises:
        InputError: nothing there, no picture in it, only one left of several, or the same one twice.
    """
    sources = [_source(view, alone=len(views) == 1) for view in views]
    _check_repeated([source.path for source in sources])
    notes: list[str] = []
    if all(source.is_file for source in sources):
        paths = _without_copies([source.path for source in sources], (), notes)
        if most is not None and len(paths) > most:
            paths = _chosen(paths, most, "the photographs that are named", notes)
        return _checked(Views(tuple(paths), {}, tuple(paths), tuple(notes)), sources, most)
    named = [source.path for source in sources if source.is_file]
    shares = _shares((most or DEFAULT_MOST) - len(named), len(sources) - len(named))
    paths, frames, used = [], {}, []
    for source in sources:
        if source.is_file:
            paths.append(source.path)
        elif source.pictures:
            left = [p for p in source.pictures if not any(p.samefile(other) for other in named)]
            paths += _chosen(left, shares.pop(0), str(source.path), notes)
        else:
            found = _video_frames(source, shares.pop(0), out, notes)
            frames |= found
            paths += found
            used.append(source.path)
    paths = _without_copies(paths, frames, notes)
    used += [path for path in paths if path not in frames]
    return _checked(Views(tuple(paths), frames, tuple(used), tuple(notes)), sources, most)


def _checked(views: Views, sources: Sequence[_Source], most: int | None) -> Views:
    """Refuse a single photograph if more were intended: its depth would be guessed instead of measured."""
    meant_one = most == 1 or sum(1 if source.is_file else len(source.pictures) or 2 for source in sources) == 1
    if not views.paths or (len(views.paths) == 1 and not meant_one):
        why = "".join(f" ({note})" for note in views.notes)
        raise InputError(
            f"two photographs or more that differ are needed to measure depth, got {len(views.paths)}: --views a.jpg "
            f"b.jpg, a folder or a video{why}; to make do with one, give it alone or with --max-views 1"
        )
    return views


def _source(view: Path, alone: bool) -> _Source:
    if os.path.isdir(view):
        return _Source(view, _pictures_in(view))
    if not os.path.lexists(view) and glob.has_magic(str(view)):
        found = sorted((Path(p) for p in glob.glob(str(view), recursive=True) if os.path.isfile(p)), key=natural_key)
        if not found:
            raise InputError(f"no file fits the pattern {view}; give one like 'photos/*.jpg', in quotes")
        return _Source(view, tuple(found))
    if os.path.isfile(view):
        try:
            with view.open("rb") as file:
                start = file.read(64)
        except OSError as error:
            raise InputError(f"cannot read {view}: {error.strerror}; change its permissions or copy it") from error
        if is_video(start) or (alone and start.startswith(b"GIF8")):
            return _Source(view, start=start)
    return _Source(view)


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts numbers in names by value: `2.jpg` before `10.jpg`."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in parts]


def _pictures_in(folder: Path) -> tuple[Path, ...]:
    try:
        entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    found = sorted((p for p in entries if p.suffix.lower() in SUFFIXES and os.path.isfile(p)), key=natural_key)
    if found:
        return tuple(found)
    raw = [p for p in entries if p.suffix.lower() in RAW_SUFFIXES]
    if raw:
        raise InputError(raw_message(raw[0]))
    below = [p.name for p in entries if os.path.isdir(p)]
    hint = f"; it has the folders {', '.join(sorted(below)[:4])}: name one of them" if below else ""
    raise InputError(f"{folder} has no pictures (JPEG, PNG, TIFF, WebP, HEIC){hint}")


def _shares(count: int, sources: int) -> list[int]:
    """Divide `count` photographs among sources, at least one each."""
    return [max(1, count // sources + (index < count % sources)) for index in range(sources)]


def _chosen(pictures: Sequence[Path], count: int, name: str, notes: list[str]) -> list[Path]:
    """The sharpest readable picture of each of `count` equal parts; all readable ones if there are no more."""
    count = min(count, len(pictures))
    damaged: dict[Path, str] = {}

    def choose(low: float, high: float) -> list[Path]:
        return _sharpest(pictures[round(low * len(pictures)) : round(high * len(pictures))], count, damaged)

    chosen, part = (choose(0, 1), 1.0) if count == len(pictures) else overlapping(choose, _grey)
    if not chosen:
        first = next(iter(damaged.values()))
        raise InputError(f"{name}: none of its {len(pictures)} pictures could be read; the first: {first}")
    if count < len(pictures):
        names = ", ".join(path.name for path in chosen)
        narrowed = "" if part == 1 else f" of the middle {100 * part:.0f} %, as pictures farther apart share too little"
        notes.append(
            f"{name}: of {len(pictures)} pictures in the order of their names, the sharpest of each of {count} equal "
            f"parts{narrowed} is used: {names}; --max-views changes how many"
        )
    if damaged:
        notes.append(
            f"{name}: {len(damaged)} pictures could not be read and are left out; the first: "
            f"{next(iter(damaged.values()))}"
        )
    return chosen


def _sharpest(pictures: Sequence[Path], count: int, damaged: dict[Path, str]) -> list[Path]:
    """The sharpest of each of `count` equal parts, or none if there are fewer; `damaged` collects unreadable files."""
    if len(pictures) < count:
        return []
    edges = [round(len(pictures) * i / count) for i in range(count + 1)]
    chosen = []
    for first, last in pairwise(edges):
        looked_at = min(_LOOKED_AT, last - first)
        part = [pictures[first + (last - first) * (2 * i + 1) // (2 * looked_at)] for i in range(looked_at)]
        scores = {path: score for path in part if (score := _score(path, damaged)) is not None}
        chosen += [max(scores, key=lambda path: scores[path])] if scores else []
    return chosen


def _grey(path: Path) -> np.ndarray:
    return grey_preview(path, LONGEST_SIDE)


def _score(path: Path, damaged: dict[Path, str]) -> float | None:
    try:
        return sharpness(_grey(path))
    except InputError as error:
        damaged[path] = str(error)
        return None


def _video_frames(source: _Source, count: int, out: Path, notes: list[str]) -> dict[Path, Frame]:
    found, said = choose_frames(source.path, source.start, count)
    notes += said
    folder = out / FRAMES_FOLDER
    times = ", ".join(f"{frame.seconds:.2f} s" for frame in found)
    notes.append(
        f"{source.path}: of each of {count} equal parts of its time the sharpest frame is used: {times}; they are in "
        f"{folder}, and --max-views changes how many"
    )
    return {folder / f"{source.path.stem}_{round(1000 * frame.seconds):07d}ms.png": frame for frame in found}


def _check_repeated(views: Sequence[Path]) -> None:
    repeated = sorted({str(view) for view in views if list(views).count(view) > 1})
    if repeated:
        raise InputError(f"the same photograph is given twice: {repeated[0]}; give different views")


def _without_copies(paths: list[Path], frames: Iterable[Path], notes: list[str]) -> list[Path]:
    copies = _copies([path for path in paths if path not in set(frames)])
    notes += [f"{second} is left out: it is the same picture as {first}, byte for byte" for first, second in copies]
    return [path for path in paths if path not in {second for _, second in copies}]


def _copies(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files with the same content, the earlier first; unreadable files are ignored here."""
    sizes: dict[int, list[Path]] = {}
    for path in paths:
        if os.path.isfile(path):
            sizes.setdefault(os.path.getsize(path), []).append(path)
    found = []
    for alike in sizes.values():
        for index, second in enumerate(alike):
            first = next((other for other in alike[:index] if _same_content(other, second)), None)
            found += [] if first is None else [(first, second)]
    return found


def _same_content(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False
