"""Camera paths from files: `transforms.json`, and nerfstudio's camera paths with their frames or only keyframes."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from cus.cameras.cameras import Cameras
from cus.cameras.conversions import focal_from_fov, opencv_c2w_from_opengl_c2w, viewmats_from_c2w
from cus.cameras.trajectories import interpolate
from cus.cameras.transforms_json import c2w_from_rows, load_transforms
from cus.errors import InputError, first_problem, shown
from cus.files import read_json

# Maximum number of frames of a run; from longer files this many can be chosen.
MOST_CAMERAS = 1000
_SAME_ASPECT = 0.02
_Degrees = Annotated[float, Field(strict=True, gt=0, lt=180, allow_inf_nan=False)]
_Aspect = Annotated[float, Field(strict=True, ge=1e-3, le=1e3, allow_inf_nan=False)]
_Side = Annotated[float, Field(strict=True, ge=1, le=1e6, allow_inf_nan=False)]


class _Entry(BaseModel):
    """A frame or keyframe: nerfstudio calls a frame's matrix camera_to_world, and a keyframe's matrix."""

    model_config = ConfigDict(extra="ignore")

    matrix: Any
    fov: _Degrees
    aspect: _Aspect | None = None
    camera_type: str = "perspective"


class _Path(BaseModel):
    """The top level of the file; other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    camera_type: str = "perspective"
    render_width: _Side | None = None
    render_height: _Side | None = None
    camera_path: list[Any] = []
    keyframes: list[Any] = []


_Model = TypeVar("_Model", _Entry, _Path)


@dataclass(frozen=True)
class CameraPath:
    """A camera path read from a file.

    Attributes:
        cameras: cameras in the order of the file, with square pixels.
        notes: messages for the user on how it was read, one line each.
    """

    cameras: Cameras
    notes: tuple[str, ...] = ()


def read_camera_path(
    path: Path | str, width: int, height: int, frames: int | None = None, origin: Tensor | None = None
) -> CameraPath:
    """Read the cameras of a `transforms.json` (its pictures need not exist) or of a nerfstudio camera path.

    Pixels stay square. If the pictures have another aspect ratio than the file, everything that the path shows stays in
    view, and the pictures show more at the sides or above and below.

    Args:
        path: file to read. Its poses are in the scene's world: that of the cameras file if one is given, else the first
            photograph's camera.
        width: picture width in pixels.
        height: picture height in pixels.
        frames: number of cameras to choose, evenly spaced from the first to the last, or to interpolate between the
            keyframes; None takes all cameras of the file.
        origin: [3] float64, point of the file's world at the origin of the scene's world (`PosedPhotos.origin`).

    Raises:
        InputError: a file of another kind, an empty one, or one with more than MOST_CAMERAS without `frames`; a field
            that is missing, of a wrong type or out of range; a matrix that is not rigid; a camera that is not
            perspective.
    """
    path, zero = Path(path), torch.zeros(3, dtype=torch.float64)
    content = read_json(path)
    if "camera_path" in content or "keyframes" in content:
        return _nerfstudio_path(content, path, width, height, frames)
    listed = content.get("frames")
    if not isinstance(listed, list):
        raise InputError(f"{path} is no camera path: expected a list 'frames' (transforms.json) or 'camera_path'")
    chosen = _chosen(len(listed), path, frames)
    posed = load_transforms(path, is_path=True).select(chosen).moved(zero if origin is None else origin)
    sizes = torch.tensor(posed.sizes, dtype=torch.float64)
    scales = torch.minimum(width / sizes[:, 0], height / sizes[:, 1])
    Ks = posed.Ks.double()
    Ks[:, :2] *= scales[:, None, None]
    Ks[:, :2, 2] += (torch.tensor([width, height]) - scales[:, None] * sizes) / 2
    cameras = Cameras(posed.viewmats, Ks.float(), width, height)
    return CameraPath(cameras, _aspect_note(path, [w / h for w, h in posed.sizes], width, height))


def _chosen(count: int, path: Path, frames: int | None) -> list[int]:
    """Indices of the cameras to take."""
    if count == 0:
        raise InputError(f"{path}: the path is empty; add cameras to it, or render its keyframes into frames")
    if frames is None or frames >= count:
        if count > MOST_CAMERAS:
            raise InputError(
                f"{path} has {count:,} cameras; a path has at most {MOST_CAMERAS:,}: --frames N takes N of "
                "them, spread evenly"
            )
        return list(range(count))
    return np.linspace(0, count - 1, frames).round().astype(int).tolist() if frames > 1 else [count - 1]


def _nerfstudio_path(content: dict[str, Any], file: Path, width: int, height: int, frames: int | None) -> CameraPath:
    top = _checked(_Path, content, str(file))
    _refuse_other_types(top.camera_type, str(file))
    listed, word = (top.camera_path, "entry") if top.camera_path else (top.keyframes, "keyframe")
    from_keyframes = word == "keyframe"
    if not listed:
        raise InputError(
            f"{file}: the camera path is empty, and there are no keyframes; add some in nerfstudio's viewer, and "
            "export the path again"
        )
    aspect = top.render_width / top.render_height if top.render_width and top.render_height else None
    c2ws, Ks, aspects = [], [], []
    for index in _chosen(len(listed), file, None if from_keyframes else frames):
        where = f"{file}, {word} {index}"
        entry = _entry(listed[index], where)
        shown = entry.aspect or aspect or width / height
        # The field of view is vertical; narrower pictures keep the horizontal one.
        focal = focal_from_fov(entry.fov, height) * min(1.0, width / height / shown)
        if not 1e-3 < focal < 1e9:
            raise InputError(f"{where}: fov {entry.fov:g} degrees is no field of view of a lens")
        c2ws.append(_c2w(entry.matrix, where, three_js=from_keyframes))
        Ks.append(torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]))
        aspects.append(shown)
    try:
        viewmats = viewmats_from_c2w(opencv_c2w_from_opengl_c2w(torch.stack(c2ws)))
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    cameras = Cameras(viewmats.float(), torch.stack(Ks).float(), width, height)
    notes = _aspect_note(file, aspects, width, height)
    if from_keyframes:
        cameras, how = _between_keyframes(cameras, frames)
        notes = (f"{file.name}: the camera path is empty; its {len(listed)} keyframes were taken{how}", *notes)
    return CameraPath(cameras, notes)


def _between_keyframes(keyframes: Cameras, frames: int | None) -> tuple[Cameras, str]:
    if frames is None or len(keyframes) < 2:
        return keyframes, " as they are"
    return interpolate(keyframes, frames=frames), f", with {frames} frames from the first to the last"


def _entry(raw: Any, where: str) -> _Entry:
    if not isinstance(raw, dict):
        raise InputError(f"{where}: expected an object with camera_to_world and fov, got {shown(raw)}")
    matrix = raw.get("camera_to_world", raw.get("matrix"))
    if matrix is None or "fov" not in raw:
        raise InputError(
            f"{where}: expected camera_to_world and fov, got {', '.join(map(str, sorted(raw)[:12])) or 'nothing'}"
        )
    entry = _checked(_Entry, raw | {"matrix": matrix}, where)
    _refuse_other_types(entry.camera_type, where)
    return entry


def _refuse_other_types(camera_type: str, where: str) -> None:
    if camera_type.lower() not in ("perspective", "pinhole"):
        raise InputError(
            f"{where}: camera_type {camera_type[:40]!r} makes no perspective pictures, the only ones made here; export "
            "the path again with perspective cameras"
        )


def _c2w(matrix: Any, where: str, *, three_js: bool) -> Tensor:
    """[4, 4] camera-to-world (OpenGL). Keyframes store it in three.js's column order, often as text."""
    is_text = isinstance(matrix, str)
    if is_text:
        try:
            matrix = json.loads(matrix)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: the camera matrix is text, but no list of numbers: {shown(matrix)}") from error
    c2w = c2w_from_rows(matrix, where)
    last = c2w.new_tensor([0.0, 0.0, 0.0, 1.0])
    by_row, by_column = (bool(((side - last).abs() < 1e-3).all()) for side in (c2w[3], c2w[:, 3]))
    if three_js and by_column and (is_text or not by_row):
        return c2w.T.contiguous()
    if not by_row:
        raise InputError(
            f"{where}: the last row of the camera matrix must be 0 0 0 1, got {' '.join(f'{v:g}' for v in c2w[3])}"
        )
    return c2w


def _aspect_note(file: Path, aspects: list[float], width: int, height: int) -> tuple[str, ...]:
    others = [aspect for aspect in aspects if abs(math.log(aspect * height / width)) > _SAME_ASPECT]
    if not others:
        return ()
    return (
        f"{file.name}: {len(others)} of {len(aspects)} cameras are for pictures of the aspect {others[0]:.3g}, the "
        f"frames have {width / height:.3g}: pixels stay square, and the frames show more than the path at two sides",
    )


def _checked(model: type[_Model], values: dict[str, Any], where: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {first_problem(error)}") from error
