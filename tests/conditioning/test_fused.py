"""The fused warp on scenes whose pictures are known exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.scenes import boards_before_a_wall
from cus.cameras import Cameras, trajectories
from cus.conditioning import Conditioning, fused_warp, hierarchical_warp
from cus.conditioning.fused.sharpening import bilateral
from cus.errors import InputError
from cus.estimators import SceneEstimate
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, random_scene, render_depths
from tests.conditioning.test_occlusion import sheet_over_wall
from tests.conditioning.test_warp import TARGETS

PAIR = Cameras.cat([pinhole((-0.3, 0.0, 0.0)), pinhole((0.3, 0.05, 0.0))])
BETWEEN = pinhole((0.05, 0.02, 0.1), focal=160)  # x4
SLANTED = {"normal": (0.3, 0.1, 1.0), "offset": 4.0}


def slanted_scene(cameras: Cameras = PAIR) -> SceneEstimate:
    # Pixels are means over their squares, as a lens makes them.
    fine = cameras.resized(4 * cameras.width, 4 * cameras.height)
    images = F.avg_pool2d(render_depths(fine, plane_depths(fine, **SLANTED)), 4)
    return estimate(images, cameras, plane_depths(cameras, **SLANTED))


def inner(picture: Tensor, margin: int = 3) -> Tensor:
    return picture[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_view_warped_onto_itself_is_itself(backend: str):
    scene = boards_before_a_wall(1, 40, 30)
    result = fused_warp(scene, scene.cameras, backend=backend)
    assert result.masks.all()
    torch.testing.assert_close(result.images, scene.images, rtol=0, atol=2e-4)
    torch.testing.assert_close(result.depths, scene.depths, rtol=1e-5, atol=0)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_close_up_of_a_slanted_plane_has_its_depths_and_colours(backend: str):
    exact = plane_depths(BETWEEN, **SLANTED)
    result = fused_warp(slanted_scene(), BETWEEN, backend=backend)
    assert result.masks.all()
    # Splitting quads into triangles costs nothing on a plane.
    torch.testing.assert_close(result.depths, exact, rtol=1e-4, atol=0)
    torch.testing.assert_close(result.images, render_depths(BETWEEN, exact), rtol=0, atol=0.012)
    warped = hierarchical_warp(slanted_scene(), BETWEEN).images - render_depths(BETWEEN, exact)
    fused = result.images - render_depths(BETWEEN, exact)
    assert inner(fused, 6).abs().mean() < 0.5 * inner(warped, 6).abs().mean()


@pytest.mark.parametrize("views", [1, 3])
def test_any_number_of_references_will_do(views: int):
    cameras = Cameras.cat([pinhole((0.2 * i - 0.2, 0.0, 0.0)) for i in range(views)])
    exact = render_depths(BETWEEN, plane_depths(BETWEEN, **SLANTED))
    result = fused_warp(slanted_scene(cameras), BETWEEN)
    error = (result.images - exact).abs()
    # At the border back-projection knows only a part of the photographs' pixels.
    assert inner(error, 6).mean() < 1.5e-3 and error.mean() < 3e-3
    assert result.layers is not None
    assert result.layers.masks[0, 0].all()
    assert bool(result.layers.masks[0, 1].any()) == (views > 1)


def test_what_no_reference_sees_stays_a_hole():
    cameras = pinhole()
    depths = plane_depths(cameras)
    depths[:, 6:12, 10:20] = 0
    aside = pinhole((0.4, 0.0, 0.0))
    result = fused_warp(estimate(render_depths(cameras, depths), cameras, depths), aside)
    hole = ~result.masks
    assert 30 < hole.sum() < 300
    assert (result.images[hole[:, None].expand_as(result.images)] == 0).all()
    assert (result.depths[hole] == 0).all()
    assert result.layers is not None and not result.layers.masks[:, 0][hole].any()


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_what_is_known_has_a_colour_up_to_the_rim_of_a_photograph(backend: str):
    camera = pinhole(width=96, height=72, focal=80)
    y, x = torch.meshgrid(torch.linspace(0, 9, 72), torch.linspace(0, 12, 96), indexing="ij")
    depths = (4 + 0.3 * torch.sin(x) * torch.cos(y))[None]
    around = Cameras.cat([pinhole((0.05 * i, 0.02 * i, 0.0), 80, 96, 72, yaw=-0.012 * i) for i in range(-8, 9)])
    result = fused_warp(estimate(render_depths(camera, depths), camera, depths), around, backend=backend)
    assert 0.7 < result.masks.float().mean() < 0.99
    assert (result.images.amin(dim=1)[result.masks] > 0.1).all()
    assert ((result.depths > 0) == result.masks).all()


def test_nothing_is_stretched_over_a_depth_edge():
    scene = sheet_over_wall([(0.0, 0.0, 0.0)])
    aside = pinhole((0.6, 0.0, 0.0), focal=60, width=64, height=48)
    result = fused_warp(scene, aside)
    depths = result.depths[result.masks]
    assert ((depths - 2).abs().minimum((depths - 8).abs()) < 0.02).all()
    assert 0.03 < 1 - result.coverage < 0.5


def test_a_close_up_has_no_cracks_at_depth_edges_or_slopes():
    camera = pinhole(focal=60, width=64, height=48)
    depths = plane_depths(camera, (0.9, 0.3, 1.0), 4.0)
    depths[:, 10:30, 20:40] *= 0.7
    scene = estimate(render_depths(camera, depths), camera, depths)
    zoomed = camera.zoomed(4.3)
    result = fused_warp(scene, zoomed)
    assert result.masks.all()
    # On a ray through the picture there is the one surface or the other, and no third.
    near = plane_depths(zoomed, (0.9, 0.3, 1.0), 4.0)
    ratio = result.depths / near
    assert ((ratio - 1).abs().minimum((ratio - 0.7).abs()) < 0.02).all()


def test_reliable_depths_go_before_nearer_unreliable_ones():
    depths = plane_depths(PAIR)
    confidences = torch.ones_like(depths)
    depths[1, 8:11, 10:16] = 3.0
    confidences[1, 8:11, 10:16] = 0.1  # fewer than a tenth
    scene = estimate(render_depths(PAIR, plane_depths(PAIR)), PAIR, depths, confidences)
    result = fused_warp(scene, pinhole())
    torch.testing.assert_close(result.depths, torch.full_like(result.depths, 4.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_zoom_from_where_a_photograph_was_taken_shows_it_whatever_the_depths_say(backend: str):
    scene, zoomed = slanted_scene(), PAIR[0].zoomed(2.0)
    depths, confidences = scene.depths.clone(), scene.confidences.clone()
    confidences[0, 4:-4] = 0.05  # the first photograph's depths are doubtful,
    depths[1, 8:22] *= 0.7  # and the second claims something nearer
    wrong = replace(scene, depths=depths, confidences=confidences)
    right, found = (fused_warp(one, zoomed, agreed=True, backend=backend) for one in (scene, wrong))
    assert found.masks.all() and (right.depths - found.depths).abs().max() > 0.5
    assert (right.images - found.images).abs().max() < 0.01


def test_unreliable_depths_fill_what_nothing_else_covers():
    depths = plane_depths(PAIR[0])
    confidences = torch.ones_like(depths)
    confidences[:, :2] = 0.1
    scene = estimate(render_depths(PAIR[0], depths), PAIR[0], depths, confidences)
    assert fused_warp(scene, PAIR[0]).masks.all()


def blue_within_the_sheet(result: Conditioning, target: Cameras) -> int:
    rays = (target.pixel_centers() - target.Ks[0, :2, 2]) / target.Ks[0, 0, 0]
    sheet = (target.centers[0, :2] + rays * (2 - target.centers[0, 2])).abs().amax(dim=-1) < 0.7
    return int(((result.images[0, 2] > 0.5) & result.masks[0] & sheet).sum())


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_wall_that_leaks_through_a_sparse_sheet_is_removed(backend: str):
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)])
    depths = scene.depths.clone()
    sheet = depths < 4
    lattice = torch.zeros_like(sheet)
    lattice[:, ::3, ::3] = True
    depths[sheet & ~lattice] = 0  # samples of the sheet are three pixels apart
    sparse = estimate(scene.images, scene.cameras, depths)
    target = pinhole((0.5, 0.0, 1.4), focal=60, width=64, height=48)
    leaking = blue_within_the_sheet(fused_warp(sparse, target, suppress_background=False, backend=backend), target)
    assert leaking > 100
    assert blue_within_the_sheet(fused_warp(sparse, target, backend=backend), target) <= 0.02 * leaking


def test_a_dense_sheet_lets_nothing_through_as_it_is_a_mesh():
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)])
    target = pinhole((0.5, 0.0, 1.4), focal=60, width=64, height=48)
    assert blue_within_the_sheet(fused_warp(scene, target, suppress_background=False), target) == 0


def waves(camera: Cameras, cycles: float) -> Tensor:
    """[3, H, W] a sinusoid across the plane z = 4, `cycles` a scene unit, averaged over the pixels by sampling."""
    fine = camera.resized(camera.width * 8, camera.height * 8)
    x = fine.backproject(plane_depths(fine))[0, ..., 0]
    return torch.nn.functional.avg_pool2d((0.5 + 0.3 * torch.sin(6.2832 * cycles * x)).expand(1, 3, -1, -1), 8)[0]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_colours_come_from_the_photographs_at_their_own_resolution(backend: str):
    depths = plane_depths(PAIR)
    scene = estimate(torch.stack([waves(camera, 4.0) for camera in (PAIR[0], PAIR[1])]), PAIR, depths)
    photographs = [waves(PAIR[i].resized(4 * 32, 4 * 24), 4.0) for i in range(2)]
    truth = waves(BETWEEN, 4.0)
    fine = fused_warp(scene, BETWEEN, photographs, backend=backend)
    coarse = fused_warp(scene, BETWEEN, backend=backend)
    assert (fine.images[0] - truth).abs().mean() < 0.01
    assert (coarse.images[0] - truth).abs().mean() > 0.05
    stored = [(255 * photograph).round().to(torch.uint8) for photograph in photographs]
    bytes_ = fused_warp(scene, BETWEEN, stored, backend=backend)
    torch.testing.assert_close(bytes_.images, fine.images, rtol=0, atol=4e-3)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_photographs_of_more_pixels_than_the_target_has_do_not_alias(backend: str):
    depths = plane_depths(PAIR)
    scene = estimate(render_depths(PAIR, depths), PAIR, depths)
    photographs = [waves(PAIR[i].resized(8 * 32, 8 * 24), 30.0) for i in range(2)]  # three pixels a wave
    assert min(photograph.std() for photograph in photographs) > 0.1
    result = fused_warp(scene, pinhole(), photographs, backend=backend)
    assert inner(result.images - 0.5).abs().max() < 0.02


def test_exposures_are_brought_to_that_of_the_nearest_reference():
    scene = slanted_scene()
    gains = torch.tensor([[1.0, 1.0, 1.0], [2.0, 0.9, 1.25]])
    darker = SceneEstimate(
        scene.images / gains[:, :, None, None], scene.cameras, scene.depths, scene.confidences, gains=gains
    )
    even = fused_warp(scene, PAIR, agreed=True)
    result = fused_warp(darker, PAIR, agreed=True)
    torch.testing.assert_close(result.images * gains[:, :, None, None], even.images, rtol=0, atol=2e-3)


def test_the_gate_is_open_where_the_references_agree_and_closed_where_they_do_not():
    generator = torch.Generator().manual_seed(0)
    depths = plane_depths(PAIR)
    noise = torch.rand((2, 3, 24, 32), generator=generator)
    target = pinhole(focal=120)
    same = torch.stack([waves(PAIR[i], 2.0) for i in range(2)])
    gates = [fused_warp(estimate(images, PAIR, depths), target, agreed=True).layers for images in (same, noise)]
    assert gates[0] is not None and gates[1] is not None
    assert gates[0].gate.mean() > 0.9
    assert gates[1].gate.mean() < 0.5


def test_the_gate_stays_open_where_only_one_picture_reaches_and_closes_where_a_depth_contradicts():
    cameras = Cameras.cat([pinhole(), pinhole((1.6, 0.0, 0.0))])  # the second sees the right half
    depths = plane_depths(cameras)
    images = torch.stack([waves(cameras[i], 2.0) for i in range(2)])
    scene = estimate(images, cameras, depths)
    target = pinhole().zoomed(2.0)
    wrong = torch.stack([depths[0], torch.full((24, 32), 3.0)])
    other = estimate(scene.images, cameras, wrong, torch.stack([torch.ones(24, 32), torch.full((24, 32), 0.2)]))
    gates = [fused_warp(each, target, agreed=True).layers for each in (scene, other)]
    assert gates[0] is not None and gates[1] is not None
    alone = gates[1].masks[0, 0] & (gates[1].gate[0] > 0.9)
    assert gates[0].gate[0][gates[0].masks[0, 0]].mean() > 0.9
    assert alone.any() and (gates[1].gate[0] < 0.1).any()


def test_the_detail_that_photographs_show_already_is_told_from_what_they_leave_open():
    scene = slanted_scene()
    own, enlarged = (fused_warp(scene, PAIR[0].zoomed(factor), agreed=True) for factor in (1.0, 4.0))
    fine = PAIR.resized(4 * PAIR.width, 4 * PAIR.height)
    photographs = list(render_depths(fine, plane_depths(fine, **SLANTED)))
    larger = fused_warp(scene, PAIR[0].zoomed(4.0), photographs, agreed=True)
    shares = [float(inner(shown.resolved[0], 6).mean()) for shown in (own, enlarged, larger)]
    assert shares[0] > 0.7 and shares[1] < 1 / 16 and shares[2] > 0.7
    aside = fused_warp(scene, pinhole((1.5, 0.0, 0.0)), agreed=True)
    assert (aside.resolved[~aside.masks] == 0).all() and not aside.masks.all()


def test_layers_can_be_left_out():
    assert fused_warp(slanted_scene(), BETWEEN, with_layers=False).layers is None


def test_a_target_that_sees_nothing_is_refused():
    with pytest.raises(InputError, match="sees nothing of the scene"):
        fused_warp(slanted_scene(), pinhole(yaw=3.0))


@pytest.mark.parametrize(
    ("photographs", "words"),
    [
        ([torch.zeros(3, 48, 64)], "each of the 2 views, got 1"),
        ([torch.zeros(3, 48, 64), torch.zeros(48, 64, 3)], r"photograph 1 must be \[3, H, W\]"),
        ([torch.zeros(3, 48, 64), torch.zeros(3, 48, 64).double()], "got float64"),
        ([torch.zeros(3, 48, 64), torch.zeros(3, 64, 48)], "48x64 pixels, which is another shape"),
    ],
)
def test_photographs_that_are_not_the_views_are_refused(photographs: list[Tensor], words: str):
    with pytest.raises(InputError, match=words):
        fused_warp(slanted_scene(), BETWEEN, photographs)


def assert_same(kernels: Conditioning, plain: Conditioning) -> None:
    """Equal but for rounding, which may turn over a pixel that lies exactly on an edge."""
    different = kernels.masks ^ plain.masks
    assert different.float().mean() <= 2e-3
    shared = kernels.masks & plain.masks
    error = (kernels.images - plain.images).abs().amax(dim=1)[shared]
    assert error.mean() < 1e-3 and (error > 1e-2).float().mean() < 0.01
    depths = (kernels.depths / plain.depths - 1).abs()[shared]
    assert (depths > 1e-4).float().mean() < 1e-2  # a correction is accepted or not, and rounding decides a few
    assert kernels.resolved is not None and plain.resolved is not None
    assert (kernels.resolved - plain.resolved).abs().mean() < 5e-3
    assert kernels.layers is not None and plain.layers is not None
    assert (kernels.layers.gate - plain.layers.gate).abs().mean() < 5e-3
    assert (kernels.layers.images - plain.layers.images).abs().mean() < 2e-3


@pytest.mark.parametrize("suppress", [True, False])
def test_kernels_and_tensor_operations_give_the_same_pictures(suppress: bool):
    for seed in range(3):
        targets = Cameras.cat([*TARGETS.values()])
        scene = random_scene(seed)
        assert_same(*(fused_warp(scene, targets, None, suppress, backend=form) for form in ("cpu", "torch")))


def test_they_do_so_on_a_path_with_photographs():
    scene = boards_before_a_wall(3, 80, 45)
    path = trajectories.interpolate(scene.cameras, zoom=1.0, frames=3)
    zoomed = Cameras(path.viewmats, trajectories.zoom(scene.cameras, zoom=4.0, frames=3).Ks, 80, 45)
    photographs = [(255 * image).to(torch.uint8) for image in boards_before_a_wall(3, 240, 135).images]
    assert_same(*(fused_warp(scene, zoomed, photographs, backend=form) for form in ("cpu", "torch")))


def test_they_do_so_with_a_reference_that_hardly_counts_anywhere():
    cameras = Cameras.cat([pinhole(), pinhole((-4.0, 0.0, 0.0), yaw=0.785)])
    scene, zoomed = slanted_scene(cameras), cameras[0].zoomed(4.0)
    found = [fused_warp(scene, zoomed, agreed=True, backend=form) for form in ("cpu", "torch")]
    assert_same(*found)
    assert found[0].layers is not None and found[0].layers.masks[0, 1].any()


def test_the_same_bits_on_any_number_of_threads():
    scene, targets = random_scene(21), Cameras.cat([*TARGETS.values()] * 2)
    threads, pictures = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            pictures.append(fused_warp(scene, targets))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(pictures[0].images, pictures[1].images)
    assert torch.equal(pictures[0].depths, pictures[1].depths)


def test_any_magnification_of_a_small_picture_is_filtered_within_it():
    """OpenCV's window would be larger than the picture, which ends the program or damages its memory."""
    generator = np.random.default_rng(0)
    for size in ((24, 32), (192, 129)):
        picture = generator.random((*size, 3), np.float32)
        for magnification in (20.0, 120.0, 5000.0):
            filtered = bilateral(picture, magnification)
            assert filtered.shape == picture.shape and 0 <= filtered.min() and filtered.max() <= 1
