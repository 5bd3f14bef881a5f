"""SPZ files: Niantic's compressed Gaussians, a quarter of the PLY or less, which most of today's viewers read.

One array per attribute, little-endian: positions (24-bit fixed point), opacities, colours, scales, rotations, harmonics
(by coefficient, then red green blue), all but positions in bytes; cus/splats/spz_container.py holds them. Axes are
right, up, back, whereas the project's world and PLY files have right, down, front: see cus/cameras/conversions.py.
Version 2 holds rotations as x y z in three bytes; versions 3 and 4 the three smallest components in four. Version 1 has
positions as half floats. Versions 1 to 4 are read, 2 and 3 written.

Largest errors of values inside the ranges: half a step of positions (2^-bits, the bits depend on the extent of the
scene), 1/510 in opacity (1/255 next to 0 and 1), 1/76.5 in harmonics of degree 0, 4/128 of degree 1 and 8/128 above,
1/32 in log scale, and in each stored component of the unit quaternion 1/255 (version 2) or 1/1445 (version 3).
"""

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cus.cameras import conversions
from cus.errors import InputError
from cus.splats.gaussians import Gaussians
from cus.splats.spz_container import (
    ANTIALIASED,
    HEADER,
    LARGEST_COUNT,
    MAGIC,
    POSITION_BITS,
    SpzHeader,
    read_spz_arrays,
)
from cus.splats.storage import write_whole
from cus.splats.stored_values import StoredSplats, usable_gaussians

# A finer step is not visible in a scene of extent 1 and costs file size.
_MOST_FRACTIONAL_BITS = 16
_COLOR_SCALE = 0.15
_SH_BUCKETS = (8, 16)  # for degree 1 and above: coarser than a byte, so that gzip compresses better
_LOG_SCALES = (-10.0, 255 / 16 - 10)


def save_spz(path: str | Path, gaussians: Gaussians, *, antialiased: bool = False, version: int = 2) -> None:
    """Write Gaussians atomically: an existing file is complete. Values outside the format's ranges are clamped.

    Of several levels of detail only the finest is written (`Gaussians.baked`).

    Args:
        path: File to write.
        gaussians: At least one Gaussian; `spz_clamped` counts those that the format's ranges change.
        antialiased: Whether they were fitted for antialiased rendering.
        version: 2, which every reader knows, or 3, which has finer rotations.

    Raises:
        InputError: Nothing to write, too much, positions beyond 2^23 units, or a path that is not writable.
    """
    gaussians = gaussians.baked()
    if version not in (2, 3):
        raise ValueError(f"version must be 2 or 3, got {version}")
    if not 0 < len(gaussians) <= LARGEST_COUNT:
        raise InputError(f"{len(gaussians)} Gaussians for {path}: SPZ holds 1 to {LARGEST_COUNT}")
    g = gaussians.to("cpu")
    bits = _fractional_bits(g.means)
    header = SpzHeader(version, len(g), g.sh_degree, bits, antialiased)
    rotations = conversions.rub_quats_from_rdf(normalize(g.quats.double(), dim=1))
    sh = conversions.rub_sh_from_rdf(g.sh.double())
    log_scales = (g.scales.double().log() - _LOG_SCALES[0]) * 16
    arrays = [
        _pack_positions(conversions.rub_points_from_rdf(g.means.double()), bits),
        # Never 0 or 255: other programs turn them into infinite logits, which no program can read.
        _bytes((g.opacities.double() * 255).clamp(1, 254)),
        _bytes(sh[:, 0] * (_COLOR_SCALE * 255) + 127.5),
        _bytes(log_scales),
        _pack_smallest_three(rotations) if version == 3 else _pack_xyz(rotations),
        _pack_harmonics(sh[:, 1:]),
    ]
    fields = (MAGIC, version, len(g), g.sh_degree, bits, ANTIALIASED if antialiased else 0, 0)
    content = HEADER.pack(*fields) + b"".join(array.tobytes() for array in arrays)
    assert len(content) == HEADER.size + sum(header.array_bytes().values())
    # No time stamp, so that the same Gaussians give the same file.
    packed = gzip.compress(content, mtime=0)
    write_whole(path, lambda stream: stream.write(packed))


def read_spz(path: str | Path) -> StoredSplats:
    """Read Gaussians from an SPZ file of version 1 to 4.

    Opacities of 0 and 1 become the nearest values inside the open range. Harmonics of degree 4 are dropped.

    Raises:
        InputError: not an SPZ file, truncated, damaged, of a later version, or with extensions.
    """
    header, arrays, trailing = read_spz_arrays(path)
    count, coefficients = header.count, (min(header.sh_degree, 3) + 1) ** 2
    sh = np.empty((count, coefficients, 3), np.float32)
    sh[:, 0] = (arrays["colors"].reshape(count, 3) / 255 - 0.5) / _COLOR_SCALE
    harmonics = arrays["harmonics"].reshape(count, (header.sh_degree + 1) ** 2 - 1, 3)[:, : coefficients - 1]
    sh[:, 1:] = (harmonics.astype(np.float32) - 128) / 128
    rotations = arrays["rotations"].reshape(count, header.rotation_bytes)
    quats = _unpack_smallest_three(rotations) if header.version >= 3 else _unpack_xyz(rotations)
    scales = arrays["scales"].reshape(count, 3).astype(np.float32) / 16 + _LOG_SCALES[0]
    if header.version == 1:
        means = arrays["positions"].view("<f2").reshape(count, 3).astype(np.float32)
    else:
        means = _unpack_positions(arrays["positions"].reshape(count, 3, 3), header.fractional_bits)
    gaussians, notes = usable_gaussians(
        path,
        means=conversions.rdf_points_from_rub(torch.from_numpy(means)),
        quats=conversions.rdf_quats_from_rub(torch.from_numpy(quats)),
        scales=torch.from_numpy(scales.astype(np.float32)).exp(),
        opacities=torch.from_numpy(arrays["opacities"] / np.float32(255)),
        sh=conversions.rdf_sh_from_rub(torch.from_numpy(sh)),
    )
    if header.sh_degree > 3:
        notes = (*notes, f"{Path(path).name}: harmonics of degree 4 left out; up to degree 3 are rendered")
    if trailing:
        notes = (*notes, f"{Path(path).name}: {trailing:,} bytes after the last array were not read")
    return StoredSplats(gaussians, header.antialiased, notes)


def spz_clamped(gaussians: Gaussians) -> dict[str, int]:
    """Number of Gaussians that lose more than the format's rounding, by field; fields without any are omitted.

    Scales, colours and harmonics outside the format's ranges are clamped; positions lose more if the rounding is larger
    than the Gaussian itself.
    """
    log_scales = gaussians.scales.log()
    half = 0.5 / 16
    half_step = 0.5 / 2.0 ** _fractional_bits(gaussians.means)
    outside = {
        # If a scene has points far away, the fixed point may be coarser than its Gaussians.
        "position": (gaussians.scales.amax(dim=1).clamp_min(math.exp(_LOG_SCALES[0])) < half_step)[:, None],
        "scale": (log_scales < _LOG_SCALES[0] - half) | (log_scales > _LOG_SCALES[1] + half),
        "colour": gaussians.sh[:, 0].abs() > 0.5 / _COLOR_SCALE,
        "harmonics": (gaussians.sh[:, 1:].abs() > 1).flatten(1),
    }
    counts = {name: int(mask.any(dim=1).sum()) for name, mask in outside.items()}
    return {name: count for name, count in counts.items() if count}


def _fractional_bits(means: Tensor) -> int:
    """The finest fixed-point format that holds every coordinate."""
    largest = float(means.abs().max())
    bits = min(_MOST_FRACTIONAL_BITS, POSITION_BITS - 1 - math.ceil(math.log2(max(largest, 2.0**-100) * (1 + 1e-6))))
    if bits < 0:
        raise InputError(
            f"positions reach {largest:.3g} scene units, more than the 2^23 that SPZ holds; remove the far Gaussians"
        )
    return bits


def _bytes(values: Tensor) -> np.ndarray:
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def _pack_positions(points: Tensor, bits: int) -> np.ndarray:
    limit = 2 ** (POSITION_BITS - 1)
    fixed = (points * 2.0**bits).round().clamp(-limit, limit - 1).to(torch.int32).numpy().astype("<i4")
    return fixed[..., None].view(np.uint8)[..., :3]


def _unpack_positions(stored: np.ndarray, bits: int) -> np.ndarray:
    """Unpack positions: [N, 3, 3] bytes -> [N, 3] float32."""
    wide = np.zeros((*stored.shape[:2], 4), np.uint8)
    wide[..., 1:] = stored  # as the upper three bytes: dividing by 256 then carries the sign
    return (wide.view("<i4")[..., 0].astype(np.float64) / 2.0 ** (bits + 8)).astype(np.float32)


def _pack_xyz(quats: Tensor) -> np.ndarray:
    positive = torch.where(quats[:, :1] < 0, -quats, quats)
    return _bytes(positive[:, 1:] * 127.5 + 127.5)


def _unpack_xyz(stored: np.ndarray) -> np.ndarray:
    xyz = stored.astype(np.float32) / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _pack_smallest_three(quats: Tensor) -> np.ndarray:
    """[N, 4] wxyz -> [N, 4] bytes: two bits for the omitted one of x y z w, a sign and nine bits for each other."""
    xyzw = quats.roll(-1, dims=1)
    largest = xyzw.abs().argmax(dim=1, keepdim=True)
    xyzw = torch.where(xyzw.gather(1, largest) < 0, -xyzw, xyzw)
    others = torch.arange(4).expand(len(quats), 4)
    others = others[others != largest].reshape(-1, 3)
    values = xyzw.gather(1, others)
    packed = largest[:, 0]
    for sign, size in zip((values < 0).T, (values.abs() * (511 * 2**0.5)).round().clamp(0, 511).long().T, strict=True):
        packed = packed << 10 | sign.long() << 9 | size
    return packed.numpy().astype("<u4")[:, None].view(np.uint8)


def _unpack_smallest_three(stored: np.ndarray) -> np.ndarray:
    """[N, 4] bytes -> [N, 4] wxyz."""
    packed = np.ascontiguousarray(stored).view("<u4")[:, 0]
    largest = (packed >> 30).astype(np.int64)
    order = np.arange(4)[None].repeat(len(packed), axis=0)
    others = order[order != largest[:, None]].reshape(-1, 3)
    xyzw = np.empty((len(packed), 4), np.float32)
    for column, shift in enumerate((20, 10, 0)):
        size = (packed >> shift & 511) / np.float32(511 * 2**0.5)
        xyzw[np.arange(len(packed)), others[:, column]] = np.where(packed >> (shift + 9) & 1, -size, size)
    rest = np.take_along_axis(xyzw, others, axis=1)
    xyzw[np.arange(len(packed)), largest] = np.sqrt(np.maximum(0, 1 - (rest**2).sum(axis=1)))
    return np.roll(xyzw, 1, axis=1)


def _pack_harmonics(sh: Tensor) -> np.ndarray:
    """[N, K - 1, 3] -> bytes, rounded to multiples of the bucket, of which 128, i.e. 0, is one."""
    buckets = torch.full((sh.shape[1], 1), float(_SH_BUCKETS[1]), dtype=sh.dtype)
    buckets[:3] = _SH_BUCKETS[0]
    return _bytes((sh * 128 / buckets).round() * buckets + 128)
