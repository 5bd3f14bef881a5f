"""One photograph: a run of its own, with an estimator that sees depth in one, and words about what it does not show."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cus.cli.export import main as export
from cus.cli.fit import main as fit
from cus.cli.infer import main
from cus.errors import InputError
from cus.estimators import estimate_scene
from cus.estimators.choice import choose
from cus.estimators.mono import save_network
from cus.estimators.networks.single_view import Form, SingleViewDepth
from cus.inference.target_path import ALONE_DOLLY, check_alone
from tests.conftest import ROOT

PHOTO = str(ROOT / "examples" / "courtyard" / "a.jpg")
SMALL = ["--photo-size", "128", "--size", "96", "--frames", "3", "--steps", "1", "--fov", "60"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of the real class that has learned nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mono")
    save_network(folder / "model.safetensors", SingleViewDepth(Form(width=8, points=4)))
    return folder


@pytest.mark.parametrize(
    "path", [["--zoom", "2"], ["--trajectory", "dolly"], ["--trajectory", "orbit", "--conditioning", "hierarchical"]]
)
def test_a_close_up_of_one_photograph_says_how_much_is_seen_and_what_is_imagined(tmp_path, weights, path, capsys):
    out = tmp_path / "out"
    options = ["--estimator", f"mono:{weights}", "--out", str(out), *SMALL, *path]
    assert main(["--views", PHOTO, "--conditioning-only", *options]) == 0
    run = json.loads((out / "run.json").read_text())
    measures = run["verdict"]["measures"]
    assert run["status"] == "finished" and measures["views"] == 1
    assert measures["held_out"] is None and measures["depth_agreement"] is None
    assert 0 < measures["seen_least"] <= measures["seen_mean"] <= 1
    told = {finding["name"]: finding["told"] for finding in run["verdict"]["findings"]}
    assert "a network's guess" in told["geometry"] and "the photograph shows" in told["coverage"]
    assert ("imagined" in told["coverage"]) == (measures["seen_least"] < 0.995)
    printed = " ".join(capsys.readouterr().err.split())
    assert "the photograph shows" in printed
    if "orbit" in path:
        assert any("6 degrees" in note for note in run["notes"])
    depth = np.load(out / "depth" / "a_depth.npy")
    assert (depth > 0).all()


def test_one_photograph_goes_all_the_way_to_a_gaussian_scene(tmp_path, weights):
    out = tmp_path / "out"
    options = ["--estimator", f"mono:{weights}", "--out", str(out), *SMALL, "--splat-iterations", "4", "--structure"]
    assert main(["--views", PHOTO, *options]) == 0
    assert (out / "splat.ply").stat().st_size > 1000 and (out / "report.html").is_file()

    assert main(["--views", PHOTO, *options, "--resume"]) == 0
    assert {"scene", "conditioning", "frames", "cloud"} <= set(json.loads((out / "run.json").read_text())["reused"])
    assert fit([str(out), "--iterations", "3", "--out", str(tmp_path / "again")]) == 0
    for layout in ("colmap", "nerfstudio"):
        assert export([str(out), "--format", layout]) == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--estimator", "stereo"], "stereo measures depth between photographs and needs at least 2"),
        (["--trajectory", "interpolate"], "goes from photograph to photograph, and there is one"),
        (["--trajectory", "dolly", "--zoom", "4"], "--zoom 2.5 at most, got 4"),
    ],
)
def test_what_one_photograph_cannot_do_is_refused_before_anything_is_written(tmp_path, capsys, extra, message):
    assert main(["--views", PHOTO, "--out", str(tmp_path / "out"), *extra]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_file_of_cameras_goes_where_it_says_and_a_zoom_far_in():
    check_alone("path.json", 1.0)
    check_alone("zoom", 16.0)
    check_alone("dolly", ALONE_DOLLY)


def test_auto_names_what_can_be_done_where_nothing_sees_depth_in_one_photograph(monkeypatch, tmp_path):
    monkeypatch.setattr("cus.estimators.mono.SHIPPED", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="--estimator da3, or add a second photograph"):
        choose("auto", 1)


def test_auto_takes_the_network_that_ships_for_one_photograph_and_never_for_two(monkeypatch, tmp_path, weights):
    monkeypatch.setattr("cus.estimators.mono.SHIPPED", weights)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    alone = choose("auto", 1)
    assert alone.name == "mono" and "Depth Anything 3's weights are not on this machine" in alone.reason
    assert choose("auto", 2).name != "mono"
    assert choose("mono", 1).note == "estimator: mono with shipped weights"


def test_an_estimator_of_one_photograph_refuses_two(weights):
    with pytest.raises(InputError, match="mono sees the depth of one photograph, and not how 2 of them lie"):
        estimate_scene(torch.rand(2, 3, 64, 96), estimator=f"mono:{weights}")
