"""VGGT, DUSt3R and MapAnything against the truth of an analytic scene, through stand-ins that have their interface."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from cus.cameras import Cameras
from cus.cli.infer import main
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.estimators.choice import REGISTRY
from cus.estimators.estimator import Network
from cus.estimators.predictions import cameras_from_pose_encodings
from tests.estimators import planes
from tests.estimators.photographs import CHECKPOINTS, Photographs, photographs

LANDSCAPE, PORTRAIT = (160, 120), (120, 160)
MIXED = [LANDSCAPE, (90, 150), (140, 96)]
ALL = pytest.mark.parametrize("network", ["vggt", "dust3r", "map-anything"])
BATCHES = pytest.mark.parametrize(
    "sizes",
    [[LANDSCAPE] * 2, [PORTRAIT] * 3, MIXED, [(700, 500)] * 2],
    ids=["landscape", "portrait", "mixed", "large"],
)


def pair(sizes=(LANDSCAPE, LANDSCAPE)) -> Photographs:
    return photographs(sizes, (0.1, 0.6, 1.0)[: len(sizes)])


def in_unit_of(scene: SceneEstimate, photos: Photographs) -> float:
    return float((scene.depths[photos.valid] / photos.depths[photos.valid]).median())


@ALL
@BATCHES
def test_every_depth_is_right_and_cameras_come_back_to_the_photographs_pixels_in_their_order(
    stand_ins, tmp_path, network, sizes
):
    photos = pair(sizes)
    scene = estimate_scene(photos.images, None, CHECKPOINTS[network](tmp_path, photos), valid=photos.valid)
    depths = scene.depths / in_unit_of(scene, photos)
    errors = (depths / photos.depths - 1).abs()[photos.valid]
    assert errors.median() < 1e-3 and (errors > 0.01).float().mean() < 0.002
    # What is off lies on the other side of the board's edge, not between board and wall.
    wall, board = photos.depths[photos.depths > 3.2], photos.depths[(photos.depths > 0) & (photos.depths < 3.2)]
    between = (depths > 1.05 * board.max()) & (depths < 0.95 * wall.min()) & photos.valid
    assert not bool(between.any())
    assert not bool(scene.depths[~photos.valid].any()) and not bool(scene.confidences[~photos.valid].any())

    assert torch.equal(scene.cameras.viewmats[0], torch.eye(4))
    expected = photos.cameras.viewmats.double() @ torch.linalg.inv(photos.cameras.viewmats[0].double())
    expected[:, :3, 3] *= in_unit_of(scene, photos)
    torch.testing.assert_close(scene.cameras.viewmats.double(), expected, atol=1e-4, rtol=0)
    Ks = photos.cameras.Ks.clone()
    if network == "dust3r":
        # Its first pixel is at (0, 0), so its middle is half a pixel of its frame off, for its points to be where it
        # says.
        Ks[:, :2, 2] += torch.tensor([[0.5 * max(size) / 512] for size in sizes])
    torch.testing.assert_close(scene.cameras.Ks[:, :2, 2], Ks[:, :2, 2], atol=0.01, rtol=0)
    torch.testing.assert_close(scene.cameras.Ks[:, :2, :2], Ks[:, :2, :2], atol=1e-3, rtol=4e-3)


@ALL
def test_the_first_camera_is_the_world_and_the_scene_scale_the_unit(stand_ins, tmp_path, network):
    photos = pair(MIXED)
    for unit in (0.01, 7.0):
        checkpoint = CHECKPOINTS[network](tmp_path / str(unit), photos, unit=torch.tensor([unit]))
        scene = estimate_scene(photos.images, None, checkpoint, valid=photos.valid)
        assert scene.scale == pytest.approx(1, abs=1e-4)
        true_scale = SceneEstimate(photos.images, photos.cameras, photos.depths, scene.confidences).scale
        assert in_unit_of(scene, photos) == pytest.approx(1 / true_scale, rel=1e-3)
        stated = re.search(r"unit of length .* first camera: (\S+) (?:of|metres)", scene.notes[0])
        assert stated and float(stated[1]) == pytest.approx(unit * true_scale, rel=1e-3)


@ALL
def test_what_the_network_is_not_sure_of_has_the_lower_confidence(stand_ins, tmp_path, network):
    photos = pair()
    images = photos.images.clone()
    images[1, :, 40:70, 20:50] = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0))
    scene = estimate_scene(images, None, CHECKPOINTS[network](tmp_path, photos))
    assert scene.confidences.min() >= 0 and scene.confidences.max() <= 1
    changed = torch.zeros(2, 120, 160, dtype=torch.bool)
    changed[1, 40:70, 20:50] = True
    assert scene.confidences[changed].mean() < 0.2 < 0.9 < scene.confidences[~changed].median()
    assert not bool(scene.reliable[changed].float().mean() > 0.3)


@ALL
def test_given_cameras_are_kept_and_depths_come_into_their_unit(stand_ins, tmp_path, network):
    photos = pair(MIXED)
    given = similar(photos.cameras, 12.5)
    scene = estimate_scene(photos.images, given, CHECKPOINTS[network](tmp_path, photos), valid=photos.valid)
    assert torch.equal(scene.cameras.viewmats, given.viewmats) and torch.equal(scene.cameras.Ks, given.Ks)
    errors = (scene.depths / (12.5 * photos.depths) - 1).abs()[photos.valid]
    assert errors.median() < 0.01 and (errors > 0.02).float().mean() < 0.002
    told = " ".join(scene.notes)
    assert "given cameras are kept" in told and "0.00 degrees" in told and "warning" not in told


@ALL
def test_wrong_focal_lengths_of_the_network_are_told_and_their_depths_fitted(stand_ins, tmp_path, network):
    photos = photographs([(320, 240)] * 2, (0.1, 0.6))
    longer = Photographs(photos.images, photos.valid, photos.depths, photos.cameras, 1.2 * photos.focals)
    # As a network is wrong: it sees a longer lens, and all else nearly as it is.
    scene = estimate_scene(photos.images, photos.cameras, CHECKPOINTS[network](tmp_path, longer, surest=SURE))
    told = " ".join(scene.notes)
    assert "20.0% of the focal length" in told and "warning" in told and "stereo" in told
    assert torch.equal(scene.cameras.Ks, photos.cameras.Ks)


@ALL
def test_a_camera_that_is_off_shows_in_degrees_and_baselines(stand_ins, tmp_path, network):
    photos = pair()
    viewmats = photos.cameras.viewmats.clone()
    tilt = torch.from_numpy(Rotation.from_euler("x", 2.0, degrees=True).as_matrix()).float()
    viewmats[1, :3, :3] = tilt @ viewmats[1, :3, :3]
    off = Cameras(viewmats, photos.cameras.Ks, *LANDSCAPE)
    known = Photographs(photos.images, photos.valid, photos.depths, off, photos.focals)
    scene = estimate_scene(photos.images, photos.cameras, CHECKPOINTS[network](tmp_path, known, surest=SURE))
    # Of two cameras each bears half.
    assert any("at most 1.00 degrees" in note for note in scene.notes)


@ALL
def test_values_that_are_not_numbers_are_refused(stand_ins, tmp_path, network):
    photos = pair()
    checkpoint = CHECKPOINTS[network](tmp_path, photos, surest=torch.tensor([math.nan]))
    with pytest.raises(InputError, match="not numbers.*'stereo'"):
        estimate_scene(photos.images, None, checkpoint)


@ALL
def test_views_of_which_nothing_is_believed_are_refused(stand_ins, tmp_path, network):
    photos = pair([LANDSCAPE] * 3)
    images = photos.images.clone()
    images[1] = images[1].flip(-1).flip(-2)
    with pytest.raises(InputError, match="nothing in view 2.*overlap"):
        estimate_scene(images, None, CHECKPOINTS[network](tmp_path, photos, surest=torch.tensor([1.5])))


def test_a_pair_without_a_pose_is_refused(stand_ins, tmp_path):
    photos = pair()
    with pytest.raises(InputError, match="no pose between the two.*overlap"):
        estimate_scene(photos.images, None, CHECKPOINTS["dust3r"](tmp_path, photos, surest=torch.tensor([-20.0])))


@ALL
def test_too_little_memory_names_the_remedies(stand_ins, tmp_path, network):
    photos = pair(MIXED)
    checkpoint = CHECKPOINTS[network](tmp_path, photos, memory=torch.tensor([2.0]))
    with pytest.raises(InputError, match="3 photographs; use fewer.*'stereo'"):
        estimate_scene(photos.images, None, checkpoint, valid=photos.valid)


@ALL
def test_progress_ends_where_it_said(stand_ins, tmp_path, network):
    photos = pair()
    told: list[tuple[int, int]] = []
    estimate_scene(
        photos.images, None, CHECKPOINTS[network](tmp_path, photos), on_progress=lambda *step: told.append(step)
    )
    assert told == [(step, len(told)) for step in range(1, len(told) + 1)]


@ALL
def test_the_command_takes_it_and_the_report_names_it(stand_ins, tmp_path, network):
    photos = photographs([(320, 240)] * 2, (0.1, 0.6))
    files = []
    for name, image in zip("ab", photos.images, strict=True):
        files.append(str(tmp_path / f"{name}.png"))
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(files[-1])
    estimator, out = CHECKPOINTS[network](tmp_path / "weights", photos), tmp_path / "out"
    options = ["--estimator", estimator, "--out", str(out), "--conditioning-only", "--frames", "2", "--size", "96"]
    assert main(["--views", *files, *options]) == 0
    notes = json.loads((out / "run.json").read_text())["notes"]
    assert f"estimator: {network} with {tmp_path / 'weights'}" in notes
    assert f"estimator: {network}" in (out / "report.html").read_text()
    depth = np.load(out / "depth" / "b_depth.npy")
    ratio = depth / photos.depths[1].numpy()
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 1e-3


def test_the_command_refuses_an_estimator_that_is_not_there_before_it_does_anything(stand_ins, tmp_path, capsys):
    Image.new("RGB", (320, 240)).save(tmp_path / "a.png")
    Image.new("RGB", (320, 241)).save(tmp_path / "b.png")
    views = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    missing = f"vggt:{tmp_path / 'nowhere'}"
    assert main(["--views", *views, "--out", str(tmp_path / "out"), "--estimator", missing]) == 2
    assert "no weights at" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_nine_numbers_are_a_transform_into_the_camera_and_two_fields_of_view():
    generator = torch.Generator().manual_seed(0)
    rotations = Rotation.from_rotvec(torch.randn(5, 3, generator=generator).numpy())
    translations, fov_y, fov_x = torch.randn(5, 3, generator=generator), torch.tensor(0.7), torch.tensor(1.1)
    quaternions = torch.from_numpy(rotations.as_quat()).float() * torch.tensor([1.0, -1.0, 3.0, 0.2, 1.0])[:, None]
    encodings = torch.cat([translations, quaternions, fov_y.expand(5, 1), fov_x.expand(5, 1)], dim=1)
    viewmats, Ks = cameras_from_pose_encodings(encodings, width=518, height=392)
    cameras = Cameras(viewmats, Ks, 518, 392)
    point = torch.tensor([[0.3, -0.2, 0.5]])
    in_camera = torch.from_numpy(rotations.apply(point[0].numpy())).float() + translations
    pixels, depths = cameras.project(point)
    torch.testing.assert_close(depths[:, 0], in_camera[:, 2], atol=1e-5, rtol=1e-5)
    # A ray along the edge of the field of view goes through the border of the picture.
    edge = torch.tensor([math.tan(1.1 / 2), -math.tan(0.7 / 2), 1.0])
    torch.testing.assert_close((Ks[0] @ edge)[:2], torch.tensor([518.0, 0.0]), atol=1e-3, rtol=0)
    assert Ks[0, :2, 2].tolist() == [259, 196]


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "weights"),
    [(one, weights) for one in REGISTRY.values() if isinstance(one, Network) for weights in one.repositories],
)
def test_the_real_network_finds_the_planes(network, weights):
    if network.missing_package() or network.find(weights) is None:
        pytest.skip(f"{network.title} or its weights {weights} are not on this machine")
    views = planes.cameras((0.0, 0.5, 1.0), width=640, height=480, focal=600.0)
    images, depths = planes.render(views)
    scene = estimate_scene(images.cuda(), None, f"{network.name}:{weights}").to("cpu")
    assert scene.cameras.Ks[:, 0, 0].median() == pytest.approx(600, rel=0.2)
    ratio = (scene.depths / depths)[scene.reliable]
    assert ((ratio / ratio.median() - 1).abs() < 0.1).float().mean() > 0.8


SURE = torch.tensor([40.0])


def similar(cameras: Cameras, scale: float) -> Cameras:
    """The cameras in a world that is `scale` times as large, turned and elsewhere."""
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.from_numpy(Rotation.from_euler("zyx", [0.4, 1.0, -0.3]).as_matrix())
    c2w = turn @ torch.linalg.inv(cameras.viewmats.double())
    c2w[:, :3, 3] = scale * c2w[:, :3, 3] + torch.tensor([30.0, -4.0, 1.0])
    return Cameras(torch.linalg.inv(c2w).float(), cameras.Ks, cameras.width, cameras.height)
