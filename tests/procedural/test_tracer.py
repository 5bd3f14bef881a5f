"""Procedural scenes: exact depth, the same surface from every camera, the same detail at every zoom."""

import math

import pytest
import torch
import torch.nn.functional as F

from cus.cameras import Cameras
from procedural.tracer import (
    Light,
    Scene,
    Solid,
    keep_clear,
    look_at,
    random_scene,
    render,
    sample_reference_cameras,
)
from procedural.tracer.materials import Bricks, Plaster
from procedural.tracer.noise import fbm, noise
from procedural.tracer.revolved import Revolved
from procedural.tracer.scene import turn_z
from procedural.tracer.shapes import Box, Cylinder, Plane, Sphere

LIGHT = Light((0.0, -0.6, 0.8), softness=0.01, haze=0.0)
CLAY = Plaster()


def _camera(
    center: list[float], target: list[float], width: int = 48, height: int = 32, focal: float = 50.0
) -> Cameras:
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(look_at(torch.tensor(center), torch.tensor(target))[None], K[None], width, height)


def _rays(camera: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """Origin [3] and directions [H, W, 3] with unit z in the camera, in float64, by the definition of the camera."""
    pixels = F.pad(camera.pixel_centers().double(), (0, 1), value=1.0)
    directions = pixels @ torch.linalg.inv(camera.Ks[0].double()).T @ camera.viewmats[0, :3, :3].double()
    return camera.centers[0].double(), directions


def _alone(shape, at=(0.0, 0.0, 0.0), yaw: float = 0.0) -> Scene:
    return Scene((Solid(shape, CLAY, torch.tensor(at), turn_z(yaw)),), LIGHT)


def test_depth_of_a_plane_is_the_analytic_one():
    camera = _camera([0.3, -2.0, 1.5], [0.0, 0.5, 0.0])
    _, depths = render(_alone(Plane()), camera, supersample=1)
    origin, directions = _rays(camera)
    expected = -origin[2] / directions[..., 2]
    expected = torch.where(expected > 0, expected, torch.zeros_like(expected))
    torch.testing.assert_close(depths[0].double(), expected, rtol=2e-6, atol=0)


def test_depth_of_a_far_sphere_is_the_analytic_one():
    camera = _camera([0.3, -40.0, 3.0], [0.0, 0.0, 1.0], focal=900.0)
    _, depths = render(_alone(Sphere(0.7), (0.1, 0.0, 1.0)), camera, supersample=1)
    origin, d = _rays(camera)
    o = origin - torch.tensor([0.1, 0.0, 1.0], dtype=torch.float32).double()
    a, b, c = (d * d).sum(-1), (d @ o), o @ o - 0.49
    root = b * b - a * c
    expected = torch.where(root > 0, (-b - root.clamp(min=0).sqrt()) / a, 0.0)
    clear = root.abs() > 1e-4 * (b * b)  # a grazing ray may fall to either side
    torch.testing.assert_close(depths[0].double()[clear], expected[clear], rtol=1e-5, atol=0)
    assert 0.2 < (depths > 0).float().mean() < 0.9


@pytest.mark.parametrize(
    "shape",
    [Box(0.5, 0.3, 0.4), Cylinder(0.4, 0.5), Revolved((0.4, 0.5, 0.2, 0.3), 0.6), Revolved((0.6, 0.1), 0.5)],
    ids=["box", "cylinder", "vase", "cone"],
)
@pytest.mark.parametrize("height", [0.2, 2.5])
def test_visible_points_of_a_shape_lie_on_its_surface_and_face_the_camera(shape, height):
    scene = _alone(shape, (0.2, 0.1, 0.6), yaw=0.7)
    camera = _camera([0.5, -2.5, height], [0.2, 0.1, 0.6])
    _, depths = render(scene, camera, supersample=1)
    points = camera.backproject(depths)[0][depths[0] > 0].T
    assert points.shape[1] > 100
    local = scene.solids[0].to_shape(points)
    patch = shape.patch(local)
    assert shape.distance(local).abs().max() < 1e-4
    view = scene.solids[0].turn_to_shape(points - camera.centers.T)
    # Rounded rims and edges turn away from the camera a little before the surface ends.
    assert ((patch.normals * view).sum(0) < 0.02).float().mean() > 0.98
    assert torch.allclose(patch.normals.norm(dim=0), torch.ones(points.shape[1]), atol=1e-5)


def test_a_cone_with_straight_sides_meets_its_formula():
    camera = _camera([0.0, -3.0, 0.4], [0.0, 0.0, 0.0], focal=80.0)
    _, depths = render(_alone(Revolved((0.6, 0.2), 0.5)), camera, supersample=1)
    points = camera.backproject(depths)[0][depths[0] > 0].double()
    side = points[:, 2].abs() < 0.499
    radius = points[side, :2].norm(dim=1)
    torch.testing.assert_close(radius, 0.4 - 0.4 * points[side, 2], rtol=0, atol=2e-5)


def test_noise_slopes_are_the_derivatives_of_its_value():
    u, v = torch.rand(2, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 40 - 20
    step = 1e-6
    for field in (noise, lambda a, b: fbm(a, b, 3.0, torch.zeros_like(a) + 1e-3, 6, stretch=2.0)):
        here = field(u, v)
        du = (field(u + step, v).value - field(u - step, v).value) / (2 * step)
        dv = (field(u, v + step).value - field(u, v - step).value) / (2 * step)
        torch.testing.assert_close(here.du.double(), du.double(), rtol=1e-3, atol=2e-2)
        torch.testing.assert_close(here.dv.double(), dv.double(), rtol=1e-3, atol=2e-2)
        assert here.value.abs().max() <= 1.4


def test_two_cameras_see_the_same_colours_where_they_see_the_same_point():
    scene = random_scene(3)
    cameras = sample_reference_cameras(scene, 3, 240, 136)
    images, depths = render(scene, cameras, supersample=3)
    points = cameras[0].backproject(depths[:1]).view(-1, 3)
    pixels, z = cameras[1].project(points)
    grid = (pixels / torch.tensor([240.0, 136.0]) * 2 - 1).view(1, 136, 240, 2)
    seen = F.grid_sample(images[1:], grid, align_corners=False)[0]
    surface = F.grid_sample(depths[1:, None], grid, mode="nearest", align_corners=False)[0, 0]
    agree = (surface / z.view(136, 240) - 1).abs() < 0.005
    agree &= (depths[0] > 0) & (grid[0].abs() < 0.98).all(-1)
    assert agree.float().mean() > 0.4
    difference = (seen - images[0]).abs().mean(0)[agree]
    unmoved = (images[1] - images[0]).abs().mean(0)[agree]
    assert difference.median() < 0.02
    assert difference.mean() < 0.35 * unmoved.mean()


def test_a_close_up_averages_to_the_wide_view():
    wall = Solid(Box(3, 0.1, 2), Bricks(), torch.tensor([0.0, 0.1, 0.0]))
    scene = Scene((wall,), Light((0.3, -0.7, 0.65), softness=0.01, haze=0.0))
    wide = _camera([0.2, -3.0, 0.1], [0.2, 0.0, 0.1], 64, 32, 60.0)
    close = wide.zoomed(4.0)
    image, detail = render(scene, wide, supersample=4)[0][0], render(scene, close, supersample=2)[0][0]
    shrunk = F.avg_pool2d(detail, 4)
    middle = image[:, 12:20, 24:40]
    assert shrunk.shape == middle.shape
    assert (shrunk - middle).abs().mean() < 0.02
    # ... and holds detail that the wide view does not have.
    enlarged = F.interpolate(middle[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    assert (enlarged - detail).abs().mean() > 2.5 * (shrunk - middle).abs().mean()


def test_the_same_seed_gives_the_same_picture_and_another_seed_another():
    def picture(seed: int) -> torch.Tensor:
        scene = random_scene(seed)
        return render(scene, sample_reference_cameras(scene, 5, 64, 40)[:1], supersample=1)[0]

    assert torch.equal(picture(11), picture(11))
    assert not torch.allclose(picture(11), picture(12), atol=0.05)


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_have_relief_light_and_shade(seed):
    scene = random_scene(seed)
    cameras = sample_reference_cameras(scene, seed, 96, 54)
    images, depths = render(scene, cameras, supersample=1)
    assert images.isfinite().all() and 0 <= images.min() and images.max() <= 1
    assert (depths > 0).float().mean() > 0.6
    known = depths[depths > 0]
    assert known.quantile(0.95) > 1.3 * known.quantile(0.05)
    assert images.mean(1).std() > 0.08
    assert 0.15 < images.mean() < 0.85
    baseline = (cameras.centers[0] - cameras.centers[1]).norm()
    assert 0.05 < baseline / known.mean() < 0.3


def test_shadow_falls_where_a_box_hides_the_sun():
    floor, box = Solid(Plane(), CLAY, torch.zeros(3)), Solid(Box(0.3, 0.3, 0.3), CLAY, torch.tensor([0.0, 0.0, 1.0]))
    scene = Scene((floor, box), Light((0.0, 0.0, 1.0), softness=0.01, haze=0.0), exposure=0.3)
    camera = _camera([0.0, -3.0, 1.2], [0.0, 0.0, 0.3], 96, 64, 60.0)
    image, depth = render(scene, camera)
    points = camera.backproject(depth)[0]
    on_floor = points[..., 2].abs() < 1e-3
    below = on_floor & (points[..., :2].abs() < 0.25).all(-1)
    beside = on_floor & ((points[..., :2].abs() > 0.4).any(-1)) & (points[..., :2].abs() < 0.8).all(-1)
    assert image[0].mean(0)[below].mean() < 0.75 * image[0].mean(0)[beside].mean()


def test_paths_stop_before_they_enter_a_surface():
    scene = _alone(Sphere(0.5))
    path = Cameras.cat([_camera([0.0, -d, 0.0], [0.0, 0.0, 0.0]) for d in (3.0, 2.0, 1.0, 0.6, 0.3)])
    kept = keep_clear(scene, path, clearance=0.2)
    assert len(kept) == 3
    assert math.isclose(float(kept.centers[-1].norm()), 1.0, rel_tol=1e-5)


def test_bad_arguments_are_refused():
    scene, camera = _alone(Plane()), _camera([0.0, -1.0, 1.0], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="supersample"):
        render(scene, camera, supersample=0)
    with pytest.raises(ValueError, match="exposures"):
        render(scene, camera, exposures=torch.ones(3))
    with pytest.raises(ValueError, match="two radii"):
        Revolved((0.5,), 1.0)
