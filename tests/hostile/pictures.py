"""Pictures that are damaged, huge, of odd kinds, or no pictures."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile import base
from tests.hostile.harness import Case, Expected
from tests.hostile.splats import KINDS

INFER = ("--conditioning-only", "--out", "out", "--size", "64", "--photo-size", "128")


def cases() -> Iterator[Case]:
    """Each as the second of two views, and as one of a folder of posed photographs."""
    for name, content, expected in _files():
        yield from _one(name, content, expected)
    for kind in KINDS:

        def make(folder: Path, kind: Any = kind) -> None:
            base.write_posed(folder)
            (folder / "images/1.png").unlink()
            kind(folder / "images/1.png")

        views = ("--views", "images/0.png", "images/1.png", *INFER)
        yield Case("kinds", f"picture: {kind.__name__}", "cus-infer", views, make)
        # Two of three photographs remain: enough to go on with, when it is said.
        fit = (".", "--out", "out", "--iterations", "1", "--size", "64")
        yield Case("kinds", f"picture: {kind.__name__}", "cus-fit", fit, make, "either")
    for words, views in (
        ("the same twice", ("images/0.png", "images/0.png")), ("one alone", ("images/0.png",)),
        ("of different sizes", ("images/0.png", "small.png")), ("of one colour", ("black.png", "white.png")),
    ):  # fmt: skip
        yield Case(
            "pictures",
            words,
            "cus-infer",
            ("--views", *views, *INFER),
            _write_some,
            "either" if "size" in words else "refused",
        )

    yield from _choices()


def _choices() -> Iterator[Case]:
    """Folders, patterns and videos instead of photographs."""
    png = _saved(base.picture(), "PNG")
    files = {
        "empty/x.txt": b"x",
        "texts/a.jpg": b"x",
        "texts/b.jpg": b"y",
        "none.mp4": b"\0\0\0\x18ftypmp42" + bytes(99),
        "noise.mp4": b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 9,
        "zeros.webm": b"\x1a\x45\xdf\xa3" + bytes(2000),
        "list.mp4": b"\0\0\0\x08ftyp#EXTM3U\nimages/0.png\n",
        "one.gif": b"GIF89a" + bytes(9),
        "copies/a.png": png,
        "copies/b.png": png,
    }

    def make(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)

    for view in (*files, "empty", "texts", "copies", "texts/*.jpg", "*.nothing", "**/[", "/dev", "/proc/self"):
        yield Case("views", f"--views {view}", "cus-infer", ("--views", view, *INFER), make)
    for count in ("0", "1", "-5", "nan", "99999999999999999999"):
        yield Case(
            "views", f"--max-views {count}", "cus-infer", ("--views", "texts", "--max-views", count, *INFER), make
        )


def _write_some(folder: Path) -> None:
    base.write_posed(folder)
    base.picture(width=20, height=10).save(folder / "small.png")
    for name in ("black", "white"):
        Image.new("RGB", (64, 48), name).save(folder / f"{name}.png")


def _one(name: str, content: bytes, expected: Expected) -> Iterator[Case]:
    suffix = "." + name.rpartition(".")[2]

    def make(folder: Path) -> None:
        base.write_posed(folder)
        (folder / f"b{suffix}").write_bytes(content)
        posed = base.transforms()
        for i in (1, 2):
            posed["frames"][i]["file_path"] = f"b{suffix}" if i == 1 else "images/2.png"
        base.write_json(folder / "transforms.json", posed)

    yield Case("pictures", name, "cus-infer", ("--views", "images/0.png", f"b{suffix}", *INFER), make, expected)
    fit = (".", "--out", "out", "--iterations", "1", "--size", "64")
    yield Case("pictures", name, "cus-fit", fit, make, "either")


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _png(width: int, height: int, data: bytes = b"", depth: int = 8, color: int = 2) -> bytes:
    """A PNG whose header says whatever it likes."""
    made = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")):
        made += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return made


def _files() -> Iterator[tuple[str, bytes, Expected]]:
    good = base.picture()
    jpeg, png, tiff = (_saved(good, kind) for kind in ("JPEG", "PNG", "TIFF"))
    for suffix, content in (("jpg", jpeg), ("png", png), ("tif", tiff)):
        yield f"cut in the middle.{suffix}", content[: len(content) // 2], "refused"
        yield f"cut after ten bytes.{suffix}", content[:10], "refused"
        yield f"empty.{suffix}", b"", "refused"
        yield f"zeros.{suffix}", bytes(1000), "refused"
        yield f"a web page.{suffix}", b"<!DOCTYPE html><html></html>", "refused"
    for width, height in ((0, 0), (2**31 - 1, 2**31 - 1), (60_000, 60_000), (10**6, 1), (1, 1)):
        yield f"{width}x{height}.png", _png(width, height), "refused"
    yield "a bomb of 20000x20000.png", _png(20_000, 20_000, bytes(20_000 * 60_001)[: 2**28]), "refused"
    yield "depth 3.png", _png(64, 48, bytes(100), depth=3), "refused"
    yield "a palette without colours.png", _png(64, 48, bytes(65 * 48), color=3), "refused"
    for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"):
        kind, suffix = ("TIFF", "tif") if mode in ("CMYK", "F", "I") else ("PNG", "png")
        picture = (
            Image.fromarray(np.asarray(good.convert("L")).astype(np.uint16) * 256)
            if mode == "I;16"
            else good.convert(mode)
        )
        yield f"mode {mode}.{suffix}", _saved(picture, kind), "either"
    floats = np.full((48, 64), np.nan, np.float32)
    yield "NaN.tif", _saved(Image.fromarray(floats), "TIFF"), "refused"
    yield "infinite.tif", _saved(Image.fromarray(floats + np.inf), "TIFF"), "refused"
    for words, tags in (
        ("orientation 99", {0x0112: 99}),  ("focal 0", {0x920A: 0.0}),
        ("focal -1", {0xA405: -1}), ("focal 65535", {0xA405: 65535}),
    ):  # fmt: skip
        exif = Image.Exif()
        for tag, value in tags.items():
            exif[tag] = value
        yield f"{words}.jpg", _saved(good, "JPEG", exif=exif), "either"
    yield "EXIF of noise.jpg", _saved(good, "JPEG", exif=b"Exif\0\0" + bytes(range(200))), "either"
    yield (
        "EXIF without an end.jpg",
        _saved(good, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 20),
        "either",
    )
    yield "a profile of noise.png", _saved(good, "PNG", icc_profile=bytes(range(200))), "either"
    yield "animated.gif", _saved(good, "GIF", save_all=True, append_images=[good.rotate(90)]), "either"
    yield "svg.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>", "refused"
    yield "raw.cr2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(100), "refused"
    yield "heic.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "refused"
    yield "video.mp4", b"\0\0\0\x18ftypmp42" + bytes(100), "refused"
    yield "python.py", b"print(1)", "refused"
