"""`transforms.json` in and out: nerfstudio's file of posed photographs (OpenGL camera-to-world, OpenCV lens model)."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import (
    focal_from_fov,
    opencv_c2w_from_opengl_c2w,
    opengl_c2w_from_opencv_c2w,
    viewmats_from_c2w,
)
from cus.cameras.photos import PhotoSet, cameras_of, inspect_photo, to_batch, undistort
from cus.errors import InputError
from cus.files import write_json

DISTORTION = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")


@dataclass(frozen=True)
class PosedPhotos:
    """Photographs on disk with their cameras.

    Attributes:
        paths: the files, V of them.
        viewmats: [V, 4, 4] world-to-camera, OpenCV.
        Ks: [V, 3, 3] in pixels of each file.
        sizes: V pairs (width, height) in pixels.
        distortion: [V, 8] OpenCV coefficients k1 k2 p1 p2 k3 k4 k5 k6, zeros where there is none.
    """

    paths: tuple[Path, ...]
    viewmats: Tensor
    Ks: Tensor
    sizes: tuple[tuple[int, int], ...]
    distortion: Tensor

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Sequence[int]) -> "PosedPhotos":
        """The photographs at `indices`, in that order."""
        chosen = list(indices)
        return PosedPhotos(
            tuple(self.paths[i] for i in chosen),
            self.viewmats[chosen],
            self.Ks[chosen],
            tuple(self.sizes[i] for i in chosen),
            self.distortion[chosen],
        )

    def match(self, views: Sequence[Path | str]) -> "PosedPhotos":
        """The cameras of the photographs `views`, found by full path, else by a file name that only one entry has.

        Raises:
            InputError: a photograph that the file does not list, or whose name fits several entries.
        """
        indices = []
        for view in map(Path, views):
            same = [i for i, p in enumerate(self.paths) if p.resolve() == view.resolve()]
            same = same or [i for i, p in enumerate(self.paths) if p.name == view.name]
            if len(same) != 1:
                known = ", ".join(p.name for p in self.paths[:6]) + (", ..." if len(self.paths) > 6 else "")
                problem = "no camera" if not same else "more than one camera"
                raise InputError(f"the cameras file has {problem} for {view}; it lists {known}")
            indices.append(same[0])
        chosen = self.select(indices)
        return PosedPhotos(tuple(map(Path, views)), chosen.viewmats, chosen.Ks, chosen.sizes, chosen.distortion)

    def read(self, width: int, height: int | None = None) -> tuple[PhotoSet, Cameras]:
        """Undistorted photographs in one batch of width x height pixels, and their pinhole cameras.

        Pictures of another aspect ratio are padded at the right and the bottom (`PhotoSet.valid` says where).

        Args:
            width: pixels.
            height: pixels; by default what keeps the first photograph's aspect.

        Raises:
            InputError: a photograph is missing, damaged, or not of the size that the file gives.
        """
        if height is None:
            height = max(1, round(width * self.sizes[0][1] / self.sizes[0][0]))
        pictures, masks = [], []
        for path, size, K, distortion in zip(self.paths, self.sizes, self.Ks, self.distortion, strict=True):
            photo = inspect_photo(path)
            if (photo.width, photo.height) != size:
                raise InputError(
                    f"{path} is {photo.width}x{photo.height} pixels, but its camera is for {size[0]}x{size[1]}; "
                    "give the photograph that the cameras were made for"
                )
            picture, mask = undistort(photo.pixels(), K.numpy(), distortion.numpy())
            pictures.append(picture)
            masks.append(mask)
        batch = to_batch(pictures, masks, width, height)
        return batch, cameras_of(self.viewmats, self.Ks, batch)

    def load(self, width: int, height: int | None = None) -> tuple[Tensor, Cameras]:
        """As `read`, without the masks: (images [V, 3, H, W] in [0, 1], Cameras)."""
        photos, cameras = self.read(width, height)
        return photos.images, cameras


def _number(frame: dict[str, Any], shared: dict[str, Any], key: str) -> float | None:
    value = frame.get(key, shared.get(key))
    return None if value is None else float(value)


def _intrinsics(frame: dict[str, Any], shared: dict[str, Any], width: int, height: int, where: str) -> Tensor:
    fx = _number(frame, shared, "fl_x")
    if fx is None:
        angle = _number(frame, shared, "camera_angle_x")
        if angle is None:
            raise InputError(f"{where}: no focal length; expected fl_x (pixels) or camera_angle_x (radians)")
        fx = focal_from_fov(math.degrees(angle), width)
    fy = _number(frame, shared, "fl_y") or fx
    cx, cy = _number(frame, shared, "cx"), _number(frame, shared, "cy")
    if not (math.isfinite(fx) and math.isfinite(fy) and fx > 0 and fy > 0):
        raise InputError(f"{where}: focal lengths must be positive numbers of pixels, got {fx} and {fy}")
    K = torch.eye(3)
    K[0, 0], K[1, 1] = fx, fy
    K[0, 2] = width / 2 if cx is None else cx
    K[1, 2] = height / 2 if cy is None else cy
    return K


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError where there is none."""
    path = Path(path)
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got a {type(content).__name__}")
    return content


def c2w_from_rows(rows: Any, where: str) -> Tensor:
    """[4, 4] float64 from nested or flat rows of a 3x4 or 4x4 matrix. Raises InputError for anything else."""
    try:
        matrix = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the camera matrix is not made of numbers") from error
    if matrix.size == 12:
        matrix = np.concatenate([matrix.reshape(3, 4), [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.size != 16 or not np.isfinite(matrix).all():
        raise InputError(f"{where}: expected a finite 4x4 camera matrix, got shape {matrix.shape}")
    return torch.from_numpy(matrix.reshape(4, 4))


def load_transforms(path: Path | str, entries: str = "frames") -> PosedPhotos:
    """Read a nerfstudio `transforms.json`; paths in it are relative to the file, with or without an extension.

    Args:
        path: the file, or the folder that holds it.
        entries: the list to read: "frames", or what an output folder has beside it: "photos", "frames_at_photo_size".

    Raises:
        InputError: unreadable file, no frames, missing fields, a fisheye lens, or matrices that are not rigid.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "transforms.json"
    shared = read_json(path)
    frames = shared.get(entries)
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path}: expected a non-empty list '{entries}'")
    model = shared.get("camera_model", "OPENCV")
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV"):
        raise InputError(
            f"{path}: camera model {model} is not supported; undistort the photographs first (OPENCV works)"
        )
    paths, c2ws, Ks, sizes, distortion = [], [], [], [], []
    for index, frame in enumerate(frames):
        where = f"{path}, frame {index}"
        if "file_path" not in frame or "transform_matrix" not in frame:
            raise InputError(f"{where}: expected file_path and transform_matrix, got {sorted(frame)}")
        file = path.parent / frame["file_path"]
        if not file.suffix and not file.exists():
            file = next((c for c in sorted(file.parent.glob(file.name + ".*")) if c.is_file()), file)
        width, height = (_number(frame, shared, key) for key in ("w", "h"))
        if width is None or height is None:
            photo = inspect_photo(file)
            width, height = photo.width, photo.height
        paths.append(file)
        sizes.append((int(width), int(height)))
        c2ws.append(c2w_from_rows(frame["transform_matrix"], where))
        Ks.append(_intrinsics(frame, shared, sizes[-1][0], sizes[-1][1], where))
        distortion.append([_number(frame, shared, key) or 0.0 for key in DISTORTION])
    try:
        viewmats = viewmats_from_c2w(opencv_c2w_from_opengl_c2w(torch.stack(c2ws)))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return PosedPhotos(
        tuple(paths), viewmats, torch.stack(Ks), tuple(sizes), torch.tensor(distortion, dtype=torch.float64)
    )


def frame_entry(viewmat: Tensor, K: Tensor, width: int, height: int, file_path: str) -> dict[str, Any]:
    """One entry of `frames`: viewmat [4, 4], K [3, 3] in pixels."""
    c2w = opengl_c2w_from_opencv_c2w(torch.linalg.inv(viewmat.double()))
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
    path: Path | str, cameras: Cameras, file_paths: Sequence[str], extra: dict[str, Any] | None = None
) -> None:
    """Write cameras and their pictures' paths (relative to the file) as `transforms.json`; `extra` joins the top level.

    The file replaces an earlier one only when it is complete. Raises InputError where it cannot be written.
    """
    if len(file_paths) != len(cameras):
        raise ValueError(f"expected {len(cameras)} paths, got {len(file_paths)}")
    frames = [
        frame_entry(viewmat, K, cameras.width, cameras.height, file)
        for viewmat, K, file in zip(cameras.viewmats.cpu(), cameras.Ks.cpu(), file_paths, strict=True)
    ]
    write_json(path, {"camera_model": "OPENCV", "frames": frames, **(extra or {})})
