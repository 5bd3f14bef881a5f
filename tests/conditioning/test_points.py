import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning import render_points
from cus.errors import InputError
from tests.conditioning.plane_scenes import pinhole, plane_depths, surface_colors

CAMERA = pinhole(focal=60, width=48, height=36)


def plane_cloud(normal: tuple[float, float, float] = (0.2, 0.1, 1.0)) -> tuple[torch.Tensor, torch.Tensor]:
    points = CAMERA.backproject(plane_depths(CAMERA, normal)).view(-1, 3)
    return points, surface_colors(points)


def test_the_cloud_of_a_picture_renders_back_into_it():
    points, colors = plane_cloud()
    result = render_points(points, colors, CAMERA)
    assert result.masks.all()
    torch.testing.assert_close(result.images[0].permute(1, 2, 0).reshape(-1, 3), colors, rtol=0, atol=0.01)
    torch.testing.assert_close(result.depths, plane_depths(CAMERA, (0.2, 0.1, 1.0)), rtol=0.01, atol=0)


@pytest.mark.parametrize("zoom", [1.0, 1.3, 2.2])
def test_a_close_up_of_a_cloud_has_no_gaps_and_the_right_colours(zoom: float):
    points, colors = plane_cloud()
    target = CAMERA.resized(160, 120).zoomed(zoom)
    result = render_points(points, colors, target)
    assert float(result.coverage) > 0.99
    truth = surface_colors(target.backproject(plane_depths(target, (0.2, 0.1, 1.0))))[0].permute(2, 0, 1)
    assert (result.images[0] - truth)[:, result.masks[0]].abs().max() < 0.05


def test_the_nearer_point_shows_and_the_background_stays_a_hole():
    points = torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 2.0]])
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    result = render_points(points, colors, CAMERA, scales=(1,))
    assert int(result.masks.sum()) == 1
    assert result.images[0, :, 18, 24].tolist() == [0.0, 1.0, 0.0]
    assert float(result.depths[0, 18, 24]) == 2.0


def test_the_order_of_the_points_does_not_matter():
    points, colors = plane_cloud()
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    targets = Cameras.cat([CAMERA.zoomed(2), CAMERA.zoomed(3)])
    first, second = render_points(points, colors, targets), render_points(points[order], colors[order], targets)
    assert torch.equal(first.masks, second.masks)
    torch.testing.assert_close(first.images, second.images)


def test_a_dense_cloud_keeps_its_outline():
    points, colors = plane_cloud()
    half = points[:, 0] < 0
    result = render_points(points[half], colors[half], CAMERA)
    assert not result.masks[0, :, 26:].any()


def test_an_empty_cloud_and_one_out_of_sight_are_errors():
    points, colors = plane_cloud()
    with pytest.raises(InputError, match="empty"):
        render_points(points[:0], colors[:0], CAMERA)
    with pytest.raises(InputError, match="sees nothing"):
        render_points(points, colors, pinhole(yaw=3.14))


def test_shapes_that_do_not_fit_are_refused():
    points, colors = plane_cloud()
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        render_points(points, colors[:-1], CAMERA)
