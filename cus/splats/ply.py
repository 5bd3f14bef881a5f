"""PLY files: Gaussians in the layout of 3D Gaussian Splatting, which every splat viewer reads, and coloured points.

The Gaussian layout is that of the INRIA implementation (Kerbl et al. 2023), all fields float32: x y z, nx ny nz (zero),
f_dc_0..2 (degree-0 harmonics), f_rest_* (the others, all of red, then green, then blue), opacity (logit),
scale_0..2 (natural logarithm), rot_0..3 (wxyz).
"""

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from cus.errors import InputError
from cus.splats.gaussians import Gaussians
from cus.splats.storage import write_whole

_REQUIRED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_COLORS = ("red", "green", "blue")
_REST_COUNTS = (0, 9, 24, 45)  # 3 ((degree + 1)^2 - 1)
_SATURATED = " (an infinite opacity is what some converters make of a byte of 0 or 255)"
_ANTIALIASED = "fitted for antialiased rendering"


def save_ply(path: str | Path, gaussians: Gaussians, *, antialiased: bool = False) -> None:
    """Write Gaussians (layout above), atomically: a file that exists is whole.

    Args:
        path: Of the file.
        gaussians: At least one.
        antialiased: Whether they were fitted for antialiased rendering; a comment in the file says so, which
            `ply_is_antialiased` finds and other programs skip.

    Raises:
        InputError: There is nothing to write, or the place cannot be written to.
    """
    if len(gaussians) == 0:
        raise InputError(f"no Gaussians to write to {path}")
    g = gaussians.to("cpu")
    rest = g.sh[:, 1:].transpose(1, 2).flatten(1)
    columns: dict[str, Tensor] = dict(zip("xyz", g.means.unbind(1), strict=True))
    columns |= dict.fromkeys(("nx", "ny", "nz"), torch.zeros(len(g)))
    columns |= {f"f_dc_{i}": g.sh[:, 0, i] for i in range(3)}
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    columns["opacity"] = torch.logit(g.opacities.double())
    columns |= {f"scale_{i}": g.scales[:, i].double().log() for i in range(3)}
    columns |= {name: g.quats[:, i] for i, name in enumerate(_ROTATION)}
    vertices = np.empty(len(g), dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column.detach().numpy()
    _write(path, vertices, [_ANTIALIASED] if antialiased else [])


def load_ply(path: str | Path) -> Gaussians:
    """Read Gaussians (layout above) by field names, in any order, number type and byte order; other fields are ignored.

    Opacities and scales that float32 rounds to 0 or 1 become the nearest values inside their open ranges.

    Raises:
        InputError: Not a PLY file of Gaussians, no points, or values that are NaN, infinite or out of range.
    """
    vertices = _read(path).data
    names = vertices.dtype.names or ()
    _check_fields(path, names)
    rest_names = [f"f_rest_{i}" for i in range(sum(name.startswith("f_rest_") for name in names))]
    used = (*_REQUIRED, *_ROTATION, *rest_names)
    values = _float_columns(path, vertices, used)

    def columns(*wanted: str) -> Tensor:
        return torch.from_numpy(np.stack([values[name] for name in wanted], axis=1))

    dc = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    rest = columns(*rest_names).unflatten(1, (3, -1)).transpose(1, 2) if rest_names else dc[:, :0]
    limits = torch.finfo(torch.float32)
    log_scales, quats = columns("scale_0", "scale_1", "scale_2"), columns(*_ROTATION)
    huge = int((log_scales.exp() > limits.max).any(dim=1).sum())
    if huge:
        raise InputError(
            f"{path}: {huge} of {len(vertices)} Gaussians have a scale of more than e^88; are they logarithms?"
        )
    lost = int((quats == 0).all(dim=1).sum())
    if lost:
        raise InputError(
            f"{path}: {lost} of {len(vertices)} rotations (rot_0..3) are zero and stand for no orientation"
        )
    return Gaussians(
        means=columns("x", "y", "z"),
        quats=quats,
        scales=log_scales.exp().clamp_min(limits.tiny),
        opacities=columns("opacity")[:, 0].sigmoid().clamp(limits.tiny, 1 - limits.eps / 2),
        sh=torch.cat([dc, rest], dim=1),
    )


def ply_is_antialiased(path: str | Path) -> bool:
    """Whether the file says that its Gaussians were fitted for antialiased rendering (`save_ply`)."""
    return any(comment.strip() == _ANTIALIASED for comment in _parse(path).comments)


def save_point_cloud(path: str | Path, points: Tensor, colors: Tensor) -> None:
    """Write coloured points, atomically.

    Args:
        path: Of the file.
        points: [N, 3], any N, finite.
        colors: RGB in [0, 1] [N, 3]; stored as bytes.

    Raises:
        InputError: A point is NaN or infinite, or the place cannot be written to.
    """
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ValueError(f"expected points and colors [N, 3], got {list(points.shape)} and {list(colors.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise InputError(f"points for {path} are NaN or infinite")
    fields = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in _COLORS]
    vertices = np.empty(len(points), dtype=fields)
    for i, name in enumerate("xyz"):
        vertices[name] = points[:, i].detach().cpu().numpy()
    for i, name in enumerate(_COLORS):
        vertices[name] = (colors[:, i].detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    _write(path, vertices, [])


def load_point_cloud(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read coloured points: (points [N, 3] float32, colors [N, 3] RGB in [0, 1]), N >= 1.

    Raises:
        InputError: Not a PLY file of points with x y z red green blue (bytes), no points, or NaN or infinite values.
    """
    vertices = _read(path).data
    names = vertices.dtype.names or ()
    missing = [name for name in (*"xyz", *_COLORS) if name not in names]
    if missing:
        raise InputError(f"{path} is no coloured point cloud: the vertex fields {', '.join(missing)} are missing")
    values = _float_columns(path, vertices, (*"xyz", *_COLORS))
    points = np.stack([values[name] for name in "xyz"], axis=1)
    colors = np.stack([values[name] for name in _COLORS], axis=1) / 255
    return torch.from_numpy(points), torch.from_numpy(colors).clamp(0, 1)


def _check_fields(path: str | Path, names: tuple[str, ...]) -> None:
    if "packed_position" in names:
        raise InputError(
            f"{path} is a PLY file compressed for one viewer; export it as an ordinary 3DGS .ply or as .spz"
        )
    missing = [name for name in (*_REQUIRED, *_ROTATION) if name not in names]
    if missing:
        only_points = " (a cloud of coloured points has no Gaussians)" if set(_COLORS) <= set(names) else ""
        raise InputError(
            f"{path} is no file of 3D Gaussians: the vertex fields {', '.join(missing)} are missing "
            f"(found {', '.join(names) or 'none'}){only_points}"
        )
    rest_count = sum(name.startswith("f_rest_") for name in names)
    if rest_count not in _REST_COUNTS or not {f"f_rest_{i}" for i in range(rest_count)} <= set(names):
        raise InputError(
            f"{path} has {rest_count} f_rest_* fields; expected f_rest_0 on, {_REST_COUNTS} of them for harmonics of "
            "degree 0, 1, 2, 3"
        )


def _float_columns(path: str | Path, vertices: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The fields as float32, all finite; an error lists every field with bad values and how many there are."""
    columns, bad = {}, {}
    for name in names:
        if vertices[name].dtype == object:
            raise InputError(f"{path}: the vertex field {name} is a list; expected one number a vertex")
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is reported below
            columns[name] = vertices[name].astype(np.float32)
        count = int((~np.isfinite(columns[name])).sum())
        if count:
            bad[name] = count
    if bad:
        listed = ", ".join(f"{name} ({count})" for name, count in bad.items())
        raise InputError(
            f"{path}: of {len(vertices)} vertices, values are NaN or infinite in {listed}; remove those vertices, or "
            f"fit the scene again{_SATURATED if 'opacity' in bad else ''}"
        )
    return columns


def _write(path: str | Path, vertices: np.ndarray, comments: list[str]) -> None:
    data = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=comments)
    write_whole(path, data.write)


def _parse(path: str | Path) -> PlyData:
    try:
        return PlyData.read(str(path), mmap=False)  # pyright: ignore[reportArgumentType]  (typed str, documented bool)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (PlyParseError, UnicodeDecodeError, ValueError, MemoryError) as error:
        raise InputError(
            f"{path} is damaged or no PLY file: {error or 'it promises more than fits in memory'}"
        ) from error


def _read(path: str | Path) -> PlyElement:
    data = _parse(path)
    if "vertex" not in data:
        raise InputError(f"{path} has no 'vertex' element")
    vertices = data["vertex"]
    if len(vertices) == 0:
        raise InputError(f"{path} holds no points")
    return vertices
