"""The fields of `transforms.json`, checked, as written by nerfstudio, instant-ngp and Blender (angles of instant-ngp's
`x_fov` in degrees, all others in radians).
"""

import math
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from cus.cameras.conversions import focal_from_fov
from cus.cameras.lenses import MODELS, PARAMS, Lens
from cus.errors import InputError, first_problem, shown

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
