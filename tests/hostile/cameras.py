"""Cameras from files: transforms.json, COLMAP's binary and text models, and paths."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile import base
from tests.hostile.harness import Case, Expected

WRONG: tuple[tuple[str, Any], ...] = (
    ("text", "x"), ("a list", []), ("an object", {}), ("true", True), ("NaN", math.nan), ("infinity", math.inf),
    ("1e300", 1e300), ("-1", -1), ("0", 0), ("10^400", 10**400),
)  # fmt: skip
# Numbers that a camera may have: its middle may lie outside the picture, and a lens may have any small coefficient.
ALLOWED = {"cx": ("-1", "0"), "cy": ("-1", "0"), "k1": ("-1", "0"), "k2": ("-1", "0"), "p1": ("-1", "0"), "k4": ("0",)}
FIT = (".", "--out", "out", "--iterations", "1", "--size", "64")
VIEW = ("a.ply", "--cameras", "transforms.json", "--record", "out.mp4", "--frames", "1", "--size", "64")


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _transforms()
    yield from _colmap()
    yield from _paths()


def _transforms() -> Iterator[Case]:
    for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "k4", "camera_model", "is_fisheye"):
        for words, value in WRONG:
            content = base.transforms(**{name: value})
            usable = words in ALLOWED.get(name, ()) or (name == "is_fisheye" and words == "true")
            yield from _posed(f"{name} is {words}", content, "either" if usable else "refused")
    for name in ("file_path", "transform_matrix"):
        for words, value in WRONG:
            content = base.transforms()
            content["frames"][1][name] = value
            # A photograph that is nowhere is left out with a note.
            usable = name == "file_path" and words == "text"
            yield from _posed(f"{name} of a frame is {words}", content, "either" if usable else "refused")
    for name, value in (("camera_angle_x", 0.9), ("camera_angle_y", 0.7), ("x_fov", 50.0)):
        for words, wrong in (("right", value), *WRONG):
            content = {key: v for key, v in base.transforms().items() if key not in ("fl_x", "fl_y")} | {name: wrong}
            yield from _posed(f"{name} is {words}", content, "usable" if words == "right" else "refused")
    for words, value in (*WRONG, ("a list of texts", ["a"]), ("a list of lists", [[]]), ("empty objects", [{}] * 3)):
        yield from _posed(f"frames are {words}", base.transforms(frames=value))
    for words, matrix in _matrices():
        content = base.transforms()
        content["frames"][1]["transform_matrix"] = matrix
        yield from _posed(f"a matrix that is {words}", content)
    yield from _posed("no focal length", {k: v for k, v in base.transforms().items() if not k.startswith("fl_")})
    yield from _posed("k1 = -50", base.transforms(k1=-50.0))
    yield from _posed("an equirectangular camera", base.transforms(camera_model="EQUIRECTANGULAR"))
    yield from _posed("200,000 frames", base.transforms(frames=base.transforms()["frames"][:1] * 200_000))
    for words, content in (
        ("empty", b""), ("not JSON", b"{"), ("deep", b"[" * 100_000), ("a list", b"[]"), ("null", b"null"),
        ("binary", bytes(range(256))), ("a web page", b"<html>"), ("many digits", b"1" * 10_000),
    ):  # fmt: skip
        yield from _raw(f"a file that is {words}", content)


def _matrices() -> Iterator[tuple[str, Any]]:
    good = base.c2w(1)
    yield "3x3", [row[:3] for row in good[:3]]
    yield "ragged", [*good[:3], [0]]
    yield "of texts", [["a"] * 4] * 4
    yield "NaN", [[math.nan] * 4] * 4
    yield "zero", [[0.0] * 4] * 4
    yield "scaled", [[2 * v for v in row] for row in good[:3]] + [good[3]]
    yield "a reflection", [[-v for v in good[0]], *good[1:]]
    yield "with a bad last row", [*good[:3], [0, 0, 1, 1]]
    yield "sheared", [[1, 1, 0, 0], *good[1:]]
    yield "far away", [[*row[:3], 1e30] for row in good[:3]] + [good[3]]
    yield "deep", [[[[1]]]]


def _posed(name: str, content: Any, expected: Expected = "refused") -> Iterator[Case]:
    def make(folder: Path) -> None:
        base.write_posed(folder, content)
        (folder / "a.ply").write_bytes(base.splat_bytes(".ply"))

    yield Case("transforms", name, "cus-fit", FIT, make, expected)
    view = "either" if expected == "usable" else expected
    yield Case("transforms", name, "cus-view", VIEW, make, view)


def _raw(name: str, content: bytes) -> Iterator[Case]:
    def make(folder: Path) -> None:
        base.write_posed(folder)
        (folder / "transforms.json").write_bytes(content)
        (folder / "a.ply").write_bytes(base.splat_bytes(".ply"))
        (folder / "path.json").write_bytes(content)

    yield Case("transforms", name, "cus-fit", FIT, make)
    yield Case("transforms", name, "cus-view", VIEW, make)
    yield Case("paths", name, "cus-infer", _infer("path.json"), make, quick=True)
    yield Case("transforms", name, "cus-eval", ("--data", ".", "--out", "eval"), make)


def _colmap() -> Iterator[Case]:
    good = base.colmap_files()
    for name, content in good.items():
        # A scene can do without its points.
        points: Expected = "either" if name == "points3D.bin" else "refused"
        for cut in sorted({0, 4, 8, 9, 30, len(content) // 2, len(content) - 1}):
            yield _model(
                f"{name} cut at {cut}", {name: content[:cut]}, "either" if name == "points3D.bin" else "refused"
            )
        for count in (2**63, 10**12, 10**6, 0):
            changed = struct.pack("<Q", count) + content[8:]
            yield _model(f"{name} promises {count}", {name: changed}, points)
        yield _model(f"{name} is text", {name: b"# hello\n" * 20}, points)
    cameras, images = good["cameras.bin"], good["images.bin"]
    for model in (-1, 99, 2**31 - 1):
        yield _model(f"camera model {model}", {"cameras.bin": cameras[:12] + struct.pack("<i", model) + cameras[16:]})
    for place, words in ((16, "width"), (24, "height")):
        for value in (0, 2**63, 10**9):
            changed = cameras[:place] + struct.pack("<Q", value) + cameras[place + 8 :]
            yield _model(f"{words} {value}", {"cameras.bin": changed})
    for value in (math.nan, math.inf, -60.0, 0.0, 1e300):
        yield _model(f"focal length {value}", {"cameras.bin": cameras[:32] + struct.pack("<d", value) + cameras[40:]})
        changed = images[:12] + struct.pack("<d", value) + images[20:]
        expected: Expected = "either" if value in (-60.0, 0.0, 1e300) else "refused"
        yield _model(f"rotation {value}", {"images.bin": changed}, expected)
        changed = images[:44] + struct.pack("<d", value) + images[52:]
        yield _model(f"translation {value}", {"images.bin": changed}, expected)
    yield _model("zero quaternion", {"images.bin": images[:12] + bytes(32) + images[44:]})
    yield _model("an unknown camera", {"images.bin": images[:68] + struct.pack("<I", 77) + images[72:]})
    yield _model("a name without an end", {"images.bin": images[:72] + b"a" * 100_000})
    yield _model("a name that leads out", {"images.bin": images.replace(b"0.png\0", b"../..\0")}, "either")
    for text in ("", "1 PINHOLE", "1 PINHOLE 64 48 x 60 32 24", "1 NOPE 64 48 60", "1 PINHOLE 64 48 nan 60 32 24"):
        yield _text_model(text)


def _model(name: str, changes: dict[str, bytes], expected: Expected = "refused") -> Case:
    def make(folder: Path) -> None:
        base.write_colmap(folder, base.colmap_files() | changes)

    return Case("colmap", name, "cus-fit", FIT, make, expected)


def _text_model(cameras: str) -> Case:
    def make(folder: Path) -> None:
        base.write_colmap(folder, {})
        for name, content in (("cameras", cameras), ("images", "1 1 0 0 0 0 0 4 1 0.png\n\n"), ("points3D", "")):
            (folder / f"sparse/0/{name}.txt").write_text(content)
        for file in (folder / "sparse/0").glob("*.bin"):
            file.unlink()

    return Case("colmap", f"cameras.txt of {cameras[:30]!r}", "cus-fit", FIT, make)


def _infer(path: str) -> tuple[str, ...]:
    views = ("--views", "images/0.png", "images/1.png")
    return (*views, "--conditioning-only", "--trajectory", path, "--out", "out", "--size", "64")


def _paths() -> Iterator[Case]:
    matrix = [value for row in base.c2w(0) for value in row]
    entry: dict[str, Any] = {"camera_to_world": matrix, "fov": 50.0, "aspect": 1.33}
    for key in ("camera_to_world", "fov", "aspect", "camera_type"):
        for words, value in WRONG:
            yield _path(f"{key} is {words}", {"camera_path": [entry, entry | {key: value}]})
    for words, value in WRONG:
        yield _path(f"camera_path is {words}", {"camera_path": value})
        yield _path(f"an entry is {words}", {"camera_path": [value]})
        if words not in ("text", "an object"):
            yield _path(f"keyframes are {words}", {"keyframes": value})
    for kind in ("equirectangular", "fisheye", "omnidirectional", "vr180", "nope"):
        yield _path(f"camera_type {kind}", {"camera_path": [entry], "camera_type": kind})
    for fov in (180, 181, 1e-12, -50):
        yield _path(f"fov {fov}", {"camera_path": [entry | {"fov": fov}]})
    for words, wrong in _matrices():
        yield _path(f"a matrix that is {words}", {"camera_path": [entry | {"camera_to_world": wrong}]})
    yield _path("nothing in it", {"camera_path": [], "keyframes": []})
    yield _path("200,000 cameras", {"camera_path": [entry] * 200_000})
    frames = base.transforms()["frames"]
    yield _path("200,000 frames", base.transforms(frames=frames[:1] * 200_000))
    yield _path("a keyframe of text", {"keyframes": [{"matrix": "spam", "fov": 50}]})


def _path(name: str, content: Any) -> Case:
    def make(folder: Path) -> None:
        base.write_posed(folder)
        base.write_json(folder / "path.json", content)

    return Case("paths", name, "cus-infer", _infer("path.json"), make, quick=True)
