"""COLMAP's files of cameras and images, binary and text; every count is checked against the file's size.

COLMAP's own reader trusts headers: a damaged one can make it request all memory or crash the process. Points, rigs and
frames are not read; images hold the complete pose for programs without rigs.
"""

import math
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cus.cameras.lenses import MODELS, Lens
from cus.errors import InputError

_MODEL_NAMES = {model.id: name for name, model in MODELS.items()}
_LONGEST_NAME = 4096
_LONGEST_LINE = 2**26  # maximum length of a line of points in text, in bytes


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics: focal lengths (x, y) and principal point (x, y) in pixels of a width x height picture, and a lens."""

    width: int
    height: int
    focal: tuple[float, float]
    center: tuple[float, float]
    lens: Lens


@dataclass(frozen=True)
class ColmapImage:
    """A registered photograph: name relative to the folder of photographs, unit quaternion wxyz, translation."""

    name: str
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    camera: int


def model_files(folder: Path) -> tuple[Path, Path] | None:
    """The files (cameras, images) of the model in a folder, binary before text; None if there is no model."""
    for suffix in (".bin", ".txt"):
        files = folder / f"cameras{suffix}", folder / f"images{suffix}"
        if all(os.path.isfile(file) for file in files):
            return files
    return None


def image_count(folder: Path) -> int:
    """Number of photographs that a model claims to have; 0 if it cannot be read."""
    files = model_files(folder)
    if files is None:
        return 0
    try:
        if files[1].suffix == ".bin":
            with files[1].open("rb") as file:
                return struct.unpack("<Q", file.read(8))[0]
        return sum(1 for _ in _text_images(files[1]))
    except (OSError, struct.error, InputError):
        return 0


def read_model(folder: Path) -> tuple[dict[int, ColmapCamera], list[ColmapImage]]:
    """Cameras by their id, and images ordered by name.

    Raises:
        InputError: no model in the folder, a file that is truncated, damaged or not a model, a camera of an unknown or
            invalid kind, or an image without a usable pose; the message names file and entry.
    """
    files = model_files(folder)
    if files is None:
        raise InputError(f"no COLMAP model in {folder} (expected cameras and images, .bin or .txt)")
    read_cameras, read_images = (
        (_binary_cameras, _binary_images) if files[0].suffix == ".bin" else (_text_cameras, _text_images)
    )
    cameras: dict[int, ColmapCamera] = {}
    for number, name, width, height, params in read_cameras(files[0]):
        cameras[number] = _camera(f"{files[0]}, camera {number}", name, width, height, params)
    images = []
    for image in read_images(files[1]):
        images.append(_checked(image, cameras, f"{files[1]}, image {image.name[-60:]}"))
    if not images:
        raise InputError(f"the COLMAP model in {folder} has no registered image")
    return cameras, sorted(images, key=lambda image: image.name)


_RawCamera = tuple[int, str, int, int, tuple[float, ...]]


def _camera(where: str, model: str, width: int, height: int, params: tuple[float, ...]) -> ColmapCamera:
    if model not in MODELS:
        raise InputError(
            f"{where}: the camera model {model[:40]} is not supported; run COLMAP's image_undistorter first (supported "
            f"are {', '.join(MODELS)})"
        )
    focals = MODELS[model].focals
    if len(params) != focals + 2 + len(MODELS[model].params):
        raise InputError(f"{where}: {model} has {focals + 2 + len(MODELS[model].params)} parameters, got {len(params)}")
    if not all(map(math.isfinite, params)) or min(params[:focals]) <= 0 or max(map(abs, params[: focals + 2])) > 1e7:
        raise InputError(
            f"{where}: parameters must be finite numbers, focal lengths positive numbers of pixels; got "
            f"{', '.join(f'{value:g}' for value in params)}"
        )
    if not (1 <= width <= 100_000 and 1 <= height <= 100_000):
        raise InputError(f"{where}: a picture of {width}x{height} pixels cannot be")
    focal = params[0], params[focals - 1]
    return ColmapCamera(width, height, focal, (params[focals], params[focals + 1]), Lens(model, params[focals + 2 :]))


def _checked(image: ColmapImage, cameras: dict[int, ColmapCamera], where: str) -> ColmapImage:
    norm = math.hypot(*image.quaternion)
    if not all(map(math.isfinite, image.translation)) or not math.isfinite(norm) or norm < 1e-6:
        raise InputError(
            f"{where}: expected a rotation (quaternion that is not 0) and a translation of finite numbers, got "
            f"{image.quaternion} and {image.translation}"
        )
    if image.camera not in cameras:
        raise InputError(f"{where}: its camera {image.camera} is not among the model's {len(cameras)}")
    if not image.name or "\0" in image.name:
        raise InputError(f"{where}: expected a file name, got {image.name[:60]!r}")
    return ColmapImage(image.name, tuple(q / norm for q in image.quaternion), image.translation, image.camera)


class _Binary:
    """A binary file that checks every read against the remaining size."""

    def __init__(self, path: Path, file: BinaryIO, least: int) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{path} is no regular file")
        (self.count,) = self.read("<Q")
        self.refuse_more(self.count * least, f"{self.count:,} entries")

    def refuse_more(self, needed: int, what: str) -> None:
        left = self.size - self.file.tell()
        if needed > left:
            raise InputError(
                f"no COLMAP model in {self.path.parent}: {self.path.name} is cut or damaged ({what} need at least "
                f"{needed:,} bytes, {left:,} are left of {self.size:,})"
            )

    def read(self, layout: str) -> tuple:
        data = self.file.read(struct.calcsize(layout))
        if len(data) < struct.calcsize(layout):
            raise InputError(f"no COLMAP model in {self.path.parent}: {self.path.name} ends in the middle of an entry")
        return struct.unpack(layout, data)

    def name(self) -> str:
        start = self.file.tell()
        data = self.file.read(_LONGEST_NAME)
        end = data.find(b"\0")
        if end < 0:
            raise InputError(f"no COLMAP model in {self.path.parent}: {self.path.name} holds a name without an end")
        self.file.seek(start + end + 1)
        return os.fsdecode(data[:end])

    def done(self) -> None:
        left = self.size - self.file.tell()
        if left:
            raise InputError(
                f"no COLMAP model in {self.path.parent}: {self.path.name} has {left:,} bytes after its {self.count:,} "
                "entries; it is damaged or of another version"
            )


def _binary_cameras(path: Path) -> Iterator[_RawCamera]:
    try:
        with path.open("rb") as file:
            data = _Binary(path, file, 24)
            for _ in range(data.count):
                number, model, width, height = data.read("<IiQQ")
                name = _MODEL_NAMES.get(model, f"number {model}")
                count = MODELS[name].focals + 2 + len(MODELS[name].params) if name in MODELS else 0
                yield number, name, width, height, data.read(f"<{count}d")
            data.done()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _binary_images(path: Path) -> Iterator[ColmapImage]:
    try:
        with path.open("rb") as file:
            data = _Binary(path, file, 73)
            for _ in range(data.count):
                _, *pose, camera = data.read("<I7dI")
                name = data.name()
                (points,) = data.read("<Q")
                data.refuse_more(24 * points, f"{points:,} points of {name[-60:]}")
                file.seek(24 * points, os.SEEK_CUR)
                yield ColmapImage(name, tuple(pose[:4]), tuple(pose[4:]), camera)
            data.done()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a text file."""
    try:
        if not path.is_file():
            raise InputError(f"{path} is no regular file")
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE:
                    raise InputError(f"{path}, line {number}: too long for a COLMAP model")
                yield number, line.strip()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"no COLMAP model in {path.parent}: {path.name} is no text ({error})") from error


def _text_cameras(path: Path) -> Iterator[_RawCamera]:
    for number, line in _lines(path):
        fields = line.split()
        if not fields or line.startswith("#"):
            continue
        try:
            camera, width, height = int(fields[0]), int(fields[2]), int(fields[3])
            params = tuple(float(field) for field in fields[4:])
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path}, line {number}: expected ID MODEL WIDTH HEIGHT PARAMS, got {line[:60]!r}"
            ) from error
        yield camera, fields[1], width, height, params


def _text_images(path: Path) -> Iterator[ColmapImage]:
    lines = _lines(path)
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        fields = line.split(maxsplit=9)
        try:
            values = tuple(float(field) for field in fields[1:8])
            camera, name = int(fields[8]), fields[9]
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path}, line {number}: expected ID QW QX QY QZ TX TY TZ CAMERA NAME, got {line[:60]!r}"
            ) from error
        yield ColmapImage(name, values[:4], values[4:], camera)
        next(lines, None)  # skip the image's points, which may be an empty line
