"""SPZ files: Niantic's compressed Gaussians, a quarter of the PLY or less, which most of today's viewers read.

One array per attribute, little-endian: positions (24-bit fixed point), opacities, colours, scales, rotations, harmonics
(by coefficient, then red green blue), all but positions in bytes; packed by gzip or zstd. Axes are
right, up, back, whereas the project's world and PLY files have right, down, front: see cus/cameras/conversions.py.
Version 2 holds rotations as x y z in three bytes; versions 3 and 4 the three smallest components in four. Version 1 has
positions as half floats. Versions 1 to 4 are read, 2 and 3 written.

Versions 1 to 3 are a gzip stream of a 16-byte header and the concatenated arrays. Version 4 is a plain 32-byte header,
a table of the arrays' packed and unpacked sizes, and the arrays, each its own zstd stream. Unpacking never produces
more than the header's number of Gaussians needs, and a number that could not be packed into the file is refused.

Largest errors of values inside the ranges: half a step of positions (2^-bits, the bits depend on the extent of the
scene), 1/510 in opacity (1/255 next to 0 and 1), 1/76.5 in harmonics of degree 0, 4/128 of degree 1 and 8/128 above,
1/32 in log scale, and in each stored component of the unit quaternion 1/255 (version 2) or 1/1445 (version 3).
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zstandard
from torch import Tensor
from torch.nn.functional import normalize

from cus.cameras import conversions
from cus.errors import InputError
from cus.splats.gaussians import Gaussians
from cus.splats.stored_values import StoredSplats, read_bytes, usable_gaussians, write_whole

# A finer step is not visible in a scene of extent 1 and costs file size.
_MOST_FRACTIONAL_BITS = 16
_COLOR_SCALE = 0.15
_SH_BUCKETS = (8, 16)  # for degree 1 and above: coarser than a byte, so that gzip compresses better
_LOG_SCALES = (-10.0, 255 / 16 - 10)
MAGIC = 0x5053474E
HEADER = struct.Struct("<IIIBBBB")
ANTIALIASED, EXTENSIONS = 1, 2
# The largest number of points that the reference reader accepts.
LARGEST_COUNT = 10_000_000
POSITION_BITS = 24
_MAGIC_BYTES = MAGIC.to_bytes(4, "little")
_HEADER_4 = struct.Struct("<IIIBBBBI12x")
_TABLE_ENTRY = struct.Struct("<QQ")
_HIGHEST_DEGREE = 4
# Scenes pack to a half or a third. A ratio above this is no real scene, only an attempt to exhaust memory.
_MOST_PACKED, _HARMLESS = 100, 64 * 2**20


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


@dataclass(frozen=True)
class SpzHeader:
    """Header of an SPZ file.

    Attributes:
        version: format version, 1 to 4.
        count: number of Gaussians in the file.
        sh_degree: degree of the harmonics, 0 to 4.
        fractional_bits: positions are whole multiples of 2^-fractional_bits scene units; version 1 has half floats.
        antialiased: whether the Gaussians were fitted for antialiased rendering.
    """

    version: int
    count: int
    sh_degree: int
    fractional_bits: int
    antialiased: bool

    @property
    def rotation_bytes(self) -> int:
        """Number of bytes of one rotation."""
        return 4 if self.version >= 3 else 3

    def array_bytes(self) -> dict[str, int]:
        """Number of bytes of each array, in the order of the file."""
        widths = {"positions": 6 if self.version == 1 else 9, "opacities": 1, "colors": 3, "scales": 3}
        widths |= {"rotations": self.rotation_bytes, "harmonics": 3 * ((self.sh_degree + 1) ** 2 - 1)}
        return {name: width * self.count for name, width in widths.items()}


def read_spz_arrays(path: str | Path) -> tuple[SpzHeader, dict[str, np.ndarray], int]:
    """The header, the bytes of each array, and the number of bytes after the last one.

    Raises:
        InputError: not an SPZ file, truncated, damaged, of a later version, or with extensions.
    """
    packed = read_bytes(path)
    if packed[:4] != _MAGIC_BYTES:
        content, trailing = _unzipped(path, packed)
    elif int.from_bytes(packed[4:8], "little") == 4:
        return _arrays_of_4(path, packed)
    else:  # some programs omit the compression
        content, trailing = packed, 0
    header = _header(path, content, len(packed))
    start, arrays = HEADER.size, {}
    expected = start + sum(header.array_bytes().values())
    if len(content) != expected:
        raise InputError(
            f"{path} is damaged: {header.count} Gaussians of degree {header.sh_degree} take {expected} bytes, it holds "
            f"{len(content) if len(content) < expected else 'more'}"
        )
    for name, width in header.array_bytes().items():
        arrays[name] = np.frombuffer(content, np.uint8, width, start)
        start += width
    return header, arrays, trailing


def read_spz_header(path: str | Path) -> SpzHeader:
    """Read the header only. Raises InputError as `read_spz_arrays`."""
    return read_spz_arrays(path)[0]


def _header(path: str | Path, content: bytes, packed_size: int) -> SpzHeader:
    """Parse a header of any version: the first 16 bytes agree except for the last, which only version 4 uses."""
    if len(content) < HEADER.size:
        raise InputError(f"{path} is truncated: {len(content)} bytes are no SPZ header")
    magic, version, count, degree, bits, flags, _ = HEADER.unpack_from(content)
    if magic != MAGIC:
        raise InputError(f"{path} is no SPZ file: it does not start with the mark NGSP")
    if version not in (1, 2, 3, 4):
        raise InputError(
            f"{path} is an SPZ file of version {version}; versions 1 to 4 are read: save it as one of them"
        )
    if flags & EXTENSIONS:
        raise InputError(f"{path} has SPZ extensions, which are not read; save it again without them")
    if degree > _HIGHEST_DEGREE or bits >= POSITION_BITS:
        raise InputError(
            f"{path} is damaged or too new: harmonics of degree {degree} and {bits} fractional bits; expected 0 to "
            f"{_HIGHEST_DEGREE}, and fewer than {POSITION_BITS}"
        )
    if count == 0:
        raise InputError(f"{path} holds no Gaussians")
    header = SpzHeader(version, count, degree, bits, bool(flags & ANTIALIASED))
    unpacked = sum(header.array_bytes().values())
    if count > LARGEST_COUNT or unpacked > max(_HARMLESS, _MOST_PACKED * packed_size):
        raise InputError(
            f"{path} is damaged: it promises {count:,} Gaussians, {unpacked:,} bytes, in a file of {packed_size:,}; "
            f"SPZ holds up to {LARGEST_COUNT:,}, packed to a hundredth at best"
        )
    return header


def _unzipped(path: str | Path, packed: bytes) -> tuple[bytes, int]:
    """The content of a gzip stream up to one byte beyond the header's size, and the number of bytes after it."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        content = stream.decompress(packed, HEADER.size)
        if len(content) == HEADER.size:
            size = sum(_header(path, content, len(packed)).array_bytes().values())
            content += stream.decompress(stream.unconsumed_tail, size)
            # One extra byte shows whether there is more, and consumes the end of the stream with its checksum.
            if not stream.eof:
                content += stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise InputError(f"{path} is no SPZ file or is damaged ({error}); expected a gzip stream") from error
    if not stream.eof and not stream.unconsumed_tail:
        raise InputError(f"{path} is truncated: its gzip stream has no end; copy or export it again")
    return content, len(stream.unused_data)


def _arrays_of_4(path: str | Path, packed: bytes) -> tuple[SpzHeader, dict[str, np.ndarray], int]:
    header = _header(path, packed, len(packed))
    if len(packed) < _HEADER_4.size:
        raise InputError(f"{path} is truncated: {len(packed)} bytes are no header of version 4")
    streams, table = _HEADER_4.unpack_from(packed)[-2:]
    expected = {name: size for name, size in header.array_bytes().items() if size}
    start = table + _TABLE_ENTRY.size * streams
    if streams != len(expected) or table < _HEADER_4.size or start > len(packed):
        raise InputError(
            f"{path} is damaged: {streams} arrays with a table at byte {table}; expected {len(expected)}, from byte "
            f"{_HEADER_4.size} on"
        )
    arrays = {name: np.zeros(0, np.uint8) for name in header.array_bytes()}
    for index, (name, size) in enumerate(expected.items()):
        packed_size, unpacked_size = _TABLE_ENTRY.unpack_from(packed, table + _TABLE_ENTRY.size * index)
        if unpacked_size != size or start + packed_size > len(packed):
            raise InputError(
                f"{path} is damaged or truncated: {name} of {unpacked_size} bytes, packed in {packed_size} from byte "
                f"{start} on; expected {size}, in a file of {len(packed)}"
            )
        arrays[name] = np.frombuffer(_unpacked(path, packed[start : start + packed_size], name, size), np.uint8)
        start += packed_size
    return header, arrays, len(packed) - start


def _unpacked(path: str | Path, stream: bytes, name: str, size: int) -> bytes:
    try:
        # Never unpack more than this, whatever size the stream itself claims.
        with zstandard.ZstdDecompressor().stream_reader(stream) as reader:
            content = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise InputError(f"{path} is damaged: its {name} are no zstd stream ({error})") from error
    if len(content) != size:
        raise InputError(f"{path} is damaged or truncated: its {name} do not unpack to {size} bytes")
    return content
