"""Models and checkpoints that are damaged, of another kind, or promise what is not there."""

import json
import math
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from tests.hostile import base
from tests.hostile.harness import Case
from tests.hostile.splats import KINDS

WEIGHTS = "diffusion_pytorch_model.safetensors"
INFER = ("--views", "images/0.png", "images/1.png", "--model", "model", "--out", "out", "--frames", "2", "--no-splat")
PUSH = ("model", "org/name", "--dry-run")
CONVERT = ("model", "out.safetensors")


class Trap:
    """Unpickled, it would leave a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("unpickled", "w"))


def cases() -> Iterator[Case]:
    """All of them, each by the commands that read models."""
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        yield from _weights(f"type {dtype}", _retyped(dtype))
    for value in (math.nan, math.inf):
        yield from _weights(f"a value {value}", _with_value(value))
    weights = load(base.model_files()[f"image_projector/{WEIGHTS}"])
    yield from _weights("of another shape", save(weights | {"queries": torch.zeros(1, 5, 16)}))
    yield from _weights("without a tensor", save({"queries": weights["queries"]}))
    yield from _weights("empty", b"")
    yield from _weights("pickled", pickle.dumps(Trap()))
    for length in (0, 1, 2**40, 2**63, 2**64 - 1):
        yield from _weights(f"a header of {length}", struct.pack("<Q", length) + b"{}" * 20)
    for text in ("{}", "[1]", '{"a": 1}', '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "[" * 5000):
        content = text.encode().ljust(64)
        yield from _weights(f"a header {text[:20]}", struct.pack("<Q", len(content)) + content)
    whole = base.model_files()[f"image_projector/{WEIGHTS}"]
    for cut in (4, 60, len(whole) - 1):
        yield from _weights(f"cut at {cut}", whole[:cut])
    yield from _configs()
    yield from _checkpoints()


def _retyped(dtype: torch.dtype) -> bytes:
    weights = load(base.model_files()[f"image_projector/{WEIGHTS}"])
    return save({name: value.to(dtype) for name, value in weights.items()}, {"format": "pt"})


def _with_value(value: float) -> bytes:
    weights = load(base.model_files()[f"image_projector/{WEIGHTS}"])
    weights["queries"][0, 0, 0] = value
    return save(weights, {"format": "pt"})


def _weights(name: str, content: bytes) -> Iterator[Case]:
    yield from _model(name, {f"image_projector/{WEIGHTS}": content})


def _model(name: str, files: dict[str, bytes]) -> Iterator[Case]:
    def make(folder: Path) -> None:
        base.write_pictures(folder)
        base.write_model(folder / "model")
        for path, content in files.items():
            (folder / "model" / path).write_bytes(content)

    for command, arguments in (("cus-infer", INFER), ("cus-push", PUSH), ("cus-convert", CONVERT)):
        # An exported checkpoint does not say how it is sampled.
        unused = command == "cus-convert" and name.startswith("sampling")
        yield Case("weights", name, command, arguments, make, "either" if unused else "refused")


def _configs() -> Iterator[Case]:
    wrong: tuple[tuple[str, Any], ...] = (
        ("10^9", 10**9), ("-1", -1), ("0", 0), ("NaN", math.nan), ("text", "x"), ("null", None), ("a list", [[1]]),
        ("an object", {"a": 1}), ("10^400", 10**400),
    )  # fmt: skip
    options = (
        ("unet/config.json", "model_channels"), ("unet/config.json", "num_res_blocks"),
        ("unet/config.json", "channel_mult"),
        ("vae/config.json", "block_out_channels"), ("image_encoder/config.json", "width"),
        ("scheduler/scheduler_config.json", "num_timesteps"), ("model_index.json", "unet"),
        ("model_index.json", "sampling"), ("model_index.json", "_class_name"),
    )  # fmt: skip
    for file, option in options:
        for words, value in wrong:
            content = json.loads(base.model_files()[file]) | {option: value}
            yield from _model(f"{option} is {words}", {file: json.dumps(content).encode()})
    for sampling in ({"width": 10**9}, {"frames": 0}, {"steps": "x"}, {"fps": math.nan}, {"nope": 1}):
        content = json.loads(base.model_files()["model_index.json"])
        content["sampling"] |= sampling
        yield from _model(f"sampling {sampling}", {"model_index.json": json.dumps(content).encode()})
    for text in (b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b"null"):
        yield from _model(f"an index that is {text[:10]!r}", {"model_index.json": text})
        yield from _model(f"a configuration that is {text[:10]!r}", {"unet/config.json": text})


def _checkpoints() -> Iterator[Case]:
    arguments = ("a.ckpt", "out")
    contents: tuple[tuple[str, Any], ...] = (
        ("a number", 3), ("a list", [1, 2]), ("no tensors", {"a": 1}), ("another network", {"a": torch.zeros(3)}),
        ("a state_dict that is a list", {"state_dict": [1]}), ("names that are numbers", {1: torch.zeros(1)}),
        ("code", {"state_dict": Trap()}),
    )  # fmt: skip
    for name, content in contents:

        def make(folder: Path, content: Any = content) -> None:
            torch.save(content, folder / "a.ckpt")

        yield Case("weights", f"a checkpoint of {name}", "cus-convert", arguments, make)
    for name, content in (
        ("empty", b""),
        ("text", b"hello"),
        ("a zip file", b"PK\x03\x04" + bytes(100)),
        ("zeros", bytes(5000)),
    ):

        def write(folder: Path, content: bytes = content) -> None:
            (folder / "a.ckpt").write_bytes(content)
            (folder / "a.safetensors").write_bytes(content)

        for suffix in (".ckpt", ".safetensors"):
            yield Case("weights", f"{suffix} that is {name}", "cus-convert", (f"a{suffix}", "out"), write)
    for make_kind in KINDS:
        kind = make_kind.__name__

        def make_it(folder: Path, make_kind: Any = make_kind) -> None:
            make_kind(folder / "a.ckpt")

        yield Case("kinds", f"checkpoint: {kind}", "cus-convert", arguments, make_it)

        def in_model(folder: Path, make_kind: Any = make_kind) -> None:
            base.write_pictures(folder)
            base.write_model(folder / "model")
            (folder / "model/image_projector" / WEIGHTS).unlink()
            make_kind(folder / "model/image_projector" / WEIGHTS)

        for command, model in (("cus-infer", INFER), ("cus-push", PUSH), ("cus-convert", CONVERT)):
            yield Case("kinds", f"weights: {kind}", command, model, in_model)
