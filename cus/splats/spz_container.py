"""The container of SPZ files: a header, and one array of bytes per attribute, packed by gzip or zstd.

Versions 1 to 3 are a gzip stream of a 16-byte header and the concatenated arrays. Version 4 is a plain 32-byte header,
a table of the arrays' packed and unpacked sizes, and the arrays, each its own zstd stream. Unpacking never produces
more than the header's number of Gaussians needs, and a number that could not be packed into the file is refused.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard

from cus.errors import InputError
from cus.splats.storage import read_bytes

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
