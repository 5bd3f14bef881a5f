"""Files of Gaussians that are damaged, odd, or lie about their size."""

import gzip
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from tests.hostile import base
from tests.hostile.harness import Case, Expected

LEFT_OUT = r"Gaussians left\s+out"


def cases() -> Iterator[Case]:
    """Each read by `cus-export`; some by `cus-view`, too."""
    for name, content, expected, note in _files():
        suffix = "." + name.rpartition(".")[2]
        yield from _read(name.rpartition(".")[0], suffix, content, expected, note)
    yield from _damage()


def _read(name: str, suffix: str, content: bytes, expected: Expected, note: str = "") -> Iterator[Case]:
    def make(folder: Path) -> None:
        (folder / f"a{suffix}").write_bytes(content)

    target = "ply" if suffix == ".splat" else "splat"
    arguments = (f"a{suffix}", "--format", target, "--out", f"b.{target}")
    yield Case("splats", f"{suffix}: {name}", "cus-export", arguments, make, expected, note, quick=True)
    record = (f"a{suffix}", "--record", "out.mp4", "--frames", "1", "--size", "64")
    if expected != "either":
        # Extreme scenes may leave nothing to walk to; that is an error of its own.
        view = "either" if expected == "usable" else expected
        yield Case("splats", f"{suffix}: {name}", "cus-view", record, make, view, note if expected == "usable" else "")


def _rows() -> np.ndarray:
    import io

    return PlyData.read(io.BytesIO(base.splat_bytes(".ply")), mmap=False)["vertex"].data  # pyright: ignore


def _ply(rows: np.ndarray, **options: object) -> bytes:
    import io

    stream = io.BytesIO()
    PlyData([PlyElement.describe(rows, "vertex")], **options).write(stream)  # pyright: ignore
    return stream.getvalue()


def _with(value: float, *names: str, every: bool = False) -> bytes:
    rows = _rows().copy()
    for name in names:
        rows[name][: None if every else 3] = value
    return _ply(rows)


def _without(*names: str) -> bytes:
    rows = _rows()
    kept = [name for name in rows.dtype.names if name not in names]
    made = np.empty(len(rows), [(name, rows.dtype[name]) for name in kept])
    for name in kept:
        made[name] = rows[name]
    return _ply(made)


def _files() -> Iterator[tuple[str, bytes, Expected, str]]:
    ply, spz, splat = (base.splat_bytes(suffix) for suffix in (".ply", ".spz", ".splat"))
    for value in (math.nan, math.inf, -math.inf):
        for names in (("x",), ("scale_0",), ("rot_0",), ("f_dc_1",), ("f_rest_3",)):
            yield f"{value} in {names[0]} of three.ply", _with(value, *names), "usable", LEFT_OUT
        yield f"{value} in x of all.ply", _with(value, "x", every=True), "refused", ""
    yield "opacity NaN of three.ply", _with(math.nan, "opacity"), "usable", LEFT_OUT
    for value in (math.inf, -math.inf):
        yield f"opacity {value}.ply", _with(value, "opacity", every=True), "usable", ""
    yield "zero rotations.ply", _with(0, "rot_0", "rot_1", "rot_2", "rot_3"), "usable", LEFT_OUT
    yield "scales of e^100.ply", _with(100, "scale_0"), "usable", LEFT_OUT
    yield "far positions.ply", _with(3e38, "x"), "either", ""
    yield "huge scales.ply", _with(80, "scale_0"), "either", ""
    yield "huge colours.ply", _with(3e38, "f_dc_0"), "either", ""
    for name in ("x", "opacity", "scale_2", "rot_3", "f_dc_2", "f_rest_8"):
        yield f"without {name}.ply", _without(name), "refused", ""
    yield "text.ply", _ply(_rows(), text=True), "usable", ""
    yield "big-endian.ply", _ply(_rows(), byte_order=">"), "usable", ""
    yield "comments in Latin 1.ply", ply.replace(b"element", b"comment gr\xf6\xdfe\nelement", 1), "usable", ""
    yield "more after the end.ply", ply + bytes(100), "usable", "after the last Gaussian"
    yield (
        "CRLF in the header.ply",
        ply.partition(b"end_header\n")[0].replace(b"\n", b"\r\n") + b"end_header\r\n",
        "refused",
        "",
    )
    for text in ("99999999999999", "-1", "1e9", "", "9" * 400, "41", "0"):
        yield f"a count of {text[:15]!r}.ply", ply.replace(b"vertex 40", b"vertex " + text.encode()), "refused", ""
    for kind in ("list uchar float", "list int int", "quad", "", "float128", "list"):
        yield f"x as {kind!r}.ply", ply.replace(b"property float x", f"property {kind} x".encode()), "refused", ""
    yield "x twice.ply", ply.replace(b"property float y", b"property float x"), "refused", ""
    yield "no format.ply", ply.replace(b"format binary_little_endian 1.0\n", b""), "refused", ""
    yield "unknown format.ply", ply.replace(b"binary_little_endian", b"packed"), "refused", ""
    yield "an endless header.ply", b"ply\nformat ascii 1.0\n" + b"comment x\n" * 600_000, "refused", ""
    yield "one endless line.ply", b"ply\ncomment " + b"x" * 5_000_000, "refused", ""
    yield "rows without fields.ply", b"ply\nformat ascii 1.0\nelement vertex 999999999\nend_header\n", "refused", ""
    yield "a compressed one without chunks.ply", _packed(0), "refused", ""
    yield "a compressed one with a NaN range.ply", _packed(1), "refused", ""
    yield "points alone.ply", _without(*(n for n in _rows().dtype.names if n not in "xyz")), "refused", ""
    for suffix in ("ply", "spz", "splat"):
        yield f"empty.{suffix}", b"", "refused", ""
        yield f"zeros.{suffix}", bytes(3200), "refused", ""
        yield f"ones.{suffix}", b"\xff" * 3200, "refused", ""
        yield f"a web page.{suffix}", b"<!DOCTYPE html><html>Not found</html>", "refused", ""
        yield (
            f"a pointer of Git LFS.{suffix}",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "refused",
            "",
        )
    plain = gzip.decompress(spz)
    for place, kind, values in (
        (0, "<I", (0,)), (4, "<I", (0, 5, 2**31)), (8, "<I", (0, 41, 39, 10_000_001, 2**32 - 1)),
        (12, "<B", (2, 5, 255)), (13, "<B", (24, 255)), (14, "<B", (2, 255)),
    ):  # fmt: skip
        for value in values:
            content = bytearray(plain)
            struct.pack_into(kind, content, place, value)
            yield f"header byte {place} is {value}.spz", gzip.compress(bytes(content)), "refused", ""
    yield "not packed.spz", plain, "usable", ""
    yield "more after the stream.spz", spz + b"more", "usable", "after the last array"
    bomb = struct.pack("<4sIIBBBB", b"NGSP", 2, 9_999_999, 3, 12, 0, 0)
    yield "a bomb.spz", gzip.compress(bomb + bytes(2**28), 1), "refused", ""
    yield "another bomb.spz", gzip.compress(bytes(2**28), 1), "refused", ""
    four = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 40, 0, 12, 0, 5, 32)
    for size in (0, 1, 2**62, 2**64 - 1):
        yield (
            f"version 4 with streams of {size}.spz",
            four + struct.pack("<QQ", size, 360) * 5 + bytes(500),
            "refused",
            "",
        )
    yield "one byte too many.splat", splat + b"\0", "refused", ""
    odd = bytearray(splat)
    struct.pack_into("<f", odd, 0, math.nan)
    struct.pack_into("<f", odd, 32 + 12, 0.0)
    yield "NaN and a zero scale.splat", bytes(odd), "usable", LEFT_OUT


def _packed(chunks: int) -> bytes:
    import io

    names = [f"{end}_{kind}{axis}" for end in ("min", "max") for kind in ("", "scale_") for axis in "xyz"]
    ranges = np.full(chunks, np.nan, [(name, "<f4") for name in names])
    rows = np.zeros(10, [(f"packed_{name}", "<u4") for name in ("position", "rotation", "scale", "color")])
    stream = io.BytesIO()
    PlyData([PlyElement.describe(ranges, "chunk"), PlyElement.describe(rows, "vertex")]).write(stream)
    return stream.getvalue()


def _damage() -> Iterator[Case]:
    """Cuts and flipped bytes anywhere."""
    random = np.random.default_rng(0)
    for suffix in (".ply", ".spz", ".splat"):
        whole = base.splat_bytes(suffix)
        for cut in (1, 10, 40, len(whole) // 2, len(whole) - 1):
            yield from _read(f"cut at {cut}", suffix, whole[:cut], "refused" if cut % 32 else "either")
        for trial in range(4):
            content = bytearray(whole)
            for place in random.integers(0, len(whole), 5):
                content[place] = random.integers(256)
            yield from _read(f"flipped bytes {trial}", suffix, bytes(content), "either")
    for suffix, make in ((s, m) for s in (".ply", ".spz", ".splat") for m in KINDS):
        name = f"a{suffix}"

        def write(folder: Path, make: Callable[[Path], object] = make, name: str = name) -> None:
            make(folder / name)

        kind = make.__name__.strip("_")
        yield Case(
            "kinds", f"{suffix}: {kind}", "cus-export", (name, "--format", "ply", "--out", "b.ply"), write, quick=True
        )
        yield Case(
            "kinds", f"{suffix}: {kind}", "cus-view", (name, "--record", "o.mp4", "--frames", "1"), write, quick=True
        )


def pipe(path: Path) -> None:
    """A named pipe that nobody writes to."""
    os.mkfifo(path)


def folder(path: Path) -> None:
    """An empty folder."""
    path.mkdir()


def zeros(path: Path) -> None:
    """A device without an end."""
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def nothing(path: Path) -> None:
    """A link to what is not there."""
    path.symlink_to("absent")


def empty(path: Path) -> None:
    """A file of no bytes."""
    path.touch()


def text(path: Path) -> None:
    """A file of another kind."""
    path.write_text("[bold]hello[/]\n")


KINDS = (pipe, folder, zeros, loop, nothing, empty, text)
