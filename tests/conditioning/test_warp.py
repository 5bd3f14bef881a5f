import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning.warp import coarsen, project_depths, project_points, pyramid, splat, winners
from tests.conditioning import slow_warp
from tests.conditioning.plane_scenes import pinhole, plane_depths, random_scene, render_depths

TARGETS = {
    "beside": pinhole((0.3, -0.1, 0.2), focal=44, width=23, height=17, yaw=0.1),
    "zoomed": pinhole((0.1, 0.0, 0.0), focal=120, width=23, height=17),
    "inside the scene": pinhole((0.1, 0.0, 2.2), focal=40, width=23, height=17, yaw=-0.4),
    "backwards": pinhole((0.0, 0.0, 2.0), focal=40, width=23, height=17, yaw=3.0),
}


def gather(image: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    filled, index, depths = winners(keys)
    return torch.where(filled, image.flatten(1)[:, index], 0.0).permute(1, 2, 0), filled, depths


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_splats_at_every_scale_agree_with_the_loop_over_pixels_into_a_low_resolution_camera(name: str, scale: int):
    scene, target = random_scene(4), TARGETS[name]
    source, depths, image = scene.cameras[1], scene.depths[1], scene.images[1]
    chosen = scene.confidences[1] > 0.3
    keys = coarsen(splat(project_depths(depths, source, target), chosen.flatten()), scale)
    slow = slow_warp.warp(image.numpy(), depths.numpy(), chosen.numpy(), source, target, scale)
    image, filled, z = gather(image, keys)
    assert torch.equal(filled, torch.from_numpy(slow[1]))
    torch.testing.assert_close(z, torch.from_numpy(slow[2]).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(image, torch.from_numpy(slow[0]).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("focal", [31.7, 400.0, 2759.48])
def test_a_camera_warps_onto_itself_without_any_change(focal: float):
    camera = pinhole((123.4, -56.7, 89.1), focal=focal, width=61, height=47, yaw=0.7)
    depths = torch.rand((47, 61), generator=torch.Generator().manual_seed(0)) * 100 + 0.1
    filled, index, z = winners(splat(project_depths(depths, camera, camera)))
    assert filled.all()
    assert torch.equal(index.flatten(), torch.arange(61 * 47))
    torch.testing.assert_close(z, depths, rtol=1e-6, atol=0)


def test_moving_and_scaling_the_world_changes_nothing():
    scene, target = random_scene(5), TARGETS["beside"]
    before = splat(project_depths(scene.depths[0], scene.cameras[0], target))
    c2w = pinhole((5.0, -3.0, 2.0), yaw=0.8).viewmats[0]

    def moved(cameras: Cameras) -> Cameras:
        viewmats = cameras.viewmats @ c2w
        viewmats[:, :3, 3] *= 4
        return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)

    after = splat(project_depths(scene.depths[0] * 4, moved(scene.cameras[0]), moved(target)))
    same = winners(before)[1] == winners(after)[1]
    assert same.float().mean() > 0.99  # points within rounding of a pixel border may change sides


def test_of_two_points_in_one_pixel_the_nearer_shows_and_of_equals_the_first():
    camera = pinhole(focal=10, width=8, height=6)
    points = torch.tensor([[0.0, 0.0, 5.0], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
    filled, index, z = winners(splat(project_points(points, camera)))
    assert int(filled.sum()) == 1 and int(index[filled]) == 1 and float(z[filled]) == 2.0


def test_points_without_depth_behind_the_camera_or_outside_leave_no_trace():
    camera = pinhole(width=8, height=6)
    depths = torch.zeros((6, 8))
    assert not winners(splat(project_depths(depths, camera, camera)))[0].any()
    depths[:] = 1.0
    assert not winners(splat(project_depths(depths, camera, pinhole((0, 0, 3.0), width=8, height=6))))[0].any()
    assert not winners(splat(project_depths(depths, camera, pinhole((90.0, 0, 0), width=8, height=6))))[0].any()


@pytest.mark.parametrize("zoom", [2, 3, 4])
def test_a_magnified_plane_covers_one_pixel_in_zoom_squared_and_all_cells_of_the_matching_scale(zoom: int):
    camera = pinhole(width=48, height=36)
    keys = splat(project_depths(plane_depths(camera)[0], camera, camera.zoomed(zoom)))
    assert abs(float(winners(keys)[0].float().mean()) * zoom**2 - 1) < 0.15
    assert winners(coarsen(keys, zoom))[0].all()


def test_levels_of_a_pyramid_do_not_depend_on_the_levels_between():
    scene = random_scene(6)
    keys = splat(project_depths(scene.depths[0], scene.cameras[0], TARGETS["zoomed"]))
    for scale, level in zip((1, 2, 4, 8), pyramid(keys, (1, 2, 4, 8)), strict=True):
        assert torch.equal(level, coarsen(keys, scale))


def test_a_projection_refuses_batches_and_depths_of_another_size():
    camera = pinhole(width=8, height=6)
    with pytest.raises(ValueError, match="one source and one target"):
        project_depths(torch.ones(6, 8), Cameras.cat([camera, camera]), camera)
    with pytest.raises(ValueError, match="like the source"):
        project_depths(torch.ones(5, 8), camera, camera)


def test_pictures_of_one_surface_warp_into_each_other():
    source, target = (
        pinhole(width=64, height=48, focal=60),
        pinhole((0.3, 0.1, 0.5), width=64, height=48, focal=60, yaw=0.05),
    )
    normal = (0.3, -0.2, 1.0)
    picture = render_depths(source, plane_depths(source, normal))[0]
    truth_depths = plane_depths(target, normal)
    truth = render_depths(target, truth_depths)[0]
    image, filled, z = gather(picture, splat(project_depths(plane_depths(source, normal)[0], source, target)))
    assert filled.float().mean() > 0.6
    assert (image.permute(2, 0, 1) - truth).abs()[:, filled].max() < 0.05
    assert ((z - truth_depths[0]).abs() / truth_depths[0])[filled].max() < 0.01
