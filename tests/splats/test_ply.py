import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from cus.errors import InputError
from cus.splats.gaussians import Gaussians
from cus.splats.ply import load_ply, save_ply, save_point_cloud


def gaussians(count: int = 5, bands: int = 4) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        means=torch.randn(count, 3, generator=generator),
        quats=torch.randn(count, 4, generator=generator),
        scales=torch.rand(count, 3, generator=generator) + 1e-3,
        opacities=torch.rand(count, generator=generator) * 0.98 + 0.01,
        sh=torch.randn(count, bands, 3, generator=generator),
    )


def damaged(path: Path, drop: str | None = None, count: int = 3, **values: float) -> Path:
    """A PLY file of Gaussians without one field, or with some values replaced in its first row."""
    save_ply(path, gaussians())
    rows = PlyData.read(str(path), mmap=False)["vertex"].data[:count]
    kept = [name for name in rows.dtype.names if name != drop]
    copied = np.empty(len(rows), dtype=[(name, "<f4") for name in kept])
    for name in kept:
        copied[name] = rows[name]
    for name, value in values.items():
        copied[name][0] = value
    PlyData([PlyElement.describe(copied, "vertex")]).write(str(path))
    return path


@pytest.mark.parametrize("bands", [1, 4, 9, 16])
def test_what_is_saved_is_loaded(tmp_path: Path, bands: int) -> None:
    original = gaussians(bands=bands)
    save_ply(tmp_path / "splat.ply", original)
    loaded = load_ply(tmp_path / "splat.ply")
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(loaded, name), getattr(original, name), atol=1e-6, rtol=1e-6)


def test_the_file_has_the_field_names_order_and_units_that_viewers_expect(tmp_path: Path) -> None:
    original = gaussians(bands=4)
    save_ply(tmp_path / "splat.ply", original)
    ply = PlyData.read(str(tmp_path / "splat.ply"))
    vertex = ply["vertex"]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(9)] + ["opacity", "scale_0", "scale_1", "scale_2"]
    names += [f"rot_{i}" for i in range(4)]
    assert [p.name for p in vertex.properties] == names
    assert all(p.val_dtype == "f4" for p in vertex.properties) and ply.byte_order == "<" and not ply.text
    row = vertex[2]
    opacity = float(original.opacities[2])
    assert row["opacity"] == pytest.approx(math.log(opacity / (1 - opacity)), rel=1e-5)
    assert row["scale_1"] == pytest.approx(math.log(float(original.scales[2, 1])), rel=1e-5)
    assert row["rot_0"] == pytest.approx(float(original.quats[2, 0]))
    # Red's three coefficients first, then green's: channel-major.
    assert row["f_rest_1"] == pytest.approx(float(original.sh[2, 2, 0]))
    assert row["f_rest_3"] == pytest.approx(float(original.sh[2, 1, 1]))


def test_fields_are_read_by_name_whatever_their_order_or_type(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    rows = PlyData.read(str(tmp_path / "a.ply"), mmap=False)["vertex"].data
    names = [*reversed(rows.dtype.names)]
    shuffled = np.empty(len(rows), dtype=[(name, ">f8") for name in names] + [("label", "u1")])
    for name in names:
        shuffled[name] = rows[name]
    PlyData([PlyElement.describe(shuffled, "vertex")], byte_order=">").write(str(tmp_path / "b.ply"))
    torch.testing.assert_close(load_ply(tmp_path / "b.ply").sh, gaussians().sh)


def test_saturated_logits_stay_inside_the_open_interval(tmp_path: Path) -> None:
    loaded = load_ply(damaged(tmp_path / "a.ply", opacity=80.0, scale_0=-200.0))
    assert 0 < loaded.opacities[0] < 1 and loaded.scales[0, 0] > 0


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rot_2 are missing"):
        load_ply(damaged(tmp_path / "a.ply", drop="rot_2"))
    with pytest.raises(InputError, match="8 f_rest"):
        load_ply(damaged(tmp_path / "a.ply", drop="f_rest_4"))


@pytest.mark.parametrize("field", ["x", "opacity", "scale_0", "f_rest_2", "rot_3"])
def test_nan_is_refused(tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError, match="NaN"):
        load_ply(damaged(tmp_path / "a.ply", **{field: math.nan}))


def test_zero_points_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no points"):
        load_ply(damaged(tmp_path / "a.ply", count=0))


def test_files_that_are_no_ply_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ply").write_text("hello")
    (tmp_path / "bytes.ply").write_bytes(bytes(range(256)))
    save_ply(tmp_path / "cut.ply", gaussians())
    (tmp_path / "cut.ply").write_bytes((tmp_path / "cut.ply").read_bytes()[:-7])
    for name in ("text.ply", "bytes.ply", "cut.ply", "absent.ply"):
        with pytest.raises(InputError, match=name):
            load_ply(tmp_path / name)


def test_a_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    before = (tmp_path / "a.ply").read_bytes()
    with pytest.raises(InputError, match="no Gaussians"):
        save_ply(tmp_path / "a.ply", gaussians().select(torch.zeros(5, dtype=torch.bool)))
    with pytest.raises(InputError, match="cannot write"):
        save_ply(tmp_path / "absent" / "a.ply", gaussians())
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_point_clouds_store_positions_and_byte_colors(tmp_path: Path) -> None:
    save_point_cloud(tmp_path / "p.ply", torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, 0.5, -0.1]]))
    row = PlyData.read(str(tmp_path / "p.ply"))["vertex"][0]
    assert tuple(row) == (1, 2, 3, 255, 128, 0)
    assert (tmp_path / "p.ply").read_bytes().endswith(struct.pack("<3f3B", 1, 2, 3, 255, 128, 0))
    with pytest.raises(InputError, match="NaN"):
        save_point_cloud(tmp_path / "p.ply", torch.full((1, 3), math.nan), torch.zeros(1, 3))


def test_gaussians_refuse_what_cannot_be_rendered() -> None:
    good = gaussians()
    fields = {name: getattr(good, name) for name in ("means", "quats", "scales", "opacities", "sh")}
    for name, value, message in [
        ("means", torch.full((5, 3), math.inf), "NaN or infinite"),
        ("scales", torch.zeros(5, 3), "scales must be > 0"),
        ("opacities", torch.ones(5), "opacities must lie"),
        ("quats", torch.zeros(5, 4), "quaternion is zero"),
    ]:
        with pytest.raises(InputError, match=message):
            Gaussians(**fields | {name: value})
    for name, value in [("sh", torch.zeros(5, 5, 3)), ("means", torch.zeros(4, 3)), ("quats", torch.zeros(5, 3))]:
        with pytest.raises(ValueError, match="shape"):
            Gaussians(**fields | {name: value})


def test_selecting_keeps_rows_together() -> None:
    some = gaussians()
    assert len(some.select(torch.tensor([3, 1]))) == 2
    torch.testing.assert_close(some.select(torch.tensor([3, 1])).sh[0], some.sh[3])
