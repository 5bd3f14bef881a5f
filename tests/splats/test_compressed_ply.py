"""SuperSplat's compressed PLY, from an encoder of its published layout that is written here, a Gaussian at a time."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import recfunctions as rfn
from plyfile import PlyData, PlyElement
from torch.nn.functional import normalize

from cus.errors import InputError
from cus.splats import Gaussians
from cus.splats.files import load_splats, read_splats
from cus.splats.sh import SH_C0

AXES, COLORS = "xyz", "rgb"


def scene(count: int, bands: int) -> Gaussians:
    generator = torch.Generator().manual_seed(3)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    sh = (uniform(count, bands, 3) * 2 - 1) * 1.5
    return Gaussians(
        uniform(count, 3) * 4, torch.randn(count, 4, generator=generator), uniform(count, 3) + 0.01,
        uniform(count) * 0.9 + 0.05, sh,
    )  # fmt: skip


def level(value: float, low: float, high: float, bits: int) -> int:
    return round((value - low) / max(high - low, 1e-9) * (2**bits - 1))


def packed_rotation(quat: list[float]) -> int:
    largest = max(range(4), key=lambda i: abs(quat[i]))
    packed = largest
    for i in range(4):
        if i != largest:
            value = math.copysign(1, quat[largest]) * quat[i]
            packed = packed << 10 | round((value * math.sqrt(0.5) + 0.5) * 1023)
    return packed


def compressed(path: Path, g: Gaussians, color_ranges: bool = True) -> dict[str, np.ndarray]:
    """Write a file; its elements, so that a test can damage them."""
    logs, colors, quats = g.scales.log(), g.sh[:, 0] * SH_C0 + 0.5, normalize(g.quats, dim=1)
    names = [f"{end}_{kind}{axis}" for kind in ("", "scale_") for end in ("min", "max") for axis in AXES]
    names += [f"{end}_{color}" for end in ("min", "max") for color in COLORS] if color_ranges else []
    chunks = np.zeros(-(-len(g) // 256), [(name, "<f4") for name in names])
    vertices = np.zeros(len(g), [(f"packed_{n}", "<u4") for n in ("position", "rotation", "scale", "color")])
    for c in range(len(chunks)):
        rows = slice(256 * c, 256 * (c + 1))
        for values, kind, letters in ((g.means, "", AXES), (logs, "scale_", AXES), (colors, "", COLORS)):
            for i, letter in enumerate(letters):
                if f"min_{kind}{letter}" in names:
                    chunks[f"min_{kind}{letter}"][c] = float(values[rows, i].min())
                    chunks[f"max_{kind}{letter}"][c] = float(values[rows, i].max())
    for n in range(len(g)):
        c = n // 256

        def ends(name: str, c: int = c) -> tuple[float, float]:
            known = f"min_{name}" in names
            return (float(chunks[f"min_{name}"][c]), float(chunks[f"max_{name}"][c])) if known else (0.0, 1.0)

        for field, values, kind in (("position", g.means, ""), ("scale", logs, "scale_")):
            x, y, z = (level(float(values[n, i]), *ends(kind + AXES[i]), bits) for i, bits in enumerate((11, 10, 11)))
            vertices[f"packed_{field}"][n] = x << 21 | y << 11 | z
        red, green, blue = (level(float(colors[n, i]), *ends(COLORS[i]), 8) for i in range(3))
        vertices["packed_color"][n] = red << 24 | green << 16 | blue << 8 | round(float(g.opacities[n]) * 255)
        vertices["packed_rotation"][n] = packed_rotation(quats[n].tolist())
    elements = {"chunk": chunks, "vertex": vertices}
    if g.sh_degree:
        rest = g.sh[:, 1:].transpose(1, 2).flatten(1).numpy()
        elements["sh"] = np.zeros(len(g), [(f"f_rest_{i}", "u1") for i in range(rest.shape[1])])
        for i in range(rest.shape[1]):
            elements["sh"][f"f_rest_{i}"] = np.clip(np.trunc((rest[:, i] / 8 + 0.5) * 256), 0, 255)
    write(path, elements)
    return elements


def write(path: Path, elements: dict[str, np.ndarray]) -> None:
    PlyData([PlyElement.describe(rows, name) for name, rows in elements.items()]).write(str(path))


@pytest.mark.parametrize(("count", "bands"), [(1, 1), (300, 4), (257, 16)])
def test_every_field_comes_back_within_half_a_step(tmp_path: Path, count: int, bands: int) -> None:
    original = scene(count, bands)
    compressed(tmp_path / "a.ply", original)
    loaded = load_splats(tmp_path / "a.ply")
    assert loaded.sh.shape == original.sh.shape
    torch.testing.assert_close(loaded.means, original.means, atol=0.51 * 4 / 1023, rtol=0)
    torch.testing.assert_close(loaded.scales.log(), original.scales.log(), atol=0.51 * 4.7 / 1023, rtol=0)
    torch.testing.assert_close(loaded.opacities, original.opacities, atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(loaded.sh[:, 0], original.sh[:, 0], atol=0.51 * 3 / 255, rtol=0)
    torch.testing.assert_close(loaded.sh[:, 1:], original.sh[:, 1:], atol=0.51 * 8 / 256, rtol=0)
    quats = normalize(original.quats, dim=1)
    signs = (loaded.quats * quats).sum(dim=1, keepdim=True).sign()
    torch.testing.assert_close(loaded.quats * signs, quats, atol=0.004, rtol=0)


def test_older_files_have_colours_without_a_range(tmp_path: Path) -> None:
    original = scene(10, 1)
    original = replace(original, sh=original.sh.clamp(-1, 1))
    compressed(tmp_path / "a.ply", original, color_ranges=False)
    torch.testing.assert_close(load_splats(tmp_path / "a.ply").sh, original.sh, atol=0.51 / 255 / SH_C0, rtol=0)


def test_opacities_of_0_and_255_are_inside_the_open_range(tmp_path: Path) -> None:
    elements = compressed(tmp_path / "a.ply", scene(3, 1))
    elements["vertex"]["packed_color"] = [0, 255, 128]
    write(tmp_path / "a.ply", elements)
    loaded = load_splats(tmp_path / "a.ply").opacities
    assert 0 < loaded[0] < 1e-6 and 1 - 1e-6 < loaded[1] < 1 and loaded[2] == pytest.approx(128 / 255)


def test_chunks_with_a_nan_range_cost_their_gaussians_alone(tmp_path: Path) -> None:
    elements = compressed(tmp_path / "a.ply", scene(300, 1))
    elements["chunk"]["max_y"][1] = math.nan
    write(tmp_path / "a.ply", elements)
    stored = read_splats(tmp_path / "a.ply")
    assert len(stored.gaussians) == 256 and "44 of 300 Gaussians left out" in stored.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("chunk"), "need 2 chunks, it has none"),
        (lambda e: e.update(chunk=e["chunk"][:1]), "need 2 chunks, it has 1"),
        (
            lambda e: e.update(chunk=rfn.repack_fields(e["chunk"][["min_x", "max_x"]])),
            "chunk fields .*min_scale_z.* are missing",
        ),
        (lambda e: e.update(sh=e["sh"][:-1]), "of f_rest_0 on"),
        (lambda e: e.update(vertex=e["vertex"].astype([(n, "<f4") for n in e["vertex"].dtype.names])), "32 bits"),
    ],
)
def test_damaged_files_are_refused_by_what_is_wrong(tmp_path: Path, change, message: str) -> None:
    elements = compressed(tmp_path / "a.ply", scene(300, 4))
    change(elements)
    write(tmp_path / "a.ply", elements)
    with pytest.raises(InputError, match=message):
        load_splats(tmp_path / "a.ply")
