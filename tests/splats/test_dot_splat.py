"""`.splat` files, and what holds for files of every format."""

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cus.errors import InputError
from cus.splats.dot_splat import save_dot_splat
from cus.splats.files import load_splats, read_splats, save_splats
from cus.splats.sh import SH_C0
from tests.splats.test_spz import aligned, scene


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat"])
def test_what_is_no_ordinary_file_is_refused_without_waiting(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / f"zero.{suffix}").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a named pipe"), ("folder", "a folder"), ("zero", "a device")):
        with pytest.raises(InputError, match=f"it is {kind}; expected an ordinary file"):
            load_splats(tmp_path / f"{name}.{suffix}")


def test_dot_splat_rows_that_cannot_be_rendered_are_left_out_and_counted(tmp_path: Path) -> None:
    save_dot_splat(tmp_path / "a.splat", scene(3))
    content = bytearray((tmp_path / "a.splat").read_bytes())
    struct.pack_into("<f", content, 0, math.nan)
    content[60:64] = bytes([128] * 4)
    (tmp_path / "a.splat").write_bytes(content)
    stored = read_splats(tmp_path / "a.splat")
    assert len(stored.gaussians) == 1
    assert "2 of 3 Gaussians left out, for a position that is NaN or infinite (1), a rotation" in stored.notes[0]


def test_dot_splat_rows_are_32_bytes_largest_first_and_come_back_within_their_steps(tmp_path: Path) -> None:
    original = scene(100, degree=1)
    save_dot_splat(tmp_path / "a.splat", original)
    content = (tmp_path / "a.splat").read_bytes()
    order = (original.scales.double().prod(dim=1) * original.opacities).argsort(descending=True)
    expected = original.select(order)
    assert len(content) == 32 * 100
    assert np.allclose(struct.unpack("<6f", content[:24]), [*expected.means[0].tolist(), *expected.scales[0].tolist()])
    loaded = load_splats(tmp_path / "a.splat")
    assert torch.equal(loaded.means, expected.means) and torch.equal(loaded.scales, expected.scales)
    assert loaded.sh.shape == (100, 1, 3) and (loaded.opacities - expected.opacities).abs().max() <= 0.5 / 255 + 1e-6
    colors = (expected.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1)
    assert (loaded.sh[:, 0] * SH_C0 + 0.5 - colors).abs().max() <= 0.5 / 255 + 1e-6
    quats = normalize(expected.quats, dim=1)
    assert (aligned(loaded.quats, quats) - quats).abs().max() <= 1 / 64


def test_dot_splat_files_that_are_cut_or_hold_nonsense_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.splat"
    for content, message in [
        (b"", "0 bytes"),
        (bytes(33), "multiple of 32"),
        (b"\xff" * 64, r"none of its 2 .* position that is NaN or infinite \(2\)"),
        (bytes(32), "scale that is NaN, infinite, zero"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_splats(path)


def test_the_suffix_chooses_the_format_and_the_file_says_how_it_was_fitted(tmp_path: Path) -> None:
    for name in ("a.ply", "A.PLY", "a.spz", "a.splat"):
        save_splats(tmp_path / name, scene(5), antialiased=True)
        assert len(load_splats(tmp_path / name)) == 5
        assert read_splats(tmp_path / name).antialiased == (not name.endswith("splat"))
    save_splats(tmp_path / "a.ply", scene(5))
    assert not read_splats(tmp_path / "a.ply").antialiased
    for name in ("a.obj", "a"):
        with pytest.raises(InputError, match="unknown format"):
            save_splats(tmp_path / name, scene(5))
        with pytest.raises(InputError, match="unknown format"):
            load_splats(tmp_path / name)


def test_no_format_writes_an_empty_scene_or_loses_an_earlier_file(tmp_path: Path) -> None:
    nothing = scene(5).select(torch.zeros(5, dtype=torch.bool))
    for name in ("a.ply", "a.spz", "a.splat"):
        save_splats(tmp_path / name, scene(5))
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InputError):
            save_splats(tmp_path / name, nothing)
        with pytest.raises(InputError, match="cannot write"):
            save_splats(tmp_path / "absent" / name, scene(5))
        assert (tmp_path / name).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply", "a.splat", "a.spz"]
