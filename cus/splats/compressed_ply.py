"""SuperSplat's compressed PLY: 16 bytes per Gaussian and one per harmonics coefficient (playcanvas/splat-transform).

Chunks of 256 Gaussians hold the ranges of position, log scale and, in newer files, colour; a Gaussian's own values are
fractions of its chunk's ranges: position and scale in 11, 10 and 11 bits, colour and opacity in 8 each. A rotation is
its three smaller components in 10 bits each; the top two bits say which of w x y z is left out. Axes are those of PLY.
"""

from pathlib import Path

import numpy as np

from cus.errors import InputError
from cus.splats.sh import SH_C0

CHUNK = 256
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_REST_COUNTS = (9, 24, 45)  # 3 ((degree + 1)^2 - 1)
_HARMONICS_RANGE = 8.0


def is_compressed(elements: dict[str, np.ndarray]) -> bool:
    """Whether the elements of a PLY file are in this format."""
    return "vertex" in elements and "packed_position" in (elements["vertex"].dtype.names or ())


def unpack_columns(path: Path | str, elements: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert the elements of a compressed file to the columns of an ordinary PLY file of Gaussians, float32.

    Raises:
        InputError: an element or a field is missing, of another type, or of the wrong length.
    """
    vertices = elements["vertex"]
    if len(vertices) == 0:
        raise InputError(f"{path} holds no Gaussians")
    if missing := [name for name in _PACKED if name not in (vertices.dtype.names or ())]:
        raise InputError(f"{path} is a damaged compressed PLY: the vertex fields {', '.join(missing)} are missing")
    if any(vertices[name].dtype.kind not in "iu" or vertices[name].dtype.itemsize != 4 for name in _PACKED):
        raise InputError(f"{path} is a damaged compressed PLY: its packed fields are not whole numbers of 32 bits")
    chunks = _chunks(path, elements, len(vertices))
    chunk = np.arange(len(vertices)) // CHUNK
    position, rotation, scale, color = (vertices[name].astype(np.uint32) for name in _PACKED)
    columns: dict[str, np.ndarray] = {}
    for axis, name in enumerate("xyz"):
        columns[name] = _between(chunks, chunk, name, _fraction_11_10_11(position, axis))
        columns[f"scale_{axis}"] = _between(chunks, chunk, f"scale_{name}", _fraction_11_10_11(scale, axis))
    for i, name in enumerate("rgb"):
        value = (color >> (24 - 8 * i) & 255) / 255
        if "min_r" in chunks:
            value = _between(chunks, chunk, name, value)
        columns[f"f_dc_{i}"] = (value - 0.5) / SH_C0
    with np.errstate(divide="ignore"):  # 0 and 255 are logits of infinity
        alpha = (color & 255) / 255
        columns["opacity"] = np.log(alpha) - np.log1p(-alpha)
    columns |= {f"rot_{i}": values for i, values in enumerate(_rotations(rotation).T)}
    columns |= _harmonics(path, elements, len(vertices))
    return {name: values.astype(np.float32, copy=False) for name, values in columns.items()}


def _chunks(path: Path | str, elements: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Ranges by name, such as min_scale_x, each with one number per chunk."""
    table = elements.get("chunk")
    expected = -(-count // CHUNK)
    if table is None or len(table) != expected:
        found = "none" if table is None else len(table)
        raise InputError(
            f"{path} is a damaged compressed PLY: {count} Gaussians need {expected} chunks, it has {found}"
        )
    names = [f"{end}_{kind}{axis}" for end in ("min", "max") for kind in ("", "scale_") for axis in "xyz"]
    if "min_r" in (table.dtype.names or ()):
        names += [f"{end}_{color}" for end in ("min", "max") for color in "rgb"]
    if missing := [name for name in names if name not in (table.dtype.names or ()) or table[name].dtype == object]:
        raise InputError(f"{path} is a damaged compressed PLY: the chunk fields {', '.join(missing)} are missing")
    return {name: table[name].astype(np.float32) for name in names}


def _between(chunks: dict[str, np.ndarray], chunk: np.ndarray, name: str, fraction: np.ndarray) -> np.ndarray:
    low, high = chunks[f"min_{name}"][chunk], chunks[f"max_{name}"][chunk]
    with np.errstate(invalid="ignore", over="ignore"):  # the reader leaves out values from damaged ranges
        return low * (1 - fraction) + high * fraction


def _fraction_11_10_11(packed: np.ndarray, axis: int) -> np.ndarray:
    shift, bits = ((21, 11), (11, 10), (0, 11))[axis]
    largest = (1 << bits) - 1
    return (packed >> shift & largest) / largest


def _rotations(packed: np.ndarray) -> np.ndarray:
    """Unpack rotations: [N] -> [N, 4] wxyz."""
    left_out = (packed >> 30).astype(np.int64)
    others = np.arange(4)[None].repeat(len(packed), axis=0)
    others = others[others != left_out[:, None]].reshape(-1, 3)
    quats = np.zeros((len(packed), 4), np.float32)
    for column, shift in enumerate((20, 10, 0)):
        value = ((packed >> shift & 1023) / 1023 - 0.5) * 2**0.5
        quats[np.arange(len(packed)), others[:, column]] = value
    quats[np.arange(len(packed)), left_out] = np.sqrt(np.maximum(0, 1 - (quats**2).sum(axis=1)))
    return quats


def _harmonics(path: Path | str, elements: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    table = elements.get("sh")
    if table is None:
        return {}
    names = [f"f_rest_{i}" for i in range(len(table.dtype.names or ()))]
    if len(table) != count or len(names) not in _REST_COUNTS or set(names) != set(table.dtype.names or ()):
        raise InputError(
            f"{path} is a damaged compressed PLY: expected a row of f_rest_0 on, {_REST_COUNTS} of them, for each of "
            f"{count} Gaussians; it has {len(table)} rows of {len(names)}"
        )
    if any(table[name].dtype != np.uint8 for name in names):
        raise InputError(f"{path} is a damaged compressed PLY: its harmonics are not bytes")
    # A byte stands for the middle of its 256th of the range; the first and the last stand for the ends.
    levels = (np.arange(256, dtype=np.float32) + 0.5) / 256
    levels[[0, 255]] = 0, 1
    levels = (levels - 0.5) * np.float32(_HARMONICS_RANGE)
    return {name: levels[table[name]] for name in names}
