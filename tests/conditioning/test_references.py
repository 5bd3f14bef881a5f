import pytest
import torch

from cus.conditioning import hierarchical_warp
from cus.conditioning.references import references_of
from cus.conditioning.warp import project_depths, project_points, splat, surface_means
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths


@pytest.mark.parametrize("shrink", [2, 3, 4])
def test_a_wide_target_sees_the_average_of_the_pixels_it_covers(shrink: int):
    camera = pinhole(width=48, height=36)
    image = torch.rand((1, 3, 36, 48), generator=torch.Generator().manual_seed(0))
    scene = estimate(image, camera, plane_depths(camera))
    result = hierarchical_warp(scene, camera.resized(48 // shrink, 36 // shrink))
    by_area = torch.nn.functional.interpolate(image, (36 // shrink, 48 // shrink), mode="area")
    assert result.masks.all()
    torch.testing.assert_close(result.images, by_area)


def test_means_are_of_the_nearest_surface_and_the_chosen_points_only():
    points = torch.tensor([[0.0, 0.0, 2.0], [0.01, 0.0, 2.05], [0.0, 0.01, 3.0], [0.01, 0.01, 2.0]])
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    projection = project_points(points, pinhole(focal=10, width=8, height=6))
    chosen = torch.tensor([True, True, True, False])
    means = surface_means(colors, projection, chosen, splat(projection, chosen))
    assert means[3 * 8 + 4].tolist() == [0.5, 0.5, 0.0]
    assert means.sum() == 1


def test_the_spacing_is_the_magnification_of_a_plane_that_faces_the_camera():
    camera = pinhole(width=48, height=36)
    depths = plane_depths(camera)
    reference = references_of(estimate(torch.rand(1, 3, 36, 48), camera, depths))[0]
    for target, expected in ((camera.zoomed(3), 3.0), (camera.resized(24, 18), 0.5), (pinhole((0, 0, 2.0)), 2.0)):
        spacing = reference.projected_spacing(project_depths(depths[0], camera, target))
        assert spacing.typical == pytest.approx(expected, rel=1e-3)
        assert spacing.largest == pytest.approx(expected, rel=1e-3)
        one = torch.tensor([100])
        z = project_depths(depths[0], camera, target).depths[one]
        assert float(reference.spacing_in(target, one, z)) == pytest.approx(expected, rel=1e-3)


def test_a_target_that_sees_nothing_has_a_spacing_of_one():
    camera = pinhole(width=48, height=36)
    reference = references_of(estimate(torch.rand(1, 3, 36, 48), camera, plane_depths(camera)))[0]
    spacing = reference.projected_spacing(project_depths(reference.depths, camera, pinhole(yaw=3.1)))
    assert (spacing.typical, spacing.largest) == (1.0, 1.0)
