"""The elements of a PLY file with any number type, byte order and form, read within the bounds of the file's size."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from plyfile import PlyData, PlyParseError

from cus.errors import InputError
from cus.files import require_regular

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
# Longer than any program writes, even with its history in the comments.
_LONGEST_HEADER = 4 * 2**20


@dataclass
class _Element:
    name: str
    count: int
    fields: list[tuple[str, str]]
    has_lists: bool = False

    def least_bytes(self, is_text: bool) -> int:
        """Minimum number of bytes of its rows."""
        if is_text:  # at least a digit and a separator each
            return 2 * len(self.fields) * self.count
        return sum(int(kind[-1]) for _, kind in self.fields) * self.count


@dataclass(frozen=True)
class _Header:
    order: str
    elements: list[_Element]
    comments: tuple[str, ...]
    start: int

    @property
    def is_text(self) -> bool:
        return self.order == ""


@dataclass(frozen=True)
class PlyElements:
    """The content of a PLY file.

    Attributes:
        elements: one structured array per element; list columns have dtype object.
        comments: the header's comments, without the word itself.
        trailing: number of bytes after the last element.
    """

    elements: dict[str, np.ndarray]
    comments: tuple[str, ...]
    trailing: int


def read_ply_elements(path: Path | str) -> PlyElements:
    """Read all elements. The header is checked against the file's size before anything is allocated.

    Raises:
        InputError: the file cannot be read, is not a PLY file, or is damaged or truncated.
    """
    size = require_regular(path)
    try:
        with Path(path).open("rb") as file:
            header = _header(file)
            least = sum(element.least_bytes(header.is_text) for element in header.elements)
            # The last number of a text file needs no separator.
            if least - header.is_text > size - header.start:
                raise ValueError(
                    f"its header promises {sum(e.count for e in header.elements):,} rows, at least {least:,} bytes; "
                    f"{size - header.start:,} follow"
                )
            if header.is_text or any(element.has_lists for element in header.elements):
                return _by_plyfile(file, header)
            elements = {}
            for element in header.elements:
                dtype = np.dtype([(name, header.order + kind) for name, kind in element.fields])
                elements[element.name] = np.fromfile(file, dtype, element.count)
                if len(elements[element.name]) < element.count:
                    raise ValueError("it is shorter than its header says")
            return PlyElements(elements, header.comments, size - file.tell())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (PlyParseError, UnicodeDecodeError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{path} is damaged or no PLY file: {error or 'it promises more than fits in memory'}"
        ) from error


def _header(file: BinaryIO) -> _Header:
    """Parse the header. Raises ValueError."""
    if file.readline(16).strip() != b"ply":
        raise ValueError("it does not begin with the line 'ply'")
    order, elements, comments = None, [], []
    while True:
        line = file.readline(_LONGEST_HEADER)
        if not line.endswith(b"\n") or file.tell() > _LONGEST_HEADER:
            raise ValueError("its header has no end")
        # Comments may be in any encoding, the rest is ASCII.
        text = line.decode("utf-8", errors="replace").strip()
        word, _, rest = text.partition(" ")
        if word == "end_header":
            break
        if word == "comment":
            comments.append(rest.strip())
        elif word == "format" and order is None:
            order = _FORMATS.get(rest.split()[0] if rest else "")
            if order is None:
                raise ValueError(f"unknown format {rest!r}; expected {', '.join(_FORMATS)}")
        elif word == "element":
            elements.append(_element(rest))
        elif word == "property" and elements:
            _add_property(elements[-1], rest)
        elif word and word != "obj_info":
            raise ValueError(f"unexpected line {text[:60]!r} in its header")
    if order is None:
        raise ValueError("its header has no line 'format'")
    if len({element.name for element in elements}) < len(elements):
        raise ValueError("its header has an element twice")
    if bare := [element.name for element in elements if element.count and not element.fields]:
        raise ValueError(f"its element {bare[0]} has rows, but no properties")
    return _Header(order, elements, tuple(comments), file.tell())


def _element(text: str) -> _Element:
    match = re.fullmatch(r"(\S+)\s+(\d{1,18})", text)
    if match is None:
        raise ValueError(f"expected 'element NAME COUNT', got 'element {text[:60]}'")
    return _Element(match[1], int(match[2]), [])


def _add_property(element: _Element, text: str) -> None:
    *kinds, name = text.split() or [""]
    is_list = len(kinds) == 3 and kinds[0] == "list"
    if not (is_list or len(kinds) == 1) or not all(kind in _TYPES for kind in kinds[is_list:]):
        raise ValueError(f"expected 'property TYPE NAME', got 'property {text[:60]}'")
    if any(name == other for other, _ in element.fields):
        raise ValueError(f"the property {name} stands there twice")
    # Only the length of a list is certain.
    element.fields.append((name, _TYPES[kinds[1] if is_list else kinds[0]]))
    element.has_lists |= is_list


def _by_plyfile(file: BinaryIO, header: _Header) -> PlyElements:
    """Read text, and rows of varying length. plyfile accepts only ASCII headers, so it gets one without comments."""
    file.seek(0)
    lines = file.read(header.start).splitlines(keepends=True)
    plain = b"".join(line for line in lines if not line.lstrip().startswith((b"comment", b"obj_info")))
    rest = file.read()
    content = _Unclosed(plain + rest)
    data = PlyData.read(content, mmap=False)  # pyright: ignore[reportArgumentType]  (typed str, documented bool)
    if header.is_text:
        rows = [line for line in rest.splitlines() if line.strip()]
        trailing = sum(len(line) for line in rows[sum(element.count for element in header.elements) :])
    else:
        trailing = len(plain) + len(rest) - content.tell()
    return PlyElements({element.name: element.data for element in data}, header.comments, trailing)


class _Unclosed(io.BytesIO):
    """A stream that stays open: plyfile closes its input, but we still need the position."""

    def close(self) -> None:
        pass
