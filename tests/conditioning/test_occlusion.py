import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning import hierarchical_warp
from cus.conditioning.occlusion import DENSE_SPACING, dilated_depths, dilation_radii, min_filter, sample_spacing
from cus.estimators import SceneEstimate
from tests.conditioning import slow_warp
from tests.conditioning.plane_scenes import estimate, pinhole

RED, BLUE = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])


def sheet_over_wall(centers: list[tuple[float, float, float]], half_width: float = 0.8) -> SceneEstimate:
    """A red sheet at depth 2 in front of a blue wall at depth 8, seen from cameras that look along z."""
    cameras = Cameras.cat([pinhole(center, focal=60, width=64, height=48) for center in centers])
    images, depths = [], []
    for center in cameras.centers:
        rays = (cameras.pixel_centers() - torch.tensor([32.0, 24.0])) / 60
        hit = (center[:2] + rays * (2 - center[2])).abs().amax(dim=-1) < half_width
        depths.append(torch.where(hit, 2 - center[2], 8 - center[2]))
        images.append(torch.where(hit[..., None], RED, BLUE).permute(2, 0, 1))
    return estimate(torch.stack(images), cameras, torch.stack(depths))


def blue_within_the_sheet(scene: SceneEstimate, target: Cameras, **options) -> int:
    """Pixels inside the sheet's outline in the target that show the wall."""
    result = hierarchical_warp(scene, target, **options)
    rays = (target.pixel_centers() - target.Ks[0, :2, 2]) / target.Ks[0, 0, 0]
    center = target.centers[0]
    sheet = (center[:2] + rays * (2 - center[2])).abs().amax(dim=-1) < 0.7
    assert sheet.any()
    return int(((result.images[0, 2] > 0.5) & result.masks[0] & sheet).sum())


def test_the_kernel_grows_with_the_spacing_and_spans_every_gap():
    spacing = torch.linspace(0.5, 60, 500)
    radii = dilation_radii(spacing)
    assert (radii[1:] >= radii[:-1]).all()
    assert (radii[spacing <= DENSE_SPACING] == 0).all()
    sparse = spacing > DENSE_SPACING
    assert (2 * radii[sparse] + 1 > spacing[sparse]).all()


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 5, 8, 13])
def test_the_minimum_filter_agrees_with_pooling(radius: int):
    values = torch.rand((17, 23), generator=torch.Generator().manual_seed(radius))
    pooled = -torch.nn.functional.max_pool2d(-values[None], 2 * radius + 1, 1, radius)[0]
    assert torch.equal(min_filter(values, radius), pooled)


def test_the_dilated_depth_agrees_with_the_loop_over_points():
    generator = torch.Generator().manual_seed(0)
    depths = [torch.rand((15, 20), generator=generator) * 8 + 1 for _ in range(2)]
    depths = [torch.where(torch.rand(z.shape, generator=generator) < 0.98, 0.0, z) for z in depths]
    spacings = [torch.rand((15, 20), generator=generator) * 8 for _ in range(2)]
    slow = slow_warp.dilated([z.numpy() for z in depths], [dilation_radii(s).numpy() for s in spacings])
    fast = dilated_depths(depths, spacings)
    assert torch.equal(fast, torch.from_numpy(slow).float())
    assert fast.isinf().any() and fast.isfinite().any()


def test_a_wall_that_leaks_through_the_gaps_of_a_sheet_is_removed():
    # The camera walks up to the sheet: its points spread four times further apart, those of the wall hardly.
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)])
    target = pinhole((0.5, 0.0, 1.4), focal=60, width=64, height=48)
    leaking = blue_within_the_sheet(scene, target, suppress_background=False, scales=(1,))
    assert leaking > 100
    assert blue_within_the_sheet(scene, target, suppress_background=True, scales=(1,)) <= 0.01 * leaking
    assert blue_within_the_sheet(scene, target, suppress_background=True) <= 0.01 * leaking


def test_removed_leaks_are_filled_with_the_sheet():
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)])
    target = pinhole((0.0, 0.0, 1.4), focal=60, width=64, height=48)
    result = hierarchical_warp(scene, target)
    middle = result.images[0, :, 20:28, 27:37]
    assert result.masks[0, 20:28, 27:37].all()
    torch.testing.assert_close(middle, RED[:, None, None].expand_as(middle))


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_suppression_does_not_depend_on_the_unit_of_length(scale: float):
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)])

    def grown(cameras: Cameras) -> Cameras:
        viewmats = cameras.viewmats.clone()
        viewmats[:, :3, 3] *= scale
        return Cameras(viewmats, cameras.Ks, cameras.width, cameras.height)

    target = pinhole((0.51, 0.013, 1.4), focal=60, width=64, height=48)
    expected = hierarchical_warp(scene, target)
    large = estimate(scene.images, grown(scene.cameras), scene.depths * scale)
    assert (hierarchical_warp(large, grown(target)).masks == expected.masks).float().mean() > 0.99


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (0.3, 0.1, 0.0), (-0.2, 0.0, -0.5), (1.0, 0.0, 0.1)])
def test_a_dense_scene_loses_nothing(center: tuple[float, float, float]):
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (0.4, 0.0, 0.0)])
    target = pinhole(center, focal=60, width=64, height=48)
    kept, all_points = hierarchical_warp(scene, target, True), hierarchical_warp(scene, target, False)
    assert torch.equal(kept.images, all_points.images)
    assert torch.equal(kept.masks, all_points.masks)


def test_a_sheet_that_one_view_samples_sparsely_hides_the_wall_that_the_other_sees():
    cameras = Cameras.cat(
        [pinhole(focal=60, width=64, height=48), pinhole((0.1, 0.0, 0.0), focal=60, width=64, height=48)]
    )
    depths = torch.full((2, 48, 64), 8.0)
    depths[0] = 0
    depths[0, 12:36:4, 16:48:4] = 2.0
    images = torch.stack([RED[:, None, None].expand(3, 48, 64), BLUE[:, None, None].expand(3, 48, 64)])
    scene = estimate(images, cameras, depths)
    for scales in ((1,), (1, 2, 4)):
        leaky, clean = (hierarchical_warp(scene, cameras[1], suppress, scales) for suppress in (False, True))
        inside = (0, 2, slice(12, 35), slice(12, 43))  # the sheet, moved by three pixels of parallax
        assert int((leaky.images[inside] > 0.5).sum()) > 300
        assert int((clean.images[inside] > 0.5).sum()) == 0


def test_samples_every_few_pixels_are_as_far_apart_as_they_are():
    for step in (1, 2, 3, 5, 8):
        depths = torch.zeros(40, 50)
        depths[::step, ::step] = 3.0
        spacing = sample_spacing(depths)
        assert spacing[depths > 0].unique().tolist() == [step]
        assert spacing[depths == 0].sum() == 0


def test_thin_structures_are_dense_and_outliers_are_nothing():
    depths = torch.full((20, 20), 8.0)
    depths[:, 7] = 2.0
    depths[5, 15] = 1.0
    spacing = sample_spacing(depths)
    assert (spacing[1:-1, 7] == 1).all()
    assert spacing[5, 15] == 0
    assert (spacing[spacing > 0] <= 2).all()


def test_unreliable_depths_hide_nothing():
    # The sheet is less than a tenth of each picture, and less sure than the wall.
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)], half_width=0.2)
    assert ((scene.depths < 4).float().mean(dim=(1, 2)) < 0.09).all()
    doubted = SceneEstimate(scene.images, scene.cameras, scene.depths, torch.where(scene.depths < 4, 0.1, 0.9))
    target = pinhole((0.1, 0.0, 1.4), focal=60, width=64, height=48)
    for estimate_, same in ((scene, False), (doubted, True)):
        kept, every = (hierarchical_warp(estimate_, target, suppress, (1,)) for suppress in (True, False))
        assert torch.equal(kept.masks, every.masks) == same


def test_doubt_about_single_pixels_of_a_dense_map_makes_no_gaps():
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (0.4, 0.0, 0.0)])
    confidences = torch.rand(scene.depths.shape, generator=torch.Generator().manual_seed(0))
    doubted = SceneEstimate(scene.images, scene.cameras, scene.depths, confidences)
    kept, every = (hierarchical_warp(doubted, scene.cameras, suppress, (1,)) for suppress in (True, False))
    assert torch.equal(kept.images, every.images)


def test_a_doubtful_foreground_of_a_far_view_does_not_hide_what_the_near_view_shows():
    cameras = Cameras.cat(
        [pinhole(focal=60, width=64, height=48), pinhole((1.0, 0.0, 0.0), focal=60, width=64, height=48)]
    )
    depths = torch.full((2, 48, 64), 8.0)
    depths[1, :, :25] = 2.0  # two fifths of the view are wrong, so most of them count as reliable
    confidences = torch.ones_like(depths)
    confidences[1, :, :25] = 0.2
    images = torch.stack([BLUE[:, None, None].expand(3, 48, 64), RED[:, None, None].expand(3, 48, 64)])
    target = cameras[0].zoomed(3)
    for sure, shows in ((confidences, 0), (torch.ones_like(depths), 100)):
        scene = SceneEstimate(images, cameras, depths, sure)
        result = hierarchical_warp(scene, target)
        assert int((result.images[0, 0] > 0.5).sum()) >= shows
        if shows == 0:
            assert result.masks.all() and (result.images[0, 2] > 0.5).all()
