"""Epipolar errors of right and wrong cameras."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cus.cameras import Cameras, PosedPhotos
from cus.datasets.scene_check import LARGEST_ERROR, SceneCheck, check_scene, epipolar_errors
from cus.datasets.scenes import open_scene
from tests.datasets.layouts import procedural_views, write_transforms


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory) -> PosedPhotos:
    folder = tmp_path_factory.mktemp("scene")
    write_transforms(folder, *procedural_views(3, 240, 160))
    return open_scene(folder)


def two_cameras() -> tuple[Cameras, Cameras]:
    K = torch.tensor([[100.0, 0, 64], [0, 110, 48], [0, 0, 1]])
    other = torch.eye(4)
    other[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0, -0.1, 0.2], [0.1, 0, -0.05], [-0.2, 0.05, 0]]))
    other[:3, 3] = torch.tensor([0.3, -0.1, 0.05])
    return (Cameras(m[None], K[None], 128, 96) for m in (torch.eye(4), other))  # pyright: ignore[reportReturnType]


def test_images_of_one_point_lie_on_their_epipolar_lines():
    a, b = two_cameras()
    points = torch.from_numpy(np.random.default_rng(0).uniform([-1, -1, 2], [1, 1, 5], (50, 3))).float()
    pixels_a, pixels_b = (camera.project(points)[0][0].double().numpy() for camera in (a, b))
    assert epipolar_errors(a, b, pixels_a, pixels_b).max() < 1e-3
    apart = epipolar_errors(a, b, pixels_a, pixels_b + [0.0, 3.0])
    # No farther than it was moved in one picture, scaled by what the other picture makes of it.
    assert 1.0 < np.median(apart) < 6.0


def test_matched_points_of_right_cameras_lie_within_half_a_pixel(posed):
    found = check_scene(posed)
    assert found.error < 0.5 and found.refusal() is None and found.pairs == (3, 3)
    assert not found.unmatched and not found.misplaced()
    assert 0.5 < found.coverage <= 1 and [photo.name for photo in found.photographs] == posed.names


def test_a_camera_turned_by_two_degrees_is_named_and_cameras_of_other_photographs_are_refused(posed):
    turned = posed.viewmats.clone()
    angle = np.radians(2.0)
    turn = torch.tensor([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]).float()
    turned[1, :3] = turn @ turned[1, :3]
    found = check_scene(replace(posed, viewmats=turned))
    assert posed.names[1] in found.misplaced()
    swapped = check_scene(replace(posed, viewmats=posed.viewmats[[1, 2, 0]]))
    assert swapped.error > LARGEST_ERROR and "cameras do not fit the photographs" in str(swapped.refusal())


def test_fewer_pairs_are_compared_where_asked(posed):
    assert check_scene(posed, most_pairs=1).pairs == (1, 1)


def test_a_scene_without_matches_is_refused():
    refusal = SceneCheck((), (0, 4), float("nan"), 0.0).refusal()
    assert refusal is not None and "shares anything" in refusal


def test_a_photograph_that_cannot_be_read_is_named(posed, tmp_path):
    write_transforms(tmp_path, *procedural_views(3, 240, 160))
    scene = open_scene(tmp_path)
    Path(scene.paths[1]).write_bytes(b"no picture")
    with pytest.raises(Exception, match=scene.paths[1].name):
        check_scene(scene)
