"""PLY files: Gaussians in the layout of 3D Gaussian Splatting, which every splat viewer reads, and coloured points.

The Gaussian layout is that of the INRIA implementation (Kerbl et al. 2023), all fields float32: x y z, nx ny nz (zero),
f_dc_0..2 (degree-0 harmonics), f_rest_* (the others, all of red, then green, then blue), opacity (logit),
scale_0..2 (natural logarithm), rot_0..3 (wxyz). A scene with levels of detail has two more fields at the end, rate_low
and rate_high (`Gaussians.rates`), which programs that read fields by name skip. Also read: nerfstudio's files with
red green blue in place of f_dc_0..2, and SuperSplat's compressed ones (cus/splats/compressed_ply.py).
"""

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement
from torch import Tensor

from cus.errors import InputError
from cus.splats.compressed_ply import is_compressed, unpack_columns
from cus.splats.gaussians import Gaussians
from cus.splats.ply_elements import PlyElements, read_ply_elements
from cus.splats.sh import SH_C0
from cus.splats.stored_values import StoredSplats, usable_gaussians, write_whole
from cus.tensor_files import to_bytes

_REQUIRED = ("x", "y", "z", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_DC = ("f_dc_0", "f_dc_1", "f_dc_2")
_COLORS = ("red", "green", "blue")
_RATES = ("rate_low", "rate_high")
_REST_COUNTS = (0, 9, 24, 45)  # 3 ((degree + 1)^2 - 1)
_ANTIALIASED = "fitted for antialiased rendering"


def save_ply(path: str | Path, gaussians: Gaussians, *, antialiased: bool = False) -> None:
    """Write Gaussians (layout above) atomically: an existing file is complete.

    Args:
        path: File to write.
        gaussians: At least one Gaussian.
        antialiased: Whether they were fitted for antialiased rendering; recorded in a comment of the file, which
            `read_ply` reads and other programs skip.

    Raises:
        InputError: There is nothing to write, or the path is not writable.
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
    if g.rates is not None:
        columns |= dict(zip(_RATES, g.rates.unbind(1), strict=True))
    vertices = np.empty(len(g), dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column.detach().numpy()
    _write(path, vertices, [_ANTIALIASED] if antialiased else [])


def read_ply(path: str | Path) -> StoredSplats:
    """Read Gaussians (layout above) by field names, in any order, number type and byte order; other fields are ignored.

    Gaussians with a NaN or infinite value, or without an orientation, are left out, and a note says how many. Infinite
    logits of the opacity, which converters make from the bytes 0 and 255, become the nearest values inside (0, 1).

    Raises:
        InputError: not a PLY file of Gaussians, or none that can be rendered.
    """
    file = read_ply_elements(path)
    compressed = is_compressed(file.elements)
    columns = unpack_columns(path, file.elements) if compressed else _columns(path, _vertices(path, file))
    values = {name: torch.from_numpy(column) for name, column in columns.items()}

    def stacked(*wanted: str) -> Tensor:
        return torch.stack([values[name] for name in wanted], dim=1)

    rest_names = [f"f_rest_{i}" for i in range(sum(name.startswith("f_rest_") for name in values))]
    dc = stacked(*_DC)[:, None]
    rest = stacked(*rest_names).unflatten(1, (3, -1)).transpose(1, 2) if rest_names else dc[:, :0]
    log_scales = stacked("scale_0", "scale_1", "scale_2")
    tiny = torch.finfo(torch.float32).tiny
    gaussians, notes = usable_gaussians(
        path,
        means=stacked("x", "y", "z"),
        quats=stacked(*_ROTATION),
        # Beyond e^88 scales become infinite, and such Gaussians are left out like those with an infinite logarithm.
        scales=torch.where(log_scales.isfinite(), log_scales.exp().clamp_min(tiny), torch.nan),
        opacities=values["opacity"].sigmoid(),
        sh=torch.cat([dc, rest], dim=1),
        rates=stacked(*_RATES) if set(_RATES) <= set(values) else None,
    )
    if file.trailing:
        notes = (*notes, f"{Path(path).name}: {file.trailing:,} bytes after the last Gaussian were not read")
    return StoredSplats(gaussians, _ANTIALIASED in file.comments, notes)


def save_point_cloud(path: str | Path, points: Tensor, colors: Tensor) -> None:
    """Write coloured points, atomically.

    Args:
        path: File to write.
        points: World points [N, 3], any N, finite; float64 points are written as such, others as float32.
        colors: RGB in [0, 1] [N, 3]; stored as bytes.

    Raises:
        InputError: A point is NaN or infinite, or the path is not writable.
    """
    if points.ndim != 2 or points.shape[1] != 3 or colors.shape != points.shape:
        raise ValueError(f"expected points and colors [N, 3], got {list(points.shape)} and {list(colors.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise InputError(f"points for {path} are NaN or infinite")
    number = "<f8" if points.dtype == torch.float64 else "<f4"
    fields = [(name, number) for name in "xyz"] + [(name, "u1") for name in _COLORS]
    vertices = np.empty(len(points), dtype=fields)
    for i, name in enumerate("xyz"):
        vertices[name] = points[:, i].detach().cpu().numpy()
    for i, name in enumerate(_COLORS):
        vertices[name] = to_bytes(colors[:, i].detach().cpu()).numpy()
    _write(path, vertices, [])


def load_point_cloud(path: str | Path) -> tuple[Tensor, Tensor]:
    """Read coloured points: (points [N, 3] float32, colors [N, 3] RGB in [0, 1]), any N.

    Raises:
        InputError: Not a PLY file of points with x y z red green blue (bytes), or NaN or infinite values.
    """
    vertices = _vertices(path, read_ply_elements(path))
    names = vertices.dtype.names or ()
    missing = [name for name in (*"xyz", *_COLORS) if name not in names]
    if missing:
        raise InputError(f"{path} is no coloured point cloud: the vertex fields {', '.join(missing)} are missing")
    points = torch.from_numpy(np.stack([_floats(path, vertices, name) for name in "xyz"], axis=1))
    if bad := int((~points.isfinite().all(dim=1)).sum()):
        raise InputError(f"{path}: {bad} of {len(points)} points are NaN or infinite; remove them")
    colors = np.stack([_color_shares(path, vertices, name) for name in _COLORS], axis=1)
    return points, torch.from_numpy(colors).nan_to_num().clamp(0, 1)


def _vertices(path: str | Path, file: PlyElements) -> np.ndarray:
    vertices = file.elements.get("vertex")
    if vertices is None:
        raise InputError(f"{path} has no 'vertex' element")
    return vertices


def _columns(path: str | Path, vertices: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of an ordinary file as float32, unchecked."""
    names = vertices.dtype.names or ()
    _check_fields(path, names)
    if len(vertices) == 0:
        raise InputError(f"{path} holds no Gaussians")
    rest_names = [name for name in names if name.startswith("f_rest_")]
    rates = _RATES if set(_RATES) <= set(names) else ()
    columns = {name: _floats(path, vertices, name) for name in (*_REQUIRED, *rest_names, *rates)}
    for dc, color in zip(_DC, _COLORS, strict=True):
        if dc in names:
            columns[dc] = _floats(path, vertices, dc)
        else:
            columns[dc] = (_color_shares(path, vertices, color) - 0.5) / np.float32(SH_C0)
    return columns


def _check_fields(path: str | Path, names: tuple[str, ...]) -> None:
    has_colors = set(_COLORS) <= set(names)
    missing = [name for name in (*_REQUIRED, *(() if has_colors else _DC)) if name not in names]
    if has_colors and 0 < len(set(_DC) & set(names)) < len(_DC):
        missing += [name for name in _DC if name not in names]
    if missing:
        only_points = " (a cloud of coloured points has no Gaussians)" if has_colors else ""
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


def _floats(path: str | Path, vertices: np.ndarray, name: str) -> np.ndarray:
    """A field as float32. Raises InputError if it is a list."""
    if vertices[name].dtype == object:
        raise InputError(f"{path}: the vertex field {name} is a list; expected one number a vertex")
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite and is treated as such
        return vertices[name].astype(np.float32)


def _color_shares(path: str | Path, vertices: np.ndarray, name: str) -> np.ndarray:
    """A colour channel as fractions of full brightness; whole numbers are divided by the maximum of their type."""
    values, dtype = _floats(path, vertices, name), vertices[name].dtype
    return values / np.float32(np.iinfo(dtype).max) if dtype.kind in "iu" else values


def _write(path: str | Path, vertices: np.ndarray, comments: list[str]) -> None:
    data = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=comments)
    write_whole(path, data.write)
