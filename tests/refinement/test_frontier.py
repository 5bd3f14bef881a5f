"""Where the cameras of a round are, and what they look at."""

import pytest
import torch

from cus.cameras import Cameras
from cus.refinement.frontier import facing, frontier_views, round_factors, views_between
from tests.conditioning.plane_scenes import pinhole

TARGET = torch.tensor([0.2, -0.1, 4.0])
ANCHORS = Cameras.cat([pinhole((-0.5, 0.0, 0.0)), pinhole((0.5, 0.1, 0.2))])


@pytest.mark.parametrize(
    ("factor", "rounds"),
    [
        (2.0, [2.0]),
        (3.0, [3.0]),
        (3.5, [3.5]),
        (5.0, [5.0]),
        (6.0, [3.0, 6.0]),
        (9.0, [3.0, 9.0]),
        (10.0, [3.0, 10.0]),
        (27.0, [3.0, 9.0, 27.0]),
    ],
)
def test_each_round_comes_three_times_nearer_until_the_factor(factor: float, rounds: list[float]):
    assert round_factors(factor) == rounds


def test_a_frontier_view_is_on_its_anchors_line_and_sees_the_target_in_the_middle():
    views = frontier_views(ANCHORS, TARGET, 1.0)
    torch.testing.assert_close((views.centers - TARGET).norm(dim=1), torch.ones(2))
    lines = torch.nn.functional.cosine_similarity(views.centers - TARGET, ANCHORS.centers - TARGET)
    torch.testing.assert_close(lines, torch.ones(2))
    pixels, depths = views.project(TARGET[None])
    middle = torch.tensor([views.width / 2, views.height / 2]).expand(2, 1, 2)
    torch.testing.assert_close(pixels, middle, atol=1e-3, rtol=0)
    assert bool((depths > 0).all())
    # A view that is nearer already stays where it is.
    torch.testing.assert_close(frontier_views(ANCHORS, TARGET, 100.0).centers, ANCHORS.centers)


def test_a_camera_can_aim_beside_the_target():
    camera = facing(ANCHORS[0], torch.tensor([0.0, 0.0, 3.0]), TARGET, (0.5, -0.5))
    pixel = camera.project(TARGET[None])[0][0, 0]
    expected = torch.tensor([0.75 * camera.width, 0.25 * camera.height])
    torch.testing.assert_close(pixel, expected, atol=1e-3, rtol=0)


def test_views_on_the_way_are_between_the_distances_and_the_anchors_and_see_the_target():
    views = views_between(ANCHORS, TARGET, 1.0, 3.0, 30, torch.Generator().manual_seed(0))
    distances = (views.centers - TARGET).norm(dim=1)
    assert float(distances.min()) >= 0.999 and float(distances.max()) <= 3.001 and float(distances.std()) > 0.3
    pixels = views.project(TARGET[None])[0][:, 0]
    assert bool(((pixels >= 0) & (pixels <= torch.tensor([views.width, views.height]))).all())
    directions = torch.nn.functional.normalize(views.centers - TARGET, dim=1)
    ends = torch.nn.functional.normalize(ANCHORS.centers - TARGET, dim=1)
    # Every direction is no farther from either anchor than these are from each other.
    assert float((directions @ ends.T).min()) >= float(ends[0] @ ends[1]) - 1e-5
