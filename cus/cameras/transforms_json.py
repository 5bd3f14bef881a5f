"""Reads and writes nerfstudio's `transforms.json` of posed photographs (OpenGL camera-to-world, OpenCV lenses).

Fields are checked as nerfstudio, instant-ngp and Blender write them: angles of instant-ngp's `x_fov` are in degrees,
all others in radians.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import focal_from_fov, opencv_c2w_from_opengl_c2w, opengl_c2w_from_opencv_c2w
from cus.cameras.lenses import MODELS, PARAMS, Lens
from cus.cameras.photos import inspect_photo
from cus.cameras.picture_files import PictureFinder
from cus.cameras.posed import FARTHEST, PosedPhotos, posed_photos
from cus.errors import InputError, first_problem, shown
from cus.files import read_json, write_json

MOST_FRAMES = 50_000
# Key in our own files with cameras far from zero: the point of their world at the origin of PLY files next to them.
ORIGIN = "local_origin"
LARGEST = 1e7  # largest focal length or principal point, in pixels
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Pixels = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Focal = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, le=LARGEST)]
Side = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=1, le=100_000, multiple_of=1)]
Radians = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, lt=math.pi)]
Degrees = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0, lt=180)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
# A lens of OpenCV's model is identified by its parameters, whatever the name.
_OPENCV = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_FISHEYE = ("SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE")


def c2w_from_rows(rows: Any, where: str) -> Tensor:
    """[4, 4] float64 from nested or flat rows of a 3x4 or 4x4 matrix. Raises InputError for anything else."""
    try:
        matrix = np.asarray(rows)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: the camera matrix has rows of different lengths") from error
    if matrix.dtype.kind not in "iuf":
        raise InputError(f"{where}: the camera matrix is not made of numbers")
    matrix = matrix.astype(np.float64)
    if matrix.shape not in ((3, 4), (4, 4), (12,), (16,)):
        raise InputError(f"{where}: expected a 4x4 camera matrix, got shape {matrix.shape}")
    if not (np.abs(matrix) <= FARTHEST).all():
        raise InputError(
            f"{where}: expected a finite 4x4 camera matrix of numbers up to {FARTHEST:g}, got {matrix.tolist()}"
        )
    if matrix.size == 12:
        matrix = np.concatenate([matrix.reshape(3, 4), [[0.0, 0.0, 0.0, 1.0]]])
    return torch.from_numpy(matrix.reshape(4, 4))


def load_transforms(path: Path | str, entries: str = "frames", *, is_path: bool = False) -> PosedPhotos:
    """Read a nerfstudio `transforms.json` (also instant-ngp's and Blender's).

    Paths in it are relative to the file, with or without an extension, and may have Windows' separators. The
    photographs need not exist if the file gives their sizes.

    Args:
        path: the file, or the folder that contains it.
        entries: name of the list to read: "frames", or in an output folder also "photos" or "frames_at_photo_size".
        is_path: whether the entries are a camera path, which may name a picture twice.

    Raises:
        InputError: an unreadable file, no frames or too many; a field that is missing, of a wrong type or out of range;
            a panorama, an implausible lens, a matrix that is not rigid; a photograph listed twice. The message names
            file, frame and field.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "transforms.json"
    shared = read_json(path)
    listed = shared.get(entries)
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path}: expected a non-empty list '{entries}'")
    if len(listed) > MOST_FRAMES:
        raise InputError(f"{path} lists {len(listed):,} frames; at most {MOST_FRAMES:,} can be read")
    frames = [read_frame(entry, shared, f"{path}, frame {index}") for index, entry in enumerate(listed)]
    wheres = [f"{path}, frame {index} ({frame.file_path[-60:]})" for index, frame in enumerate(frames)]
    c2w = torch.stack([c2w_from_rows(f.transform_matrix, where) for f, where in zip(frames, wheres, strict=True)])
    finder = PictureFinder()
    paths = [finder.below(path.parent, frame.file_path)[0] for frame in frames]
    if not is_path:
        _refuse_duplicates(paths, wheres)
    # Cameras are for pixels as stored; a run's own list of photographs is for upright ones.
    upright = [entries == "photos" if frame.upright is None else frame.upright for frame in frames]
    sizes = [f.size() or _size_of(file, turn) for f, file, turn in zip(frames, paths, upright, strict=True)]
    Ks = [frame.K(*size, where) for frame, size, where in zip(frames, sizes, wheres, strict=True)]
    masks = [None if f.mask_path is None else finder.below(path.parent, f.mask_path)[0] for f in frames]
    origin = None
    if ORIGIN in shared:
        origin = torch.from_numpy(_point(shared[ORIGIN], f"{path}: {ORIGIN}"))
    return posed_photos(
        paths,
        opencv_c2w_from_opengl_c2w(c2w),
        torch.stack(Ks),
        sizes,
        lenses=[frame.lens_model(where) for frame, where in zip(frames, wheres, strict=True)],
        masks=masks,
        upright=upright,
        origin=origin,
        wheres=wheres,
    )


def _size_of(file: Path, upright: bool) -> tuple[int, int]:
    photo = inspect_photo(file, upright)
    return photo.width, photo.height


def _refuse_duplicates(paths: Sequence[Path], wheres: Sequence[str]) -> None:
    first: dict[Path, str] = {}
    for path, where in zip(paths, wheres, strict=True):
        if path in first:
            raise InputError(f"{where}: file_path is that of an earlier frame, too ({first[path]}); keep one of them")
        first[path] = where


def _point(value: Any, where: str) -> np.ndarray:
    if not (isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)):
        raise InputError(f"{where} must be three numbers, got {str(value)[:60]}")
    point = np.array(value, np.float64)
    if not (np.abs(point) <= FARTHEST).all():
        raise InputError(f"{where} must be finite, got {value}")
    return point


def lens_entries(lens: Lens) -> dict[str, Any]:
    """The lens fields of an entry of `frames`."""
    if not lens.bends:
        return {}
    return {"camera_model": lens.model} | dict(zip(MODELS[lens.model].params, lens.params, strict=True))


def frame_entry(
    viewmat: Tensor, K: Tensor, width: int, height: int, file_path: str, origin: Tensor | None = None
) -> dict[str, Any]:
    """Make one entry of `frames`: viewmat [4, 4], K [3, 3] in pixels; `origin` [3] is added to the camera's centre."""
    c2w = torch.linalg.inv(viewmat.double())
    if origin is not None:
        c2w[:3, 3] += origin
    c2w = opengl_c2w_from_opencv_c2w(c2w)
    return {
        "file_path": file_path,
        "w": width,
        "h": height,
        "fl_x": K[0, 0].item(),
        "fl_y": K[1, 1].item(),
        "cx": K[0, 2].item(),
        "cy": K[1, 2].item(),
        "transform_matrix": c2w.tolist(),
    }


def save_transforms(
    path: Path | str,
    cameras: Cameras,
    file_paths: Sequence[str],
    extra: dict[str, Any] | None = None,
    origin: Tensor | None = None,
) -> None:
    """Write cameras and their pictures' paths as `transforms.json`, atomically.

    Args:
        path: file to write.
        cameras: N cameras of the pictures.
        file_paths: N paths of the pictures relative to the file.
        extra: additional fields of the top level.
        origin: [3] float64 origin of the cameras' world (`PosedPhotos.origin`); added to the centres, and recorded if
            it is not zero.

    Raises:
        InputError: the file cannot be written.
    """
    if len(file_paths) != len(cameras):
        raise ValueError(f"expected {len(cameras)} paths, got {len(file_paths)}")
    frames = [
        frame_entry(viewmat, K, cameras.width, cameras.height, file, origin)
        for viewmat, K, file in zip(cameras.viewmats.cpu(), cameras.Ks.cpu(), file_paths, strict=True)
    ]
    recorded = {} if origin is None or not bool(origin.any()) else {ORIGIN: origin.tolist()}
    write_json(path, {"camera_model": "OPENCV", **recorded, "frames": frames, **(extra or {})})


class Frame(BaseModel):
    """One entry of `frames`; the top level holds defaults for all entries. Other fields are ignored.

    `upright`, in our own files: whether the camera is for the photograph turned by EXIF.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    file_path: Name
    transform_matrix: Any
    mask_path: Name | None = None
    camera_model: Name | None = None
    is_fisheye: Annotated[bool, Field(strict=True)] | None = None
    upright: Annotated[bool, Field(strict=True)] | None = None
    w: Side | None = None
    h: Side | None = None
    fl_x: Focal | None = None
    fl_y: Focal | None = None
    cx: Pixels | None = None
    cy: Pixels | None = None
    camera_angle_x: Radians | None = None
    camera_angle_y: Radians | None = None
    x_fov: Degrees | None = None
    y_fov: Degrees | None = None
    lens: dict[str, Number]

    def size(self) -> tuple[int, int] | None:
        """(width, height) in pixels if both are given."""
        return None if self.w is None or self.h is None else (int(self.w), int(self.h))

    def K(self, width: int, height: int, where: str) -> Tensor:
        """[3, 3] float64 intrinsics in pixels of a picture of the given size.

        A focal length takes precedence over an angle; a single direction stands for both.

        Raises:
            InputError: neither a focal length nor an angle.
        """
        fx = _focal(self.fl_x, self.camera_angle_x, self.x_fov, width)
        fy = _focal(self.fl_y, self.camera_angle_y, self.y_fov, height)
        fx, fy = fx or fy, fy or fx
        if fx is None or fy is None:
            raise InputError(
                f"{where}: no focal length; expected fl_x, fl_y (pixels), camera_angle_x, camera_angle_y (radians) or "
                "x_fov, y_fov (degrees)"
            )
        K = torch.eye(3, dtype=torch.float64)
        K[0, 0], K[1, 1] = fx, fy
        K[0, 2] = width / 2 if self.cx is None else self.cx
        K[1, 2] = height / 2 if self.cy is None else self.cy
        return K

    def lens_model(self, where: str) -> Lens:
        """The lens described by `camera_model` or `is_fisheye` and the parameters.

        Raises:
            InputError: the lens is neither perspective nor fisheye, a parameter of the model is missing, or there are
                parameters that the model does not have.
        """
        model = self.camera_model or ("OPENCV_FISHEYE" if self.is_fisheye else "OPENCV")
        if model not in MODELS:
            raise InputError(
                f"{where}: camera_model {model[:40]} is not supported; make perspective views of the photographs first "
                f"(supported are {', '.join(MODELS)})"
            )
        if self.is_fisheye and model in (*_OPENCV, "FULL_OPENCV"):
            raise InputError(f"{where}: is_fisheye is true, but camera_model is {model}, which is none; correct one")
        given = {name: value for name, value in self.lens.items() if value}
        if model in _FISHEYE:
            return _fisheye(given, model, where)
        if model in _OPENCV:
            return _opencv(given, model, where)
        names = MODELS[model].params
        _refuse_others(given, names, model, where)
        return Lens(model, tuple(given.get(name, 0.0) for name in names))


def _focal(pixels: float | None, radians: float | None, degrees: float | None, side: int) -> float | None:
    if pixels is not None:
        return pixels
    angle = math.degrees(radians) if radians is not None else degrees
    return None if angle is None else focal_from_fov(angle, side)


def _fisheye(given: dict[str, float], model: str, where: str) -> Lens:
    """An equidistant fisheye with up to four coefficients, whatever their number in the model's name."""
    names = MODELS["OPENCV_FISHEYE"].params
    _refuse_others(given, names, model, where)
    return Lens("OPENCV_FISHEYE", tuple(given.get(name, 0.0) for name in names))


def _opencv(given: dict[str, float], model: str, where: str) -> Lens:
    names = MODELS["FULL_OPENCV"].params
    _refuse_others(given, names, model, where)
    if "k4" in given and not {"k5", "k6"} & set(given):
        raise InputError(
            f"{where}: k4 = {given['k4']:g} with the camera_model {model} is ambiguous: a fourth radial coefficient "
            "in Metashape's and nerfstudio's files, a denominator in OpenCV; write camera_model FULL_OPENCV if it is "
            "that, OPENCV_FISHEYE for a fisheye lens, else undistort the photographs first"
        )
    return Lens.from_opencv([given.get(name, 0.0) for name in names])


def _refuse_others(given: dict[str, float], names: tuple[str, ...], model: str, where: str) -> None:
    others = [name for name in given if name not in names]
    if others:
        raise InputError(
            f"{where}: the camera_model {model} has no {others[0]} (got {given[others[0]]:g}); it has "
            f"{', '.join(names) or 'no parameters'}"
        )


_SHARED = tuple(name for name in Frame.model_fields if name not in ("file_path", "transform_matrix", "mask_path"))


def read_frame(entry: Any, shared: dict[str, Any], where: str) -> Frame:
    """Check one entry of a list of frames.

    Args:
        entry: entry as parsed from JSON.
        shared: top level of the file.
        where: file and number of the entry, for messages.

    Raises:
        InputError: not an object, or a field that is missing, of a wrong type, not finite, or out of range.
    """
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with file_path and transform_matrix, got {shown(entry)}")
    missing = [name for name in ("file_path", "transform_matrix") if name not in entry]
    if missing:
        raise InputError(f"{where}: expected file_path and transform_matrix, got {', '.join(sorted(entry)[:12])}")
    values = {name: shared[name] for name in _SHARED if name in shared}
    values |= {name: entry[name] for name in Frame.model_fields if name in entry}
    lens = {name: entry.get(name, shared.get(name)) for name in PARAMS}
    values["lens"] = {name: value for name, value in lens.items() if value is not None}
    try:
        return Frame.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"{where} ({shown(entry['file_path'])}): {first_problem(error).removeprefix('lens.')}"
        ) from error
