import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes import boards_before_a_wall
from cus.cameras import Cameras, trajectories
from cus.conditioning import render_discs, render_scene_points
from cus.conditioning.scene_points import kept_points
from cus.errors import InputError
from cus.estimators import SceneEstimate
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths, surface_colors

BACKENDS = ("cpu", "torch")


def wall(width: int = 96, height: int = 64, views: int = 2) -> SceneEstimate:
    """A leaning wall seen by cameras side by side."""
    cameras = Cameras.cat([pinhole((0.2 * i, 0, 0), width, width, height) for i in range(views)])
    depths = plane_depths(cameras, (0.1, 0.1, 1.0))
    return estimate(render_depths(cameras, depths), cameras, depths)


def psnr(picture: Tensor, truth: Tensor) -> float:
    return float(-10 * (picture - truth).square().mean().log10())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(48, 32), (47, 31)])
def test_the_picture_is_that_of_discs_at_half_the_size_enlarged(backend, size: tuple[int, int]):
    scene = wall()
    target = pinhole((0.1, 0.05, 0.3), 150, *size)  # as close as the references are fine
    found = render_scene_points(scene, target, radius=0.09, points_per_pixel=7, backend=backend)
    halved = Cameras(target.viewmats, target.Ks * torch.tensor([[0.5], [0.5], [1.0]]), 24, 16)
    points = scene.cameras.backproject(scene.depths).view(-1, 3)
    discs = render_discs(points, surface_colors(points), halved, radius=0.09, points_per_pixel=7, backend=backend)
    image = F.interpolate(discs.images, (32, 48), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.images, image[..., : size[1], : size[0]], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.depths[:, ::2, ::2], discs.depths)


def test_a_close_up_shows_the_surface():
    scene = wall(192, 128)
    target = pinhole((0.1, 0.0, 0.0), 560, 192, 128)
    truth = surface_colors(target.backproject(plane_depths(target, (0.1, 0.1, 1.0))))[0].permute(2, 0, 1)
    points = render_scene_points(scene, target)
    assert points.masks.all()
    assert psnr(points.images[0], truth) > 45
    known = points.depths > 0
    torch.testing.assert_close(points.depths[known], plane_depths(target, (0.1, 0.1, 1.0))[known], rtol=0.02, atol=0)


def test_as_sparse_as_viewcrafters_a_close_up_falls_apart_into_dots():
    scene = wall(192, 128)
    target = pinhole((0.1, 0.0, 0.0), 800, 192, 128)
    dense, sparse = (render_scene_points(scene, target, shrink_references=shrink) for shrink in (False, True))
    assert float((sparse.images == 0).all(1).float().mean()) > 0.05
    assert not bool((dense.images == 0).all(1).any())


@pytest.mark.parametrize("shrunk", [1, 2, 4])
def test_a_view_of_the_same_field_is_as_dense_as_viewcrafters_at_any_size(shrunk: int):
    scene = wall(192, 128)
    target = pinhole((0.1, 0.0, 0.0), 192, 192, 128).resized(192 // shrunk, 128 // shrunk)
    dense, sparse = (render_scene_points(scene, target, shrink_references=shrink) for shrink in (False, True))
    assert torch.equal(dense.images, sparse.images)
    assert dense.masks[..., 16:-16].all()


def test_targets_of_different_zooms_each_get_what_they_get_alone():
    scene = wall(192, 128)
    path = trajectories.zoom(scene.cameras, zoom=5.0, frames=6)
    seen: list[int] = []
    together = render_scene_points(scene, path, on_progress=lambda done, every: seen.append(done))
    for index in range(len(path)):
        torch.testing.assert_close(together.images[index], render_scene_points(scene, path[index]).images[0])
    assert seen == sorted(seen) and seen[-1] == 6


@pytest.mark.parametrize("size", [(1024, 576), (576, 1024)])
def test_at_viewcrafters_size_the_radius_is_viewcrafters(size: tuple[int, int]):
    scene = boards_before_a_wall(2, 96, 54)
    target = scene.cameras[0].zoomed(1.5).resized(*size)
    stated, default = render_scene_points(scene, target, radius=0.01), render_scene_points(scene, target)
    assert torch.equal(stated.images, default.images)


def test_a_picture_of_any_size_is_filled_as_far_as_the_references_reach():
    for width, height in ((64, 36), (202, 150), (33, 97)):
        scene = wall(width, height)
        target = scene.cameras[0].zoomed(1.2)
        assert float(render_scene_points(scene, target).coverage) == 1


def test_holes_are_black_masked_and_without_depth():
    scene = wall()
    result = render_scene_points(scene, pinhole((1.5, 0, 0), 96, 96, 64))
    holes = ~result.masks
    assert 0.2 < float(holes.float().mean()) < 0.9
    assert not result.images.permute(0, 2, 3, 1)[holes].any()
    assert not result.depths[holes].any()
    assert result.images.permute(0, 2, 3, 1)[result.masks].sum(-1).min() > 0


def test_where_a_photograph_was_taken_it_is_shown_as_it_is():
    scene = wall()
    path = trajectories.interpolate(scene.cameras, zoom=1.0, frames=3)
    shown = render_scene_points(scene, path)
    torch.testing.assert_close(shown.images[::2], scene.images, rtol=0, atol=1e-5)
    torch.testing.assert_close(shown.depths[::2], scene.depths)
    assert shown.masks[::2].all()
    rendered = render_scene_points(scene, path, photographs=False)
    assert not torch.equal(rendered.images[0], shown.images[0])
    assert torch.equal(rendered.images[1], shown.images[1])


def test_a_photograph_of_other_proportions_than_the_batch_is_shown_without_its_padding():
    scene = wall()
    inside = scene.cameras[0].cropped(0, 0, 40, 64)
    shown = render_scene_points(scene, inside.resized(20, 32))
    truth = F.interpolate(scene.images[:1, :, :, :40], (32, 20), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(shown.images, truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda camera: camera.zoomed(1.1),
        lambda camera: camera.cropped(0, 0, 48, 32),
        lambda camera: camera.cropped(20, 0, 76, 64),
        lambda camera: Cameras(pinhole((0.02, 0, 0)).viewmats, camera.Ks, camera.width, camera.height),
        lambda camera: Cameras(pinhole(yaw=0.02).viewmats, camera.Ks, camera.width, camera.height),
    ],
)
def test_any_other_camera_gets_a_render(change):
    scene = wall()
    target = change(scene.cameras[0])
    both = [render_scene_points(scene, target, photographs=shown).images for shown in (True, False)]
    assert torch.equal(*both)


def test_of_two_views_all_points_count_and_of_three_the_confident_and_the_far():
    cameras = Cameras.cat([pinhole((0.1 * i, 0, 0), 40, 60, 60) for i in range(3)])
    depths = torch.full((3, 60, 60), 1.0)
    depths[:, :, 30:] = 9.0
    depths[:, 0, 0] = 0.0
    depths[:, 1, :] = 500.0  # so near the border that it does not say what is far
    confidences = torch.rand(depths.shape, generator=torch.Generator().manual_seed(1)) * (depths > 0)
    confidences[:, 20:24] = 1e-3 * (depths[:, 20:24] > 0)
    scene = SceneEstimate(torch.rand(3, 3, 60, 60), cameras, depths, confidences)
    two = SceneEstimate(scene.images[:2], cameras[:2], depths[:2], confidences[:2])
    assert torch.equal(kept_points(two), depths[:2] > 0)
    kept = kept_points(scene)
    assert torch.equal(kept, (depths > 2.0) | scene.reliable)
    assert not kept[:, 20:24, :30].all()
    assert kept[:, 20:24, 30:].all()


@pytest.mark.gpu
def test_a_graphics_card_draws_what_the_processor_draws():
    scene = wall(192, 128)
    path = trajectories.zoom(scene.cameras, zoom=4.0, frames=3)
    there, here = render_scene_points(scene.to("cuda"), path), render_scene_points(scene, path)
    assert there.images.device.type == "cuda"
    assert float(((there.images.cpu() - here.images).abs() > 1e-3).float().mean()) < 1e-3


def test_what_cannot_be_rendered_is_refused_with_its_reason():
    scene = wall()
    away = pinhole(yaw=3.1)
    with pytest.raises(InputError, match="sees nothing"):
        render_scene_points(scene, away)
    with pytest.raises(InputError, match="no depth"):
        render_scene_points(estimate(scene.images, scene.cameras, torch.zeros_like(scene.depths)), scene.cameras)
    for radius in (0.0, 2.0):
        with pytest.raises(ValueError, match="radius"):
            render_scene_points(scene, scene.cameras, radius=radius)
