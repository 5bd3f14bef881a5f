"""Reads and writes nerfstudio's `transforms.json` of posed photographs (OpenGL camera-to-world, OpenCV lenses)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import opencv_c2w_from_opengl_c2w, opengl_c2w_from_opencv_c2w
from cus.cameras.lenses import MODELS, Lens
from cus.cameras.photos import inspect_photo
from cus.cameras.picture_files import PictureFinder
from cus.cameras.posed import FARTHEST, PosedPhotos, posed_photos
from cus.cameras.transforms_fields import read_frame
from cus.errors import InputError
from cus.files import read_json, write_json

MOST_FRAMES = 50_000
# Key in our own files with cameras far from zero: the point of their world at the origin of PLY files next to them.
ORIGIN = "local_origin"


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
