"""Depth Anything 3 as an estimator: from a Hub to depth, one view, given cameras, and weights that are not its own."""

import json
import math
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cus.cameras import Cameras
from cus.errors import InputError
from cus.estimators import da3, estimate_scene
from cus.estimators.choice import choose, prepare
from cus.estimators.da3 import DA3, encoded_cameras, size_of_checkpoint
from cus.estimators.framing import FrameRule, frame_views
from cus.estimators.predictions import cameras_from_pose_encodings
from tests.estimators import planes
from tests.estimators.wall_checkpoint import DEPTH, KEYS, wall_checkpoint, wall_state
from tests.hub.client import connect, put_folder
from tests.hub.repositories import Repository
from tests.hub.server import Hub, running

SMALL, BASE = da3.REPOSITORIES
WIDE, HIGH = 320, 64
FOCAL = 320.0
BASELINE = 0.5
TINY = FrameRule(longest_side=56, patch=14, step=14, fill=None, one_size=True)


def wall(views: int = 2) -> tuple[Cameras, torch.Tensor]:
    """Cameras side by side in front of the wall at `planes.WALL`, straight at it, and what they see."""
    viewmats = torch.eye(4).repeat(views, 1, 1)
    viewmats[1:, 0, 3] = -BASELINE
    K = torch.tensor([[FOCAL, 0.0, WIDE / 2], [0.0, FOCAL, HIGH / 2], [0.0, 0.0, 1.0]])
    cameras = Cameras(viewmats, K.repeat(views, 1, 1), WIDE, HIGH)
    return cameras, planes.render(cameras, board=False)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that sees the wall as it is, in a unit of its own, through lenses as they are."""
    folder = tmp_path_factory.mktemp("da3")
    fields = tuple(2 * float(torch.tensor(side / 2 / FOCAL).atan()) for side in (HIGH, WIDE))
    wall_checkpoint(folder, step=BASELINE * DEPTH / planes.WALL, fields=fields)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path) -> Iterator[Hub]:
    """A Hub with the small network, and an empty cache."""
    with running() as hub:
        connect(monkeypatch, hub.endpoint, tmp_path / "home")
        hub.repositories[SMALL] = Repository(SMALL)
        put_folder(hub, SMALL, folder)
        yield hub


def hollow(file: Path, shapes: dict[str, list[int]], kind: str = "F16") -> None:
    """A file of 16-bit tensors of which only the header takes room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[f"model.{name}"] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + end)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_from_a_download_to_depth_once_and_then_without_a_network(hub, monkeypatch):
    cameras, images = wall()
    assert prepare("auto").name == "stereo" and not hub.log
    scene = estimate_scene(images, estimator="da3")
    assert scene.notes[-1] == f"estimator: da3 with {SMALL}"
    assert sum(method == "GET" and "/content/" in path for method, path in hub.log) == 1
    assert scene.scale == pytest.approx(1, abs=1e-4)
    assert scene.depths.std() < 1e-4 * scene.depths.mean()
    torch.testing.assert_close(scene.cameras.Ks, cameras.Ks, rtol=2e-3, atol=0.01)
    # The wall is as many baselines away as it is.
    ratio = scene.depths.mean() / scene.cameras.centers[1].norm()
    assert float(ratio) == pytest.approx(planes.WALL / BASELINE, rel=2e-3)

    hub.log.clear()
    offline(monkeypatch)
    again = estimate_scene(images)
    assert not hub.log and torch.equal(again.depths, scene.depths)
    assert again.notes[-1].startswith(f"estimator: da3 with {SMALL} (auto: ")
    assert again.notes[-1].endswith("its weights are on this machine)")


def test_one_photograph_has_depth_and_a_camera(folder):
    cameras, images = wall(1)
    scene = estimate_scene(images, estimator=f"da3:{folder}")
    assert len(scene) == 1 and torch.equal(scene.cameras.viewmats[0], torch.eye(4))
    torch.testing.assert_close(scene.cameras.Ks, cameras.Ks, rtol=2e-3, atol=0.01)
    assert scene.scale == pytest.approx(1, abs=1e-4) and bool((scene.depths > 0).all())


def test_a_given_camera_of_one_photograph_is_kept_and_its_depth_has_no_scale(folder):
    cameras, images = wall(1)
    viewmats = cameras.viewmats.clone()
    viewmats[0, :3, 3] = torch.tensor([3.0, -1.0, 2.0])
    longer = cameras.zoomed(torch.tensor([1.25]))
    given = Cameras(viewmats, longer.Ks, WIDE, HIGH)
    scene = estimate_scene(images, given, f"da3:{folder}")
    assert torch.equal(scene.cameras.viewmats, viewmats) and torch.equal(scene.cameras.Ks, longer.Ks)
    assert float(scene.depths.median()) == pytest.approx(DEPTH, rel=5e-3)
    told = " ".join(scene.notes)
    assert "one camera tells nothing of the scale" in told and "20.0% of the focal length" in told and "warning" in told


@pytest.mark.parametrize("unit", [1.0, 12.5])
def test_given_cameras_are_kept_with_their_scale_and_the_residual_is_told(folder, unit):
    cameras, images = wall()
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= unit
    given = Cameras(viewmats, cameras.Ks, WIDE, HIGH)
    scene = estimate_scene(images, given, f"da3:{folder}")
    assert torch.equal(scene.cameras.viewmats, viewmats) and torch.equal(scene.cameras.Ks, cameras.Ks)
    assert float((scene.depths / (unit * planes.WALL) - 1).abs().max()) < 5e-3
    told = " ".join(scene.notes)
    assert "given cameras are kept" in told and "0.00 degrees" in told and "warning" not in told


def test_given_cameras_are_told_to_the_network_in_a_unit_of_their_own():
    views = planes.cameras((0.0, 0.4, 1.0), width=WIDE, height=HIGH, focal=FOCAL)
    framed = frame_views(torch.rand(3, 3, HIGH, WIDE), None, TINY)
    encoded = encoded_cameras(views, framed)
    c2w, Ks = cameras_from_pose_encodings(encoded, *framed.placements[0].frame)
    assert float(c2w[1, :3, 3].norm()) == pytest.approx(1) and float(c2w[2, :3, 3].norm()) == pytest.approx(2.5)
    torch.testing.assert_close(framed.Ks_of_images(Ks), views.Ks, rtol=1e-5, atol=1e-3)
    for unit in (0.01, 300.0):
        viewmats = views.viewmats.clone()
        viewmats[:, :3, 3] *= unit
        other = encoded_cameras(Cameras(viewmats, views.Ks, WIDE, HIGH), framed)
        torch.testing.assert_close(other, encoded, rtol=1e-4, atol=1e-5)
    pair = encoded_cameras(views[[0, 2]], frame_views(torch.rand(2, 3, HIGH, WIDE), None, TINY))
    assert float(pair[1, :3].norm()) == pytest.approx(1)
    alone = encoded_cameras(views[[1]], frame_views(torch.rand(1, 3, HIGH, WIDE), None, TINY))
    assert alone[0, :7].tolist() == [0, 0, 0, 0, 0, 0, 1]


def test_photographs_of_other_shapes_share_a_frame_and_get_their_own_cameras_and_depths(folder):
    images, valid = torch.rand(3, 3, 48, 48), torch.zeros(3, 48, 48, dtype=torch.bool)
    valid[0, :24], valid[1, :, :24], valid[2] = True, True, True
    framed = frame_views(images, valid, TINY)
    network = DA3()
    output = network.run(network.load(folder / "model.safetensors"), framed, None)
    prediction = network.prediction(output, framed, None)
    assert {tuple(depth.shape) for depth in prediction.depths} == {(56, 56)}
    Ks = framed.Ks_of_images(prediction.Ks)
    centres = torch.tensor([[24.0, 12.0], [12.0, 24.0], [24.0, 24.0]])
    torch.testing.assert_close(Ks[:, :2, 2], centres, rtol=0, atol=1e-4)
    depths, _ = framed.maps_of_images(prediction.depths, [d.clamp(max=1) for d in prediction.depths], images)
    assert torch.equal(depths > 0, valid)
    assert float((depths[valid] / DEPTH - 1).abs().max()) < 1e-3


@pytest.mark.parametrize("fields", [(0.0, 0.9), (0.9, 3.2)])
def test_a_view_through_no_lens_is_refused(tmp_path, fields):
    wall_checkpoint(tmp_path, fields=fields)
    network, framed = DA3(), frame_views(torch.rand(2, 3, 28, 56), None, TINY)
    output = network.run(network.load(tmp_path / "model.safetensors"), framed, None)
    with pytest.raises(InputError, match="no lens that view 1 .*'stereo'"):
        network.prediction(output, framed, None)


def test_values_that_are_not_numbers_are_refused(tmp_path):
    estimator = wall_checkpoint(tmp_path, depth=1.0)
    state = wall_state()
    state["model.head.scratch.output_conv2.2.bias"][:] = torch.nan
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="not numbers.*'stereo'"):
        estimate_scene(torch.rand(1, 3, 16, 160), estimator=estimator)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "type", "truncated", "foreign", "pickle", "empty"])
def test_weights_of_something_else_are_refused_by_name(tmp_path, change):
    file = tmp_path / "model.safetensors"
    shapes = dict(KEYS["da3-small"])
    if change == "missing":
        del shapes["cam_dec.fc_t.weight"]
    elif change == "unknown":
        shapes["gs_head.weight"] = [2]
    elif change == "shape":
        shapes["cam_dec.fc_t.weight"] = [4, 768]
    elif change == "foreign":
        shapes = {"aggregator.patch_embed.cls_token": [1, 1, 1024]}
    elif change == "empty":
        shapes = {}
    hollow(file, shapes, "I16" if change == "type" else "F16")
    if change == "truncated":
        os.truncate(file, file.stat().st_size - 100)
    elif change == "pickle":
        torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(InputError, match=f"{file}.*again.*{SMALL}"):
        prepare(f"da3:{tmp_path}")


def test_a_larger_network_is_refused_by_its_width_before_anything_is_read(tmp_path):
    shapes = {name: [1024 if side == 768 else side for side in shape] for name, shape in KEYS["da3-base"].items()}
    hollow(tmp_path / "large.safetensors", shapes)
    with pytest.raises(InputError, match=f"1024 channels, expected 384 or 768; use small .{SMALL}. or base .{BASE}."):
        prepare(f"da3:{tmp_path / 'large.safetensors'}")


@pytest.mark.parametrize("kind", ["small", "base"])
def test_the_published_networks_are_known_by_their_names_and_shapes(tmp_path, kind):
    hollow(tmp_path / "model.safetensors", KEYS[f"da3-{kind}"])
    assert size_of_checkpoint(tmp_path / "model.safetensors").name == kind


def test_weights_that_cannot_be_had_offline_are_named_with_their_licence(hub, monkeypatch):
    offline(monkeypatch)
    with pytest.raises(InputError, match=f"{BASE} .*Apache-2.0.*not in the Hub's cache.*'stereo'"):
        prepare("da3:base")


def test_a_hub_that_does_not_answer_is_told(monkeypatch, tmp_path):
    connect(monkeypatch, "http://127.0.0.1:1", tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client tries again for half a minute
    with pytest.raises(InputError, match="Hub cannot be reached"):
        prepare("da3")


@pytest.mark.parametrize(
    ("estimator", "weights"),
    [("da3", SMALL), ("da3:small", SMALL), ("da3:base", BASE), ("da3:org/mine", "org/mine"), ("da3:./base", "./base")],
)
def test_short_names_stand_for_the_published_weights(estimator, weights):
    assert choose(estimator).estimator == f"da3:{weights}"
