"""PLY files: Gaussians in the layout of 3D Gaussian Splatting, which every splat viewer reads, and coloured points.

The Gaussian layout is that of the INRIA implementation (Kerbl et al. 2023), all fields float32: x y z, nx ny nz (zero),
f_dc_0..2 (degree-0 harmonics), f_rest_* (the others, all of red, then green, then blue), opacity (logit),
scale_0..2 (natural logarithm), rot_0..3 (wxyz).
"""

import contextlib
import os
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError
from torch import Tensor

from cus.errors import InputError
from cus.splats.gaussians import Gaussians

_REQUIRED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_REST_COUNTS = (0, 9, 24, 45)  # 3 ((degree + 1)^2 - 1)


def save_ply(path: str | Path, gaussians: Gaussians) -> None:
    """Write Gaussians (layout above), atomically: a file that exists is whole.

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
    _write(Path(path), vertices)


def load_ply(path: str | Path) -> Gaussians:
    """Read Gaussians (layout above), by field names; other fields are ignored.

    Opacities and scales that float32 rounds to 0 or 1 become the nearest values inside their open ranges.

    Raises:
        InputError: Not a PLY file of Gaussians, no points, or values that are NaN, infinite or out of range.
    """
    vertices = _read(Path(path))
    names = vertices.dtype.names or ()
    missing = [name for name in (*_REQUIRED, *_ROTATION) if name not in names]
    if missing:
        raise InputError(
            f"{path} is no file of 3D Gaussians: the vertex fields {', '.join(missing)} are missing "
            f"(found {', '.join(names) or 'none'})"
        )
    rest_count = sum(name.startswith("f_rest_") for name in names)
    rest_names = [f"f_rest_{i}" for i in range(rest_count)]
    if rest_count not in _REST_COUNTS or not set(rest_names) <= set(names):
        raise InputError(f"{path} has {rest_count} f_rest_* fields; expected f_rest_0 on, {_REST_COUNTS} of them")

    def columns(*wanted: str) -> Tensor:
        return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in wanted], axis=1))

    dc = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    rest = columns(*rest_names).unflatten(1, (3, -1)).transpose(1, 2) if rest_count else dc[:, :0]
    limits = torch.finfo(torch.float32)
    try:
        return Gaussians(
            means=columns("x", "y", "z"),
            quats=columns(*_ROTATION),
            scales=columns("scale_0", "scale_1", "scale_2").exp().clamp_min(limits.tiny),
            opacities=columns("opacity")[:, 0].sigmoid().clamp(limits.tiny, 1 - limits.eps / 2),
            sh=torch.cat([dc, rest], dim=1),
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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
    fields = [(name, "<f4") for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(points), dtype=fields)
    for i, name in enumerate("xyz"):
        vertices[name] = points[:, i].detach().cpu().numpy()
    for i, name in enumerate(("red", "green", "blue")):
        vertices[name] = (colors[:, i].detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    _write(Path(path), vertices)


def _write(path: Path, vertices: np.ndarray) -> None:
    # Beside the target, so that the rename stays inside one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(stream)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename, never there in a folder that does not exist
            temporary.unlink()


def _read(path: Path) -> np.ndarray:
    try:
        data = PlyData.read(str(path), mmap=False)  # pyright: ignore[reportArgumentType]  (typed str, documented bool)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (PlyParseError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is not a readable PLY file: {error}") from error
    if "vertex" not in data:
        raise InputError(f"{path} has no 'vertex' element")
    vertices = data["vertex"].data
    if len(vertices) == 0:
        raise InputError(f"{path} holds no points")
    return vertices
