import math
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from cus.errors import InputError
from cus.splats.files import load_splats, read_splats
from cus.splats.gaussians import Gaussians
from cus.splats.ply import load_point_cloud, save_ply, save_point_cloud
from cus.splats.projection import rotmat_from_quat
from cus.splats.sh import SH_C0


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
    loaded = load_splats(tmp_path / "splat.ply")
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
    torch.testing.assert_close(load_splats(tmp_path / "b.ply").sh, gaussians().sh)


def test_saturated_logits_stay_inside_the_open_interval(tmp_path: Path) -> None:
    loaded = load_splats(damaged(tmp_path / "a.ply", opacity=80.0, scale_0=-200.0))
    assert 0 < loaded.opacities[0] < 1 and loaded.scales[0, 0] > 0


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rot_2 are missing"):
        load_splats(damaged(tmp_path / "a.ply", drop="rot_2"))
    with pytest.raises(InputError, match="8 f_rest"):
        load_splats(damaged(tmp_path / "a.ply", drop="f_rest_4"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"x": math.nan}, "a position that is NaN or infinite"),
        ({"z": -math.inf, "rot_0": math.nan}, "a position that is NaN or infinite"),
        ({"scale_0": -math.inf}, "a scale that is NaN, infinite, zero or below"),
        ({"scale_1": 100.0}, "a scale that is NaN, infinite, zero or below"),
        ({"rot_3": math.inf}, "a rotation that is zero, NaN or infinite"),
        ({"rot_0": 0, "rot_1": 0, "rot_2": 0, "rot_3": 0}, "a rotation that is zero, NaN or infinite"),
        ({"opacity": math.nan}, "an opacity that is NaN"),
        ({"f_rest_2": math.nan}, "a colour that is NaN or infinite"),
    ],
)
def test_what_cannot_be_rendered_is_left_out_and_counted(tmp_path: Path, values: dict[str, float], reason: str) -> None:
    stored = read_splats(damaged(tmp_path / "a.ply", **values))
    assert torch.equal(stored.gaussians.means, gaussians().means[1:3])
    assert stored.notes == (f"a.ply: 1 of 3 Gaussians left out, for {reason} (1)",)
    with pytest.warns(UserWarning, match="1 of 3 Gaussians left out"):
        load_splats(tmp_path / "a.ply")
    with pytest.raises(InputError, match="none of its 1 Gaussians can be rendered"):
        read_splats(damaged(tmp_path / "a.ply", count=1, **values))


def test_infinite_logits_are_the_ends_of_the_open_range(tmp_path: Path) -> None:
    for value, end in ((math.inf, 1.0), (-math.inf, 0.0)):
        stored = read_splats(damaged(tmp_path / "a.ply", opacity=value))
        assert len(stored.gaussians) == 3 and not stored.notes
        assert stored.gaussians.opacities[0] != end and float(stored.gaussians.opacities[0]) == pytest.approx(end)


def test_a_double_too_large_for_a_float_counts_as_infinite(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    rows = PlyData.read(str(tmp_path / "a.ply"), mmap=False)["vertex"].data
    wide = rows.astype([(name, "<f8") for name in rows.dtype.names])
    wide["y"][3] = 1e300
    PlyData([PlyElement.describe(wide, "vertex")]).write(str(tmp_path / "b.ply"))
    assert "1 of 5 Gaussians left out" in read_splats(tmp_path / "b.ply").notes[0]


@pytest.mark.parametrize(("dtype", "largest"), [("u1", 255), ("<u2", 65535), ("<f4", 1.0)])
def test_colours_in_place_of_harmonics_are_those_of_degree_0(tmp_path: Path, dtype: str, largest: float) -> None:
    save_ply(tmp_path / "a.ply", gaussians(bands=1))
    rows = PlyData.read(str(tmp_path / "a.ply"), mmap=False)["vertex"].data
    names = {"f_dc_0": "red", "f_dc_1": "green", "f_dc_2": "blue"}
    made = np.empty(len(rows), [(names.get(n, n), dtype if n in names else "<f4") for n in rows.dtype.names])
    for name in rows.dtype.names:
        made[names.get(name, name)] = largest * 0.2 if name in names else rows[name]
    PlyData([PlyElement.describe(made, "vertex")]).write(str(tmp_path / "b.ply"))
    loaded = load_splats(tmp_path / "b.ply")
    torch.testing.assert_close(loaded.sh, torch.full((5, 1, 3), (0.2 - 0.5) / SH_C0), atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded.opacities, gaussians().opacities)


def rewritten(path: Path, **options: object) -> Path:
    """The Gaussians as another program may write them: `text`, another `byte_order`, other elements before."""
    save_ply(path, gaussians())
    rows = PlyData.read(str(path), mmap=False)["vertex"].data
    elements = [*options.pop("before", []), PlyElement.describe(rows, "vertex")]
    PlyData(elements, **options).write(str(path))
    return path


def test_other_elements_lists_and_comments_in_any_encoding_are_no_matter(tmp_path: Path) -> None:
    faces = np.empty(2, [("vertex_indices", object)])
    faces["vertex_indices"] = [np.array([0, 1, 2], np.int32), np.array([1, 2], np.int32)]
    ranges = PlyElement.describe(np.zeros(3, [("low", "<f4"), ("high", "<f8")]), "ranges")
    for text, order in ((False, "<"), (False, ">"), (True, "=")):
        for before in ([], [ranges], [PlyElement.describe(faces, "face"), ranges]):
            path = rewritten(tmp_path / "a.ply", text=text, byte_order=order, before=before)
            content = path.read_bytes().replace(b"element", "comment Größe 大きさ\nelement".encode(), 1)
            path.write_bytes(content.replace(b"element", b"comment \xff\xfe\nelement", 1))
            stored = read_splats(path)
            torch.testing.assert_close(stored.gaussians.means, gaussians().means)
            assert not stored.notes


def test_a_list_where_a_number_is_meant_is_named(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians(1))
    rows = PlyData.read(str(tmp_path / "a.ply"), mmap=False)["vertex"].data
    lists = np.empty(1, [(n, object if n == "opacity" else "<f4") for n in rows.dtype.names])
    for name in rows.dtype.names:
        lists[name][0] = np.array([0.0], np.float32) if name == "opacity" else rows[name][0]
    PlyData([PlyElement.describe(lists, "vertex", len_types={"opacity": "u1"})]).write(str(tmp_path / "b.ply"))
    with pytest.raises(InputError, match="opacity is a list"):
        load_splats(tmp_path / "b.ply")


def test_bytes_after_the_last_gaussian_are_told(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    with (tmp_path / "a.ply").open("ab") as file:
        file.write(b"12345")
    assert read_splats(tmp_path / "a.ply").notes == ("a.ply: 5 bytes after the last Gaussian were not read",)


@pytest.mark.parametrize("count", [1, 8, 12, 46, 72])
def test_a_number_of_harmonics_that_no_degree_has_is_refused(tmp_path: Path, count: int) -> None:
    save_ply(tmp_path / "a.ply", gaussians(bands=1))
    rows = PlyData.read(str(tmp_path / "a.ply"), mmap=False)["vertex"].data
    more = np.zeros(len(rows), [*rows.dtype.descr, *((f"f_rest_{i}", "<f4") for i in range(count))])
    for name in rows.dtype.names:
        more[name] = rows[name]
    PlyData([PlyElement.describe(more, "vertex")]).write(str(tmp_path / "b.ply"))
    with pytest.raises(InputError, match=f"{count} f_rest"):
        load_splats(tmp_path / "b.ply")


def test_text_files_are_read_as_well(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    ply = PlyData.read(str(tmp_path / "a.ply"), mmap=False)
    PlyData([PlyElement.describe(ply["vertex"].data, "vertex")], text=True).write(str(tmp_path / "b.ply"))
    torch.testing.assert_close(load_splats(tmp_path / "b.ply").means, gaussians().means)


def test_other_kinds_of_ply_are_named(tmp_path: Path) -> None:
    save_point_cloud(tmp_path / "points.ply", torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(InputError, match="coloured points has no Gaussians"):
        load_splats(tmp_path / "points.ply")
    packed = np.zeros(2, [("packed_position", "<u4"), ("packed_color", "<u4")])
    PlyData([PlyElement.describe(packed, "vertex")]).write(str(tmp_path / "packed.ply"))
    with pytest.raises(InputError, match="damaged compressed PLY: .* packed_rotation, packed_scale are missing"):
        load_splats(tmp_path / "packed.ply")
    PlyData([PlyElement.describe(packed, "face")]).write(str(tmp_path / "faces.ply"))
    with pytest.raises(InputError, match="no 'vertex' element"):
        load_splats(tmp_path / "faces.ply")
    save_ply(tmp_path / "a.ply", gaussians())
    with pytest.raises(InputError, match="no coloured point cloud"):
        load_point_cloud(tmp_path / "a.ply")


def test_random_damage_is_either_harmless_or_refused(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    whole = (tmp_path / "a.ply").read_bytes()
    random = np.random.default_rng(0)
    header = whole.index(b"end_header") + 11
    for trial in range(300):
        content = bytearray(whole)
        for place in random.integers(0, header if trial % 2 else len(whole), 1 + trial % 3):
            content[place] = random.integers(256)
        (tmp_path / "b.ply").write_bytes(content[: random.integers(len(whole))] if trial % 5 == 0 else content)
        try:
            assert len(load_splats(tmp_path / "b.ply")) >= 1
        except InputError as error:
            assert "b.ply" in str(error)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    for text in (False, True):
        path = rewritten(tmp_path / "a.ply", text=text)
        path.write_bytes(path.read_bytes().replace(b"vertex 5", b"vertex 99999999999999"))
        with pytest.raises(InputError, match="damaged or no PLY.* promises 99,999,999,999,999 rows"):
            load_splats(path)


def test_a_file_without_gaussians_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Gaussians"):
        load_splats(damaged(tmp_path / "a.ply", count=0))


def test_files_that_are_no_ply_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.ply").write_text("hello")
    (tmp_path / "bytes.ply").write_bytes(bytes(range(256)))
    save_ply(tmp_path / "cut.ply", gaussians())
    (tmp_path / "cut.ply").write_bytes((tmp_path / "cut.ply").read_bytes()[:-7])
    for name in ("text.ply", "bytes.ply", "cut.ply", "absent.ply"):
        with pytest.raises(InputError, match=name):
            load_splats(tmp_path / name)


def test_a_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", gaussians())
    before = (tmp_path / "a.ply").read_bytes()
    with pytest.raises(InputError, match="no Gaussians"):
        save_ply(tmp_path / "a.ply", gaussians().select(torch.zeros(5, dtype=torch.bool)))
    with pytest.raises(InputError, match="cannot write"):
        save_ply(tmp_path / "absent" / "a.ply", gaussians())
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


FULL_DISK = """
import resource, signal, sys
import torch
from cus.errors import InputError
from cus.splats import Gaussians
from cus.splats.files import save_splats

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails like one to a full disk
n = 5000
half = torch.full((n,), 0.5)
g = Gaussians(torch.rand(n, 3), torch.rand(n, 4) + 0.1, torch.rand(n, 3) + 0.1, half, torch.rand(n, 1, 3))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for path in sys.argv[1:]:
    try:
        save_splats(path, g)
        print("written", path)
    except InputError as error:
        print("refused", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the file size limit that stands for a full disk is POSIX")
def test_a_full_disk_leaves_the_earlier_file_and_no_rubbish(tmp_path: Path) -> None:
    names = ["a.ply", "a.spz", "a.splat"]
    for name in names:
        (tmp_path / name).write_text("earlier")
    command = [sys.executable, "-c", FULL_DISK, *(str(tmp_path / name) for name in names)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [["refused", "the", "disk"]] * 3, result.stdout + result.stderr
    assert [(tmp_path / name).read_text() for name in names] == ["earlier"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_viser_shows_the_gaussians_of_a_file(tmp_path: Path) -> None:
    viser = pytest.importorskip("viser")
    save_ply(tmp_path / "a.ply", gaussians(50))
    loaded = load_splats(tmp_path / "a.ply")
    axes = rotmat_from_quat(loaded.quats) * loaded.scales[:, None]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = viser.ViserServer(host="127.0.0.1", port=port, verbose=False)
    try:
        handle = server.scene.add_gaussian_splats(
            "/splats",
            centers=loaded.means.numpy(),
            covariances=(axes @ axes.mT).numpy(),
            rgbs=(loaded.sh[:, 0] * SH_C0 + 0.5).clamp(0, 1).numpy(),
            opacities=loaded.opacities[:, None].numpy(),
        )
        assert handle.name == "/splats"
        assert len(handle.buffer) == 50, "one packed row a Gaussian, with finite half-precision covariances"
    finally:
        server.stop()


def test_a_comment_says_that_the_scene_is_for_antialiased_rendering(tmp_path: Path) -> None:
    for antialiased in (True, False):
        save_ply(tmp_path / "a.ply", gaussians(), antialiased=antialiased)
        assert read_splats(tmp_path / "a.ply").antialiased == antialiased
        assert len(load_splats(tmp_path / "a.ply")) == 5


def test_point_clouds_come_back(tmp_path: Path) -> None:
    points, colors = torch.randn(7, 3), torch.rand(7, 3)
    save_point_cloud(tmp_path / "p.ply", points, colors)
    again = load_point_cloud(tmp_path / "p.ply")
    assert torch.equal(again[0], points)
    torch.testing.assert_close(again[1], colors, atol=0.5 / 255 + 1e-6, rtol=0)


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
