"""RealEstate10K and ACID: camera text files, and folders of frames named by their timestamps.

A file is one sequence. Its first line is the video's URL; every other line is a frame of 19 numbers: timestamp in
microseconds, fx fy cx cy as fractions of the frame's width and height, two zeros, and the 3x4 world-to-camera matrix
row by row, in OpenCV's axes (Zhou et al. 2018; Liu et al. 2021 use the same). The zeros are not read, because other
programs write a size there. Frames are not part of the data sets: they are extracted from the videos and stored as
`<timestamp>.png` or `.jpg`.
"""

from pathlib import Path

import numpy as np
import torch

from cus.cameras import PosedPhotos
from cus.cameras.photos import inspect_photo
from cus.cameras.picture_files import SUFFIXES
from cus.cameras.posed import posed_photos
from cus.errors import InputError

FIELDS = 19


def is_camera_file(path: Path) -> bool:
    """Whether a file looks like a sequence: a URL, then a line of 19 fields."""
    if path.suffix != ".txt" or not path.is_file():
        return False
    try:
        with path.open() as file:
            first, second = file.readline(), file.readline()
    except (OSError, UnicodeDecodeError):
        return False
    return "://" in first and len(second.split()) == FIELDS


def frames_folder(cameras: Path) -> Path | None:
    """The folder of a camera file's frames in the usual layouts; None if none of the folders exists.

    With the file at ROOT/SPLIT/ID.txt: ROOT/SPLIT/ID, ROOT/SPLIT/frames/ID, ROOT/frames/ID, ROOT/frames/SPLIT/ID, and
    next to ROOT: frames/SPLIT/ID and dataset/SPLIT/ID.
    """
    split, name = cameras.parent, cameras.stem
    root, above = split.parent, split.parent.parent
    candidates = (
        split / name,
        split / "frames" / name,
        root / "frames" / name,
        root / "frames" / split.name / name,
        above / "frames" / split.name / name,
        above / "dataset" / split.name / name,
    )
    return next((folder for folder in candidates if folder.is_dir()), None)


def load_realestate(cameras: Path | str, frames: Path | str | None = None) -> PosedPhotos:
    """Read one sequence, with frames in the order of the file.

    Args:
        cameras: text file of the cameras.
        frames: folder of the frames; by default found by `frames_folder`.

    Raises:
        InputError: a file of another format, fewer than two frames on disk, unreadable frames, or matrices that are not
            rigid.
    """
    cameras = Path(cameras)
    stamps, values = _read(cameras)
    folder = frames_folder(cameras) if frames is None else Path(frames)
    if folder is None or not folder.is_dir():
        raise InputError(
            f"there are no frames for {cameras}: expected a folder {cameras.with_suffix('')} of <timestamp>.png, taken "
            "from the video"
        )
    folder = next((f for f in (folder, folder / "images") if _frame(f, stamps[0]) is not None), folder)
    paths = [_frame(folder, stamp) for stamp in stamps]
    there = [index for index, path in enumerate(paths) if path is not None]
    missing = [stamp for stamp, path in zip(stamps, paths, strict=True) if path is None]
    notes = []
    if missing:
        counted = f"{len(missing)} of {len(stamps)} frames of {cameras} are missing in {folder}"
        if len(there) < 2:
            raise InputError(f"{counted}, the first is {missing[0]}.png; two are needed: extract them from the video")
        notes = [f"{counted} and left out, e.g. {missing[0]}.png"]
    stamps, values = [stamps[index] for index in there], values[there]
    found = tuple(path for path in paths if path is not None)
    photos = [inspect_photo(path, upright=False) for path in found]
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(found), 1, 1)
    w2c[:, :3] = torch.from_numpy(values[:, 6:].reshape(-1, 3, 4))
    try:
        c2w = torch.linalg.inv(w2c)
    except RuntimeError as error:
        raise InputError(f"{cameras}: {error}") from error
    sizes = tuple((photo.width, photo.height) for photo in photos)
    extent = torch.tensor(sizes, dtype=torch.float64)
    fractions = torch.from_numpy(values[:, :4])
    Ks = torch.eye(3, dtype=torch.float64).repeat(len(found), 1, 1)
    Ks[:, 0, 0], Ks[:, 1, 1] = (fractions[:, :2] * extent).unbind(dim=1)
    Ks[:, 0, 2], Ks[:, 1, 2] = (fractions[:, 2:] * extent).unbind(dim=1)
    return posed_photos(found, c2w, Ks, sizes, wheres=[f"{cameras}, frame {stamp}" for stamp in stamps], notes=notes)


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    """Timestamps as text, and [N, 18] float64 of the other fields."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    stamps, rows = [], []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split()
        if not fields:
            continue
        try:
            values = [float(field) for field in fields[1:]]
            int(fields[0])
        except ValueError as error:
            raise InputError(f"{path}, line {number}: expected numbers, got {line[:60]!r}") from error
        if len(fields) != FIELDS or not np.isfinite(values).all() or min(values[:2]) <= 0:
            raise InputError(
                f"{path}, line {number}: expected a timestamp, fx fy cx cy (fractions, fx and fy positive), two zeros "
                f"and a 3x4 matrix, {FIELDS} finite numbers; got {len(fields)} fields: {line[:60]!r}"
            )
        stamps.append(fields[0])
        rows.append(values)
    if not rows:
        raise InputError(
            f"{path} has no frames: expected the video's address and then a line of {FIELDS} numbers a frame"
        )
    if len(set(stamps)) != len(stamps):
        raise InputError(f"{path} lists a timestamp twice")
    return stamps, np.array(rows)


def _frame(folder: Path, stamp: str) -> Path | None:
    return next((p for suffix in SUFFIXES if (p := folder / (stamp + suffix)).is_file()), None)
