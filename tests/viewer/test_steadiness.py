"""Analytic views of planes: what a perfect renderer would show."""

import pytest
import torch

from cus.cameras import Cameras, trajectories
from cus.viewer.steadiness import FrameMeasures, Shot, Steadiness, compare, needle_share, uncovered_share

WIDTH, HEIGHT = 160, 96


def path(zoom: float = 1.2) -> Cameras:
    K = torch.tensor([[150.0, 0, 80], [0, 150.0, 48], [0, 0, 1]])
    camera = Cameras(torch.eye(4)[None], K[None], WIDTH, HEIGHT)
    return trajectories.dolly(camera, zoom, (0.6, 0.4), 2, depth=2.0)


def seen(camera: Cameras, *, slope: float = 0.3) -> Shot:
    """The plane z = 2 + slope x with a smooth pattern."""
    rays = camera.backproject(torch.ones(1, HEIGHT, WIDTH))[0] - camera.centers[0]
    center = camera.centers[0]
    depths = (2 + slope * center[0] - center[2]) / (rays[..., 2] - slope * rays[..., 0])
    points = center + rays * depths[..., None]
    pattern = [0.5 + 0.4 * torch.sin(k * points[..., 0] + 9 * points[..., 1]) for k in (8, 12, 16)]
    return Shot(camera, torch.stack(pattern), torch.ones(HEIGHT, WIDTH), depths)


def with_blob(shot: Shot, *, depth: float = 1.0) -> Shot:
    """A grey square of 24x24 pixels hovers before the plane."""
    picture, depths = shot.picture.clone(), shot.depths.clone()
    picture[:, 40:64, 60:84], depths[40:64, 60:84] = 0.5, depth
    return Shot(shot.camera, picture, shot.alphas, depths)


def test_a_still_scene_does_not_change_however_the_camera_moves():
    cameras = path()
    change, popping, compared = compare(seen(cameras[0]), seen(cameras[1]))
    assert change < 1 and popping < 2, "what is left is resampling"
    assert compared > 0.7


def test_a_colour_that_jumps_in_one_place_is_popping_and_hardly_changes_the_mean():
    cameras = path()
    second = seen(cameras[1])
    second.picture[:, 32:64, 64:96] += 0.2
    change, popping, _ = compare(seen(cameras[0]), second)
    assert 0.6 * 51 < popping < 1.1 * 51 and change < 8


@pytest.mark.parametrize("order", [1, -1])
def test_what_appears_or_vanishes_in_front_of_a_surface_is_popping(order):
    cameras = path(1.01)
    pair = [with_blob(seen(cameras[0])), seen(cameras[1])][::order]
    _, popping, _ = compare(*pair)
    assert popping > 20


def test_what_a_nearer_surface_hides_in_the_other_view_is_not_compared():
    """The blob is in both pictures, where it belongs: the plane behind it is hidden in different places."""
    cameras = path(1.05)
    first, second = (seen(cameras[i]) for i in range(2))
    for shot in (first, second):
        near = Cameras(shot.camera.viewmats, shot.camera.Ks, WIDTH, HEIGHT)
        points = near.backproject(torch.full((1, HEIGHT, WIDTH), 1.0) - near.centers[0, 2])[0]
        square = (points[..., 0].abs() < 0.1) & (points[..., 1].abs() < 0.1)
        shot.picture[:, square] = 0.9
        shot.depths[square] = (1.0 - near.centers[0, 2]).item()
    still, popping, _ = compare(first, second)
    assert still < 1 and popping < 5


def test_views_that_share_nothing_compare_nothing():
    camera = path()[0]
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None]
    away = Cameras(turned @ camera.viewmats, camera.Ks, WIDTH, HEIGHT)
    shot = seen(camera)
    assert compare(shot, Shot(away, shot.picture, shot.alphas, shot.depths)) == (0, 0, 0)


def test_uncovered_pixels_are_those_that_are_less_than_half_covered():
    alphas = torch.tensor([[0.0, 0.49], [0.51, 1.0]])
    assert uncovered_share(alphas) == 0.5


def conic(long: float, short: float, angle: float = 0.5) -> torch.Tensor:
    turn = torch.tensor(angle)
    axes = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)
    inverse = axes @ torch.diag(torch.tensor([long**-2, short**-2])) @ axes.T
    return torch.stack([inverse[0, 0], inverse[0, 1], inverse[1, 1]])


def test_a_needle_is_thin_and_long_in_the_picture():
    conics = torch.stack([conic(13, 1), conic(12, 1), conic(13, 1.5), conic(300, 0.6)])
    everyone = torch.ones(4, dtype=torch.bool)
    # Four standard deviations of 13 and 12 pixels: 52 and 48, of which only the first passes 1/20 of 1000.
    assert needle_share(conics, everyone, 1000) == 0.5
    assert needle_share(conics, everyone, 1000, ratio=5) == 0.75
    assert needle_share(conics, torch.tensor([False, True, True, False]), 1000) == 0
    assert needle_share(conics, ~everyone, 1000) == 0


def test_the_table_names_the_worst_of_every_column():
    frames = [
        FrameMeasures(0.0, 0.001, 1.0, 2.0, 0.9),
        FrameMeasures(0.25, 0.0, 0.5, 9.5, 0.9),
        FrameMeasures(0.1, 0.0),
    ]
    steadiness = Steadiness(tuple(frames))
    assert steadiness.summary()["uncovered_worst"] == 0.25 and steadiness.summary()["popping_worst"] == 9.5
    worst = steadiness.table().splitlines()[-2]
    assert "25.00 %" in worst and "9.50" in worst and "0.100 %" in worst
    many = Steadiness(tuple(frames[:1] * 100))
    assert len(many.table().splitlines()) == 12
