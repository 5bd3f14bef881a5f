"""What the commands themselves leave behind, damaged: runs, evaluations, splits, clips."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile import base
from tests.hostile.harness import ROOT, Case, Expected
from tests.hostile.splats import KINDS

FIT = ("out", "--iterations", "1", "--out", "fitted")
READERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cus-fit", FIT),
    ("cus-export", ("out", "--format", "colmap")),
    ("cus-export", ("out", "--format", "spz")),
    ("cus-view", ("out", "--record", "o.mp4", "--frames", "1", "--size", "64")),
)
RESUME = (
    "--views", str(ROOT / "examples/courtyard/a.jpg"), str(ROOT / "examples/courtyard/b.jpg"), "--out", "out",
    "--resume", "--photo-size", "192", "--size", "64", "--frames", "3", "--steps", "1", "--splat-iterations", "5",
)  # fmt: skip
BAD = (
    ("empty", b""), ("cut", b"{"), ("a list", b"[]"), ("null", b"null"), ("deep", b"[" * 100_000),
    ("binary", bytes(range(256))),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for file in ("run.json", "transforms.json", "points.ply", "splat.ply"):
        for words, content in BAD:
            for command, arguments in READERS:
                yield Case("recorded", f"{file} is {words}", command, arguments, _replaced(file, content), "either")
        for kind in KINDS[:3]:
            yield Case("kinds", f"{file}: {kind.__name__}", "cus-view", READERS[3][1], _kind(file, kind), "either")
            yield Case("kinds", f"{file}: {kind.__name__}", "cus-fit", FIT, _kind(file, kind), "either")
    for key in ("settings", "notes", "seconds", "files", "finished", "status"):
        for words, value in (("null", None), ("text", "x"), ("NaN", math.nan), ("a list", [[1]]), ("huge", 10**400)):
            make = _changed(key, value)
            for command, arguments in (*READERS[:2], ("cus-infer", RESUME)):
                yield Case("recorded", f"run.json's {key} is {words}", command, arguments, make, "either")
    for key in ("views", "fps", "target", "cameras", "trajectory"):
        for words, value in (("null", None), ("text", "x"), ("a list", [[1]]), ("huge", 10**400)):
            for command, arguments in READERS[:2]:
                name = f"the setting {key} of run.json is {words}"
                yield Case("recorded", name, command, arguments, _set(key, value), "either")
    for words, content in BAD[:4]:
        yield Case("recorded", f"every state is {words}", "cus-infer", RESUME, _states(content), "either")
        yield Case("recorded", f"every state is {words}", "cus-fit", FIT, _states(content), "either")
    yield from _splits()
    yield from _clips()


def _replaced(file: str, content: bytes) -> Any:
    def make(folder: Path) -> None:
        base.write_run(folder)
        (folder / "out" / file).write_bytes(content)

    return make


def _kind(file: str, kind: Any) -> Any:
    def make(folder: Path) -> None:
        base.write_run(folder)
        (folder / "out" / file).unlink()
        kind(folder / "out" / file)

    return make


def _changed(key: str, value: Any) -> Any:
    def make(folder: Path) -> None:
        base.write_run(folder)
        file = folder / "out/run.json"
        base.write_json(file, json.loads(file.read_text()) | {key: value})

    return make


def _set(key: str, value: Any) -> Any:
    def make(folder: Path) -> None:
        base.write_run(folder)
        file = folder / "out/run.json"
        content = json.loads(file.read_text())
        content["settings"][key] = value
        base.write_json(file, content)

    return make


def _states(content: bytes) -> Any:
    def make(folder: Path) -> None:
        base.write_run(folder)
        for path in (folder / "out").rglob("*.safetensors"):
            path.write_bytes(content)

    return make


def _split() -> dict[str, Any]:
    return json.loads((ROOT / "configs/eval/courtyard.json").read_text())


def _splits() -> Iterator[Case]:
    arguments = (
        "--data",
        str(ROOT / "examples/courtyard"),
        "--split",
        "split.json",
        "--out",
        "eval",
        "--rows",
        "nearest",
    )

    def case(name: str, content: Any, expected: Expected = "refused") -> Case:
        def make(folder: Path) -> None:
            if isinstance(content, bytes):
                (folder / "split.json").write_bytes(content)
            else:
                base.write_json(folder / "split.json", content)

        return Case("recorded", f"split file: {name}", "cus-eval", arguments, make, expected)

    for words, content in BAD:
        yield case(words, content)
    wrong: tuple[tuple[str, Any], ...] = (
        ("null", None), ("text", "x"), ("NaN", math.nan), ("a list", [1]), ("-1", -1), ("10^400", 10**400),
        ("true", True),
    )  # fmt: skip
    for key in ("format", "protocol", "size", "rules", "scenes"):
        for words, value in wrong:
            yield case(
                f"{key} is {words}",
                _split() | {key: value},
                "either" if key == "size" and words == "true" else "refused",
            )
    scene = next(iter(_split()["scenes"]))
    for key in ("source", "kind", "photographs", "cases"):
        for words, value in wrong:
            content = _split()
            content["scenes"][scene][key] = value
            yield case(f"{key} is {words}", content)
    for key in ("name", "references", "target", "zoom", "center", "level", "protocol", "motion"):
        for words, value in wrong:
            content = _split()
            content["scenes"][scene]["cases"][0][key] = value
            yield case(
                f"{key} of a case is {words}", content, "either" if (key, words) == ("name", "text") else "refused"
            )
    for path in ("../../etc", "/etc/passwd", "a\\b", "a\0b"):
        content = _split()
        content["scenes"][scene]["source"] = path
        yield case(f"source {path!r}", content)


def _clips() -> Iterator[Case]:
    for words, content in BAD[:4]:
        for script, name in (("data/cache_latents.py", "clips"), ("train/vae.py", "data")):

            def make(folder: Path, content: bytes = content) -> None:
                (folder / "clips").mkdir()
                for suffix in (".safetensors", ".json"):
                    (folder / f"clips/000000{suffix}").write_bytes(content)

            yield Case("recorded", f"a clip that is {words}", script, (f"{name}=clips", "out=out", "vae=absent"), make)
    for script in ("data/cache_latents.py",):
        for kind in ("absent", "/dev/zero", os.devnull):
            yield Case("recorded", f"clips={kind}", script, (f"clips={kind}", "out=out", "vae=absent"))
