from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cus.cli.export import main
from cus.splats import Gaussians, load_splats, save_splats
from cus.splats.files import read_splats


def gaussians(degree: int = 1) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians(
        torch.randn(20, 3, generator=generator),
        torch.randn(20, 4, generator=generator),
        torch.rand(20, 3, generator=generator) + 0.01,
        torch.rand(20, generator=generator) * 0.9 + 0.05,
        torch.randn(20, (degree + 1) ** 2, 3, generator=generator) * 0.2,
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of a command that must refuse: one line on stderr, status 2, no traceback."""
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("error:") == 1 and "Traceback" not in message
    return message.split("error:")[1]


def test_help_names_every_format_and_default(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("colmap", "nerfstudio", "ply", "spz", "splat", "--cameras", "--overwrite", "default", "examples"):
        assert word in text


@pytest.mark.parametrize("start", ["ply", "spz", "splat"])
@pytest.mark.parametrize("end", ["ply", "spz", "splat"])
def test_any_file_of_gaussians_becomes_any_other(tmp_path, capsys, start, end):
    save_splats(tmp_path / f"a.{start}", gaussians())
    assert main([str(tmp_path / f"a.{start}"), "--format", end, "--out", str(tmp_path / f"b.{end}")]) == 0
    assert len(load_splats(tmp_path / f"b.{end}")) == 20
    line = capsys.readouterr().err
    assert "20 Gaussians" in line and "MiB" in line


def test_the_default_place_is_beside_the_file_also_for_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_splats("a.ply", gaussians(), antialiased=True)
    assert main(["a.ply", "--format", "spz"]) == 0
    assert (tmp_path / "a.spz").is_file() and read_splats("a.spz").antialiased, "what the file says goes on"
    assert main(["a.ply", "--format", "spz", "--no-antialiased", "--overwrite"]) == 0
    assert not read_splats("a.spz").antialiased


def test_what_a_format_loses_is_said(tmp_path, capsys):
    g = gaussians()
    scales = g.scales.clone()
    scales[:3] = 1e-9
    save_splats(tmp_path / "a.ply", Gaussians(g.means, g.quats, scales, g.opacities, g.sh))
    assert main([str(tmp_path / "a.ply"), "--format", "splat"]) == 0
    assert "no view dependence" in capsys.readouterr().err
    assert main([str(tmp_path / "a.ply"), "--format", "spz"]) == 0
    assert "3 Gaussians have a scale outside" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["spz", "splat"])
def test_levels_of_detail_are_baked_where_a_format_cannot_hold_them(tmp_path, capsys, end):
    rates = torch.tensor([[0.0, 5.0]] * 12 + [[9.0, 0.0]] * 8)
    save_splats(tmp_path / "a.ply", replace(gaussians(), rates=rates))
    assert main([str(tmp_path / "a.ply"), "--format", end]) == 0
    told = capsys.readouterr().err
    assert "the finest one is written" in told and "8 Gaussians" in told
    assert len(load_splats(tmp_path / f"a.{end}")) == 8
    assert main([str(tmp_path / "a.ply"), "--format", "ply", "--out", str(tmp_path / "b.ply")]) == 0
    assert "rate_low and rate_high" in capsys.readouterr().err
    kept = load_splats(tmp_path / "b.ply").rates
    assert kept is not None and torch.equal(kept, rates)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--format", "obj"], "--format must be one of colmap, "),
        (["--format", "colmap"], "needs cameras and pictures"),
        (["--format", "ply"], "is the same file as"),
        (["--format", "spz", "--out", "b.ply"], "must end in .spz"),
        (["--format", "spz", "--cameras", "photos"], "--cameras and --photos are for colmap"),
        (["--format", "spz", "--spz-version", "4"], "--spz-version must be one of 2, 3, got '4'"),
        (["--format", "splat", "--spz-version", "3"], "for --format spz"),
        (["--format", "spz", "--out", "absent/b.spz"], "cannot write"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, monkeypatch, capsys, extra, message):
    monkeypatch.chdir(tmp_path)
    save_splats("a.ply", gaussians())
    assert message in refused(capsys, "a.ply", *extra)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_sources_that_cannot_be_are_refused(tmp_path, capsys):
    assert "no such file" in refused(capsys, tmp_path / "none.ply", "--format", "spz")
    assert "no output folder of cus-infer" in refused(capsys, tmp_path, "--format", "spz")
    assert "no output folder of cus-infer" in refused(capsys, tmp_path, "--format", "colmap")
    assert "--cameras must be one of" in refused(capsys, tmp_path, "--format", "colmap", "--cameras", "some")
    assert "not for colmap" in refused(capsys, tmp_path, "--format", "colmap", "--spz-version", "2")
    (tmp_path / "a.txt").write_text("hello")
    assert "unknown format .txt" in refused(capsys, tmp_path / "a.txt", "--format", "spz")
    (tmp_path / "a.ply").write_text("hello")
    assert "a.ply is damaged or no PLY" in refused(capsys, tmp_path / "a.ply", "--format", "spz")


def test_an_existing_file_is_replaced_only_when_asked(tmp_path, capsys):
    save_splats(tmp_path / "a.ply", gaussians())
    (tmp_path / "a.spz").write_text("earlier")
    assert "--overwrite" in refused(capsys, tmp_path / "a.ply", "--format", "spz")
    assert (tmp_path / "a.spz").read_text() == "earlier"
    assert main([str(tmp_path / "a.ply"), "--format", "spz", "--overwrite"]) == 0
    (tmp_path / "b.spz").mkdir()
    assert "is a folder" in refused(capsys, tmp_path / "a.ply", "--format", "spz", "--out", tmp_path / "b.spz")
