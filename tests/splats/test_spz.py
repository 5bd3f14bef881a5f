"""SPZ files: bounds of every field, the byte layout, an independent reader, and renders."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from torch.nn.functional import normalize

from cus.cameras import Cameras, conversions
from cus.errors import InputError
from cus.splats import Gaussians, render
from cus.splats.files import load_splats, read_splats, save_splats
from cus.splats.ply import save_ply
from cus.splats.projection import rotmat_from_quat
from cus.splats.sh import sh_basis
from cus.splats.spz import read_spz_header, save_spz, spz_clamped


def scene(count: int = 400, degree: int = 3, extent: float = 1.0) -> Gaussians:
    """Gaussians inside all ranges of SPZ, before a camera at the origin that looks along z."""
    generator = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    sh = (uniform(count, (degree + 1) ** 2, 3) * 2 - 1) * 0.2
    sh[:, 0] = uniform(count, 3) * 3 - 1.5
    return Gaussians(
        means=(uniform(count, 3) * 2 - 1 + torch.tensor([0, 0, 3.0])) * extent,
        quats=torch.randn(count, 4, generator=generator),
        scales=torch.exp(uniform(count, 3) * 3 - 5) * extent,
        opacities=uniform(count) * 0.9 + 0.05,
        sh=sh,
    )


def camera() -> Cameras:
    K = torch.tensor([[110.0, 0, 48], [0, 110, 32], [0, 0, 1]])
    return Cameras(torch.eye(4)[None], K[None], 96, 64)


def aligned(quats: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Unit quaternions, of the two signs the one nearer to `to`."""
    quats = normalize(quats, dim=1)
    return torch.where((quats * to).sum(dim=1, keepdim=True) < 0, -quats, quats)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.mark.parametrize(("version", "degree"), [(2, 0), (2, 1), (2, 2), (2, 3), (3, 3)])
def test_every_field_comes_back_within_half_a_step(tmp_path: Path, version: int, degree: int) -> None:
    original = scene(degree=degree)
    save_spz(tmp_path / "a.spz", original, version=version)
    loaded = load_splats(tmp_path / "a.spz")
    assert not spz_clamped(original) and loaded.sh.shape == original.sh.shape
    header = read_spz_header(tmp_path / "a.spz")
    assert (header.version, header.count, header.sh_degree, header.fractional_bits) == (version, 400, degree, 16)

    def largest(name: str) -> float:
        return float((getattr(loaded, name) - getattr(original, name)).abs().max())

    assert largest("means") <= 0.5 / 2**16 + 1e-6
    assert largest("opacities") <= 0.5 / 255 + 1e-6
    assert float((loaded.scales.log() - original.scales.log()).abs().max()) <= 0.5 / 16 + 1e-5
    errors = (loaded.sh - original.sh).abs().amax(dim=(0, 2))
    assert errors[0] <= 0.5 / (0.15 * 255) + 1e-5
    assert bool((errors[1:4] <= 4 / 128 + 1e-6).all()) and bool((errors[4:] <= 8 / 128 + 1e-6).all())
    quats = normalize(original.quats, dim=1)
    rotations = (aligned(loaded.quats, quats) - quats).abs()
    if version == 2:
        assert rotations[:, 1:].max() <= 0.5 / 127.5 + 1e-3  # renormalised where w was lost beside x y z
    else:
        assert rotations.max() <= 2.5 * 0.5 / (511 * 2**0.5)  # the largest follows from the other three


@pytest.mark.parametrize("version", [2, 3])
def test_a_second_trip_changes_almost_nothing(tmp_path: Path, version: int) -> None:
    save_spz(tmp_path / "a.spz", scene(), version=version)
    once = load_splats(tmp_path / "a.spz")
    save_spz(tmp_path / "b.spz", once, version=version)
    twice = load_splats(tmp_path / "b.spz")
    for name in ("means", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(twice, name), getattr(once, name), atol=1e-5, rtol=1e-5)
    save_spz(tmp_path / "c.spz", once, version=version)
    assert (tmp_path / "b.spz").read_bytes() == (tmp_path / "c.spz").read_bytes(), "the same scene, the same bytes"


@pytest.mark.parametrize("extent", [1e-3, 1.0, 1e3, 1e5])
def test_positions_use_the_bits_that_the_extent_leaves(tmp_path: Path, extent: float) -> None:
    original = scene(extent=extent)
    save_spz(tmp_path / "a.spz", original)
    error = (load_splats(tmp_path / "a.spz").means - original.means).abs().max()
    assert error <= max(0.5 / 2**16, float(original.means.abs().max()) * 2**-22)


def test_the_bytes_stand_where_the_format_puts_them(tmp_path: Path) -> None:
    one = Gaussians(
        means=torch.tensor([[1.0, 2.0, -3.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]]),
        scales=torch.tensor([[1.0, math.exp(-10), math.exp(2)]]),
        opacities=torch.tensor([0.2]),
        sh=torch.zeros(1, 4, 3).index_fill(1, torch.tensor([2]), 0.5),
    )
    save_spz(tmp_path / "a.spz", one, antialiased=True)
    content = gzip.decompress((tmp_path / "a.spz").read_bytes())
    assert content[:4] == b"NGSP"
    assert struct.unpack("<IIIBBBB", content[:16]) == (0x5053474E, 2, 1, 1, 16, 1, 0)
    fixed = [int.from_bytes(content[16 + 3 * i : 19 + 3 * i], "little", signed=True) for i in range(3)]
    assert fixed == [1 << 16, -2 << 16, 3 << 16], "right, up, back"
    assert content[25] == 51 and content[26:29] == bytes([128] * 3) and content[29:32] == bytes([160, 0, 192])
    assert content[32:35] == bytes([128] * 3)
    # Degree 1 is in the order y z x, colours inside; a z coefficient changes its sign with the axis.
    assert list(content[35:44]) == [128] * 3 + [64] * 3 + [128] * 3


def test_sixteen_bytes_and_the_arrays_are_all_there_is(tmp_path: Path) -> None:
    for version, width in ((2, 19), (3, 20)):
        save_spz(tmp_path / "a.spz", scene(10, degree=0), version=version)
        assert len(gzip.decompress((tmp_path / "a.spz").read_bytes())) == 16 + 10 * width


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_harmonics_seen_along_turned_directions_keep_their_colour(degree: int) -> None:
    generator = torch.Generator().manual_seed(2)
    directions = normalize(torch.randn(50, 3, generator=generator), dim=1)
    sh = torch.randn(50, (degree + 1) ** 2, 3, generator=generator)
    before = (sh_basis(degree, directions)[..., None] * sh).sum(dim=1)
    turned = sh_basis(degree, conversions.rub_points_from_rdf(directions))
    torch.testing.assert_close((turned[..., None] * conversions.rub_sh_from_rdf(sh)).sum(dim=1), before)
    torch.testing.assert_close(conversions.rdf_sh_from_rub(conversions.rub_sh_from_rdf(sh)), sh)


def test_turned_quaternions_give_the_turned_covariance() -> None:
    g = scene(20)
    flip = torch.diag(conversions.rub_points_from_rdf(torch.ones(3)))

    def covariances(quats: torch.Tensor) -> torch.Tensor:
        axes = rotmat_from_quat(quats) * g.scales[:, None]
        return axes @ axes.mT

    turned = covariances(conversions.rub_quats_from_rdf(g.quats))
    torch.testing.assert_close(turned, flip @ covariances(g.quats) @ flip)
    torch.testing.assert_close(conversions.rdf_quats_from_rub(conversions.rub_quats_from_rdf(g.quats)), g.quats)


@pytest.mark.parametrize("version", [2, 3])
def test_an_independent_reader_finds_the_same_gaussians(tmp_path: Path, version: int) -> None:
    gsply = pytest.importorskip("gsply", reason="gsply, an independent reader of SPZ, is not installed")
    original = scene(degree=3)
    save_spz(tmp_path / "a.spz", original, version=version)
    ours, other = load_splats(tmp_path / "a.spz"), gsply.read_spz(str(tmp_path / "a.spz"))
    # It gives the file's own axes, logarithms, logits and quaternions wxyz.
    np.testing.assert_allclose(other.means, conversions.rub_points_from_rdf(ours.means), atol=1e-6)
    np.testing.assert_allclose(other.scales, ours.scales.log(), atol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-other.opacities)), ours.opacities, atol=1e-5)
    np.testing.assert_allclose(other.sh0, ours.sh[:, 0], atol=1e-5)
    np.testing.assert_allclose(other.shN, conversions.rub_sh_from_rdf(ours.sh)[:, 1:], atol=1e-5)
    theirs = torch.from_numpy(np.asarray(other.quats))
    mine = normalize(conversions.rub_quats_from_rdf(ours.quats), dim=1)
    torch.testing.assert_close(aligned(theirs, mine), mine, atol=1e-4, rtol=0)


def test_what_an_independent_writer_wrote_is_read(tmp_path: Path) -> None:
    gsply = pytest.importorskip("gsply", reason="gsply, an independent writer of SPZ, is not installed")
    original = scene(degree=1)
    save_ply(tmp_path / "a.ply", original)
    gsply.write_spz(str(tmp_path / "a.spz"), gsply.plyread(str(tmp_path / "a.ply")), version=3)
    loaded = load_splats(tmp_path / "a.spz")
    # It stores the axes that it is given.
    torch.testing.assert_close(conversions.rub_points_from_rdf(loaded.means), original.means, atol=3e-4, rtol=0)
    torch.testing.assert_close(loaded.scales.log(), original.scales.log(), atol=0.04, rtol=0)
    torch.testing.assert_close(conversions.rub_sh_from_rdf(loaded.sh), original.sh, atol=0.05, rtol=0)


@pytest.mark.parametrize(("name", "least"), [("a.spz", 35.0), ("a.splat", 38.0)])
def test_renders_before_and_after_are_nearly_the_same_and_the_file_is_small(
    tmp_path: Path, name: str, least: float
) -> None:
    original = scene(1500, degree=0)
    save_splats(tmp_path / "a.ply", original)
    save_splats(tmp_path / name, original)
    before, after = render(original, camera()), render(load_splats(tmp_path / name), camera())
    assert before.std() > 0.1 and psnr(before, after) > least
    ratio = (tmp_path / "a.ply").stat().st_size / (tmp_path / name).stat().st_size
    assert ratio > (3 if name == "a.spz" else 2)


def test_version_3_renders_no_worse_than_version_2(tmp_path: Path) -> None:
    original = scene(1500, degree=0)
    scores = []
    for version in (2, 3):
        save_spz(tmp_path / "a.spz", original, version=version)
        scores.append(psnr(render(original, camera()), render(load_splats(tmp_path / "a.spz"), camera())))
    assert scores[1] >= scores[0] - 0.1


def test_what_the_ranges_change_is_counted(tmp_path: Path) -> None:
    original = scene(5)
    scales, sh, means = original.scales.clone(), original.sh.clone(), original.means.clone()
    scales[0], scales[1], sh[1, 0], sh[2, 5] = 1e-7, 1e4, 9.0, -2.0
    extreme = Gaussians(means, original.quats, scales, original.opacities, sh)
    assert spz_clamped(extreme) == {"scale": 2, "colour": 1, "harmonics": 1}
    save_spz(tmp_path / "a.spz", extreme)
    loaded = load_splats(tmp_path / "a.spz")
    assert loaded.scales[0, 0] == pytest.approx(np.exp(-10)) and float(loaded.sh[2, 5].max()) == -1
    means[3] = 5e6
    assert spz_clamped(Gaussians(means, original.quats, scales, original.opacities, sh))["position"] >= 3
    with pytest.raises(InputError, match="remove the far"):
        save_spz(tmp_path / "b.spz", Gaussians(means * 100, original.quats, scales, original.opacities, sh))


def test_saturated_opacities_stay_inside_the_open_interval(tmp_path: Path) -> None:
    g = scene(3)
    opacities = torch.tensor([1e-7, 1 - 6e-8, 0.5])
    for name in ("a.spz", "a.splat"):
        save_splats(tmp_path / name, Gaussians(g.means, g.quats, g.scales, opacities, g.sh))
        loaded = load_splats(tmp_path / name).opacities
        assert loaded.min() == pytest.approx(1 / 255) and loaded.max() == pytest.approx(254 / 255)
        assert bool(torch.logit(loaded).isfinite().all()), "other programs store logits"


def repacked(path: Path, **changes: int) -> Path:
    """An SPZ file with header fields replaced."""
    save_spz(path, scene(4))
    content = bytearray(gzip.decompress(path.read_bytes()))
    places = {"magic": ("<I", 0), "version": ("<I", 4), "count": ("<I", 8), "degree": ("<B", 12), "flags": ("<B", 14)}
    for name, value in changes.items():
        struct.pack_into(places[name][0], content, places[name][1], value)
    path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 7}, "no SPZ file"),
        ({"version": 1}, "damaged"),
        ({"version": 9}, "version 9; versions 1 to 4"),
        ({"version": 3}, "damaged"),
        ({"count": 5}, "damaged"),
        ({"count": 0}, "no Gaussians"),
        ({"degree": 4}, "damaged"),
        ({"degree": 5}, "degree 5"),
        ({"count": 2_000_000}, "2,000,000 Gaussians"),
        ({"flags": 2}, "extensions"),
    ],
)
def test_headers_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_splats(repacked(tmp_path / "a.spz", **changes))


def test_damaged_files_are_refused_whatever_the_damage(tmp_path: Path) -> None:
    save_spz(tmp_path / "a.spz", scene(50))
    whole = (tmp_path / "a.spz").read_bytes()
    damaged = tmp_path / "b.spz"
    for cut in (0, 5, 15, 40, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="b.spz"):
            load_splats(damaged)
    for content in (
        b"hello",
        b"NGSP" + bytes([4, 0, 0, 0]) + bytes(40),
        gzip.compress(b"NGSP"),
        whole[:60] + whole[70:],
    ):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match="b.spz"):
            load_splats(damaged)
    with pytest.raises(InputError, match="cannot read"):
        load_splats(tmp_path / "absent.spz")


def version_4(path: Path, extra: bytes = b"", **changes: int) -> Path:
    """An SPZ file of version 4: the arrays of version 3, each a zstd stream, after a plain header and a table."""
    save_spz(path, scene(40, degree=changes.pop("degree", 1)), version=3)
    content = gzip.decompress(path.read_bytes())
    count, degree, bits = struct.unpack_from("<IBB", content, 8)
    widths = [width * count for width in (9, 1, 3, 3, 4, 3 * ((degree + 1) ** 2 - 1)) if width]
    ends = 16 + np.cumsum([0, *widths])
    arrays = [content[start:end] for start, end in zip(ends, ends[1:], strict=False)]
    streams = [zstandard.ZstdCompressor().compress(array) for array in arrays]
    header = {"count": count, "streams": len(streams), "table": 32, "unpacked": widths[0]} | changes
    made = struct.pack(
        "<4sIIBBBBI12x", b"NGSP", 4, header["count"], degree, bits, 1, header["streams"], header["table"]
    )
    for stream, size in zip(streams, [header["unpacked"], *widths[1:]], strict=True):
        made += struct.pack("<QQ", len(stream), size)
    path.write_bytes(made + b"".join(streams) + extra)
    return path


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_version_4_gives_what_version_3_holds(tmp_path: Path, degree: int) -> None:
    stored = read_splats(version_4(tmp_path / "a.spz", degree=degree))
    save_spz(tmp_path / "b.spz", scene(40, degree=degree), version=3)
    expected = load_splats(tmp_path / "b.spz")
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(stored.gaussians, name), getattr(expected, name))
    assert stored.antialiased and not stored.notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 39}, "damaged"),
        ({"count": 9_000_000}, "promises 9,000,000 Gaussians"),
        ({"streams": 5}, "expected 6"),
        ({"streams": 255}, "expected 6"),
        ({"table": 31}, "table at byte 31"),
        ({"table": 2**32 - 1}, "table at byte 4294967295"),
        ({"unpacked": 2**60}, "positions of 1152921504606846976 bytes"),
    ],
)
def test_headers_of_version_4_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_splats(version_4(tmp_path / "a.spz", **changes))


def test_version_4_cut_or_damaged_anywhere_is_refused_and_more_after_it_is_told(tmp_path: Path) -> None:
    path = version_4(tmp_path / "a.spz", extra=b"more")
    assert read_splats(path).notes == ("a.spz: 4 bytes after the last array were not read",)
    whole = version_4(path).read_bytes()
    for cut in (20, 31, 33, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="a.spz"):
            load_splats(path)
    path.write_bytes(whole[:128] + bytes(8) + whole[136:])
    with pytest.raises(InputError, match="no zstd stream"):
        load_splats(path)


def test_version_1_has_half_floats_for_positions(tmp_path: Path) -> None:
    save_spz(tmp_path / "a.spz", scene(4))
    content = bytearray(gzip.decompress((tmp_path / "a.spz").read_bytes()))
    expected = load_splats(tmp_path / "a.spz")
    positions = conversions.rub_points_from_rdf(expected.means).numpy().astype("<f2").tobytes()
    content[4] = 1
    (tmp_path / "b.spz").write_bytes(gzip.compress(bytes(content[:16]) + positions + bytes(content[16 + 4 * 9 :])))
    loaded = load_splats(tmp_path / "b.spz")
    torch.testing.assert_close(loaded.means, expected.means, atol=2e-3, rtol=0)
    assert torch.equal(loaded.sh, expected.sh) and torch.equal(loaded.quats, expected.quats)


def test_versions_2_and_3_are_read_without_their_packing_too(tmp_path: Path) -> None:
    for version in (2, 3):
        save_spz(tmp_path / "a.spz", scene(4), version=version)
        (tmp_path / "b.spz").write_bytes(gzip.decompress((tmp_path / "a.spz").read_bytes()))
        assert torch.equal(load_splats(tmp_path / "b.spz").means, load_splats(tmp_path / "a.spz").means)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path: Path) -> None:
    header = struct.pack("<4sIIBBBB", b"NGSP", 2, 10_000_000, 3, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(header + bytes(2**20)))
    (tmp_path / "b.spz").write_bytes(gzip.compress(bytes(2**24)))
    (tmp_path / "c.spz").write_bytes(gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 2, 1, 0, 12, 0, 0) + bytes(2**24)))
    for name, message in (("a", "10,000,000 Gaussians, 640,000,000 bytes"), ("b", "no SPZ"), ("c", "take 35 bytes")):
        with pytest.raises(InputError, match=message):
            load_splats(tmp_path / f"{name}.spz")


def test_bytes_after_the_gzip_stream_are_told(tmp_path: Path) -> None:
    save_spz(tmp_path / "a.spz", scene(4))
    with (tmp_path / "a.spz").open("ab") as file:
        file.write(b"12345")
    assert read_splats(tmp_path / "a.spz").notes == ("a.spz: 5 bytes after the last array were not read",)
