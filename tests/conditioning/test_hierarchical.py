import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning import Conditioning, divide_reliability, hierarchical_warp
from cus.conditioning.options import scales_for_spacing
from cus.errors import InputError
from cus.estimators import SceneEstimate
from tests.conditioning import slow_warp
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, random_scene, render_depths
from tests.conditioning.test_warp import TARGETS


def two_colours(nearer: float = 4.0, farther: float = 4.0) -> SceneEstimate:
    """A black view at x = 0 that sees a wall at depth `nearer`, a white one at x = 1 that sees it at `farther`."""
    cameras = Cameras.cat([pinhole((0.0, 0.0, 0.0)), pinhole((1.0, 0.0, 0.0))])
    depths = torch.stack([torch.full((24, 32), nearer), torch.full((24, 32), farther)])
    images = torch.stack([torch.full((3, 24, 32), 0.1), torch.full((3, 24, 32), 0.9)])
    return estimate(images, cameras, depths)


@pytest.mark.parametrize("name", TARGETS)
def test_the_whole_algorithm_agrees_with_its_loops(name: str):
    scene, target, scales = random_scene(11), TARGETS[name], (1, 2, 4)
    reliable, unreliable = (mask.numpy() for mask in divide_reliability(scene))
    pictures = []
    for view in (scene.cameras.centers - target.centers).norm(dim=1).argsort().tolist():
        args = scene.images[view].numpy(), scene.depths[view].numpy()
        sure, unsure = (
            slow_warp.hierarchical(*args, chosen[view], scene.cameras[view], target, scales)
            for chosen in (reliable, unreliable)
        )
        pictures.append(slow_warp.over(sure, unsure))
    image, mask, depths = slow_warp.over(pictures[0], pictures[1])
    fast = hierarchical_warp(scene, target, suppress_background=False, scales=scales)
    assert torch.equal(fast.masks[0], torch.from_numpy(mask))
    torch.testing.assert_close(fast.images[0].permute(1, 2, 0), torch.from_numpy(image).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fast.depths[0], torch.from_numpy(depths).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suppress", [True, False])
def test_a_reference_warped_onto_itself_is_itself(suppress: bool):
    scene = random_scene(12)
    result = hierarchical_warp(scene, scene.cameras, suppress)
    for view in range(2):
        known = scene.depths[view] > 0
        assert result.masks[view][known].all()
        assert torch.equal(result.images[view][:, known], scene.images[view][:, known])
        torch.testing.assert_close(result.depths[view][known], scene.depths[view][known])


def test_a_complete_reference_warped_onto_itself_is_exact_everywhere():
    cameras = Cameras.cat([pinhole((0.0, 0.0, 0.0)), pinhole((0.5, 0.0, 0.0))])
    depths = plane_depths(cameras, (0.3, 0.0, 1.0))
    images = torch.rand((2, 3, 24, 32), generator=torch.Generator().manual_seed(0))
    result = hierarchical_warp(estimate(images, cameras, depths), cameras)
    assert torch.equal(result.images, images)
    assert result.masks.all()


@pytest.mark.parametrize("zoom", [2.0, 3.0, 4.0, 6.5])
def test_a_close_up_is_covered_while_the_high_resolution_alone_covers_one_in_zoom_squared(zoom: float):
    cameras = Cameras.cat([pinhole((-0.2, 0.0, 0.0)), pinhole((0.2, 0.0, 0.0))])
    depths = plane_depths(cameras)
    scene = estimate(render_depths(cameras, depths), cameras, depths)
    target = cameras[0].zoomed(zoom)
    alone = SceneEstimate(scene.images[:1], cameras[:1], depths[:1], scene.confidences[:1])
    assert float(hierarchical_warp(alone, target, scales=(1,)).coverage) < 1.4 / zoom**2
    full = hierarchical_warp(scene, target)
    assert float(full.coverage) > 0.99
    truth = render_depths(target, plane_depths(target))[0]
    assert (full.images[0] - truth).abs()[:, full.masks[0]].max() < 0.05


def test_gaps_that_occlusion_leaves_stay_holes():
    # A step seen from the right: what lies behind it was never seen.
    camera = pinhole(width=64, height=48, focal=60)
    depths = torch.full((1, 48, 64), 8.0)
    depths[..., :32] = 2.0
    scene = estimate(torch.full((1, 3, 48, 64), 0.5), camera, depths)
    result = hierarchical_warp(scene, pinhole((0.6, 0.0, 0.0), width=64, height=48, focal=60))
    # The step moves 18 pixels to the left and the wall behind it 4.5.
    assert not result.masks[0, :, 16:26].any()
    assert result.masks[0, :, :13].all() and result.masks[0, :, 30:58].all()


def test_the_nearest_reference_wins_and_a_tie_goes_to_the_first():
    scene = two_colours()
    at = [pinhole((x, 0.0, 0.0), width=8, height=8) for x in (0.2, 0.8, 0.5)]
    means = hierarchical_warp(scene, Cameras.cat(at)).images.mean(dim=(1, 2, 3))
    torch.testing.assert_close(means, torch.tensor([0.1, 0.9, 0.1]))


def test_merging_by_depth_takes_the_nearer_surface():
    target = pinhole((0.2, 0.0, 0.0), width=8, height=8)
    scene = two_colours(nearer=4.0, farther=3.0)
    assert hierarchical_warp(scene, target, merge="nearest").images.mean() < 0.2
    by_depth = hierarchical_warp(scene, target, merge="depth")
    assert by_depth.images.mean() > 0.8
    torch.testing.assert_close(by_depth.depths, torch.full((1, 8, 8), 3.0))


def test_unreliable_depths_only_fill_what_reliable_ones_leave_open():
    camera = pinhole(width=40, height=30)
    depths = plane_depths(camera)
    confidences = torch.ones_like(depths)
    confidences[..., 10:20, 12:22] = 0.1  # a twelfth of the picture
    images = torch.full((1, 3, 30, 40), 0.2)
    images[..., 10:20, 12:22] = 0.8
    scene = SceneEstimate(images, camera, depths, confidences)
    depths[..., 10:20, 12:22] = 2.0  # wrong, and in front of everything
    target = pinhole((-0.5, 0.0, 0.0), width=40, height=30)
    result = hierarchical_warp(scene, target, suppress_background=False, scales=(1,))
    seen = result.images[0, 0] > 0.5
    assert seen.any()
    reliable_only = estimate(images, camera, torch.where(divide_reliability(scene)[0], depths, 0.0))
    base = hierarchical_warp(reliable_only, target, suppress_background=False, scales=(1,))
    assert not (seen & base.masks[0]).any()


def test_holes_are_black_without_depth_and_masked():
    scene = random_scene(13)
    result = hierarchical_warp(scene, Cameras.cat([TARGETS["beside"], TARGETS["zoomed"]]), scales=(1,))
    holes = ~result.masks
    assert holes.any()
    assert result.images.permute(0, 2, 3, 1)[holes].abs().max() == 0
    assert result.depths[holes].max() == 0
    assert (result.depths[result.masks] > 0).all()


def test_a_target_that_looks_away_is_empty_beside_one_that_does_not():
    scene = random_scene(14)
    away = pinhole((0.0, 0.0, 0.0), width=19, height=14, yaw=3.14)
    result = hierarchical_warp(scene, Cameras.cat([scene.cameras[0], away]))
    assert result.coverage[0] > 0.9 and result.coverage[1] == 0


def test_targets_that_all_see_nothing_are_an_error_with_a_remedy():
    scene = random_scene(15)
    with pytest.raises(InputError, match="sees nothing of the scene.*aim the path"):
        hierarchical_warp(scene, pinhole((0.0, 0.0, 0.0), yaw=3.14))


def test_a_scene_without_any_depth_is_an_error():
    cameras = Cameras.cat([pinhole(), pinhole((0.5, 0.0, 0.0))])
    scene = estimate(torch.rand(2, 3, 24, 32), cameras, torch.zeros(2, 24, 32))
    with pytest.raises(InputError, match="sees nothing"):
        hierarchical_warp(scene, cameras)


@pytest.mark.parametrize("scales", [(), (2, 1), (1, 1), (0, 1), (1.5,)])
def test_scales_that_do_not_ascend_from_one_upwards_are_refused(scales: tuple):
    with pytest.raises(ValueError, match="ascending"):
        hierarchical_warp(random_scene(16), TARGETS["beside"], scales=scales)


def test_an_unknown_merge_and_no_target_are_refused():
    scene = random_scene(16)
    with pytest.raises(ValueError, match="merge"):
        hierarchical_warp(scene, TARGETS["beside"], merge="mean")  # pyright: ignore
    with pytest.raises(ValueError, match="at least one"):
        hierarchical_warp(scene, scene.cameras[0:0])


def test_targets_do_not_influence_each_other_and_progress_counts_them():
    scene = random_scene(17)
    targets = Cameras.cat([TARGETS["beside"], TARGETS["zoomed"], TARGETS["beside"]])
    calls: list[tuple[int, int]] = []
    together = hierarchical_warp(scene, targets, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for index in range(3):
        alone = hierarchical_warp(scene, targets[index])
        assert torch.equal(together.images[index], alone.images[0])
        assert torch.equal(together.masks[index], alone.masks[0])


@pytest.mark.parametrize(
    ("spacing", "scales"),
    [
        (0.3, (1,)),
        (1.0, (1,)),
        (1.001, (1,)),
        (1.1, (1, 2)),
        (4.0, (1, 2, 4)),
        (5.2, (1, 2, 4, 8)),
        (1e9, (1, 2, 4, 8, 16, 32, 64)),
    ],
)
def test_scales_double_until_the_spacing_is_covered(spacing: float, scales: tuple[int, ...]):
    assert scales_for_spacing(spacing) == scales


def test_conditioning_refuses_masks_of_another_size():
    with pytest.raises(ValueError, match="masks"):
        Conditioning(torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 5))


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_does():
    scene, targets = random_scene(18), Cameras.cat(list(TARGETS.values()))
    cpu, gpu = hierarchical_warp(scene, targets), hierarchical_warp(scene.to("cuda"), targets)
    assert gpu.images.is_cuda
    assert (gpu.masks.cpu() == cpu.masks).float().mean() > 0.999  # rounding at pixel borders
    same = gpu.masks.cpu() & cpu.masks
    close = (gpu.images.cpu() - cpu.images).abs().amax(dim=1) < 1e-3
    assert close[same].float().mean() > 0.99
