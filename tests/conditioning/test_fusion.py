from dataclasses import replace

import numpy as np
import pytest
import torch

from cus.cameras import Cameras
from cus.conditioning import FusedCloud, fuse_views
from cus.conditioning.fusion import default_needed
from tests.conditioning import slow_warp
from tests.conditioning.plane_scenes import pinhole, plane_depths, render_depths, surface_colors

NORMAL = (0.2, -0.1, 1.0)
Views = tuple[torch.Tensor, torch.Tensor, Cameras]


def row_of_views(count: int = 5, width: int = 40, height: int = 30) -> Views:
    """A leaning plane seen by cameras side by side, exact."""
    cameras = Cameras.cat([pinhole((0.1 * i, 0.0, 0.0), focal=60, width=width, height=height) for i in range(count)])
    depths = plane_depths(cameras, NORMAL)
    return render_depths(cameras, depths), depths, cameras


def test_counts_agree_with_a_loop_over_pixels_and_views():
    images, depths, cameras = row_of_views(3, 16, 12)
    generator = torch.Generator().manual_seed(0)
    depths = depths * (1 + 0.006 * torch.randn(depths.shape, generator=generator))
    depths[torch.rand(depths.shape, generator=generator) < 0.1] = 0
    images = (images + 0.03 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    counts = fuse_views(images, depths, cameras, scale=4.0).counts
    slow = torch.zeros_like(counts)
    for i, row, column in (depths > 0).nonzero().tolist():
        own = cameras.backproject(depths)[i, row, column]
        for j in range(3):
            x, y, z = slow_warp.project(column + 0.5, row + 0.5, float(depths[i, row, column]), cameras[i], cameras[j])
            if j == i or not slow_warp.inside((x, y, z), cameras[j]):
                continue
            total, inverse, color = 0.0, 0.0, np.zeros(3)
            for a in (int(np.floor(y - 0.5)), int(np.floor(y - 0.5)) + 1):
                for b in (int(np.floor(x - 0.5)), int(np.floor(x - 0.5)) + 1):
                    if 0 <= a < 12 and 0 <= b < 16 and depths[j, a, b] > 0:
                        weight = (1 - abs(y - 0.5 - a)) * (1 - abs(x - 0.5 - b))
                        total += weight
                        inverse += weight / float(depths[j, a, b])
                        color += weight * images[j, :, a, b].numpy()
            if total < 0.25:
                continue
            ray = np.linalg.inv(cameras.Ks[j].double().numpy()) @ [x, y, 1.0]
            other = cameras.c2w[j].double().numpy() @ [*(ray * total / inverse), 1.0]
            near = np.linalg.norm(other[:3] - own.numpy()) < 0.01 * 4.0
            slow[i, row, column] += int(
                near and np.linalg.norm(color / total - images[i, :, row, column].numpy()) < 0.1
            )
    assert 0.2 < (slow / 2).mean() < 0.9
    assert (counts == slow).float().mean() > 0.995  # rounding at the thresholds


def test_on_an_exact_plane_every_pixel_counts_the_views_that_see_it():
    images, depths, cameras = row_of_views()
    counts = fuse_views(images, depths, cameras, color_tolerance=0.2).counts
    points = cameras.backproject(depths)
    for view in range(5):
        pixels, z = cameras.project(points[view].flatten(0, 1))
        inside = (z > 0) & (pixels > 0).all(-1) & (pixels[..., 0] < 40) & (pixels[..., 1] < 30)
        assert torch.equal(counts[view].flatten(), inside.sum(dim=0) - 1)


def test_the_points_lie_on_the_plane_and_have_its_colours():
    images, depths, cameras = row_of_views()
    cloud = fuse_views(images, depths, cameras)
    assert cloud.points.shape == cloud.colors.shape and len(cloud.points) > 1000
    assert (cloud.points @ torch.tensor(NORMAL) - 4).abs().max() < 0.01
    assert (cloud.colors - surface_colors(cloud.points)).abs().max() < 0.02


def test_averaging_makes_noisy_depths_better():
    images, depths, cameras = row_of_views(9)
    noisy = depths * (1 + 0.003 * torch.randn(depths.shape, generator=torch.Generator().manual_seed(0)))
    cloud = fuse_views(images, noisy, cameras)
    single = (cameras.backproject(noisy).view(-1, 3) @ torch.tensor(NORMAL) - 4).std()
    assert (cloud.points @ torch.tensor(NORMAL) - 4).std() < 0.6 * single


def test_a_surface_becomes_about_as_many_points_as_one_view_has_pixels():
    images, depths, cameras = row_of_views(9)
    pixels = 40 * 30
    assert pixels < len(fuse_views(images, depths, cameras).points) < 2 * pixels


def test_a_colour_that_others_do_not_see_is_rejected():
    images, depths, cameras = row_of_views()
    images[2, :, 10:16, 15:22] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    cloud = fuse_views(images, depths, cameras)
    assert (cloud.counts[2, 11:15, 16:21] == 0).all()
    assert not ((cloud.colors - torch.tensor([0.0, 1.0, 0.0])).norm(dim=-1) < 0.3).any()
    generous = fuse_views(images, depths, cameras, color_tolerance=2.0)
    assert (generous.counts[2, 11:15, 16:21] > 0).all()


def test_a_depth_that_others_do_not_share_is_rejected():
    images, depths, cameras = row_of_views()
    depths[2, 10:16, 15:22] *= 0.8
    cloud = fuse_views(images, depths, cameras)
    assert (cloud.counts[2, 11:15, 16:21] == 0).all()
    assert (cloud.points @ torch.tensor(NORMAL) - 4).abs().max() < 0.05


def test_missing_depth_counts_nothing_and_gives_no_point():
    images, depths, cameras = row_of_views()
    depths[1] = 0
    cloud = fuse_views(images, depths, cameras)
    assert (cloud.counts[1] == 0).all()
    assert cloud.counts[0].max() == 3


def test_the_result_scales_with_the_world():
    images, depths, cameras = row_of_views()
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] *= 50
    small, large = (
        fuse_views(images, depths, cameras),
        fuse_views(images, depths * 50, Cameras(viewmats, cameras.Ks, 40, 30)),
    )
    assert (small.counts == large.counts).float().mean() > 0.999
    assert abs(len(small.points) - len(large.points)) <= 0.01 * len(small.points)


def test_views_that_agree_on_nothing_give_an_empty_cloud():
    images, depths, cameras = row_of_views(2)
    depths[1] *= 3
    cloud = fuse_views(images, depths, cameras)
    assert cloud.points.shape == (0, 3) and cloud.counts.sum() == 0


def test_pixel_confidence_is_equation_9() -> None:
    cloud = FusedCloud(torch.zeros(0, 3), torch.zeros(0, 3), torch.tensor([[[0, 3, 10, 24]]]), needed=10)
    torch.testing.assert_close(cloud.pixel_confidence, torch.tensor([[[0.0, 0.3, 1.0, 1.0]]]))
    torch.testing.assert_close(replace(cloud, needed=0).pixel_confidence, torch.tensor([[[0.0, 1.0, 1.0, 1.0]]]))


def test_more_than_the_threshold_must_agree():
    images, depths, cameras = row_of_views(5)
    for needed in range(4):
        cloud = fuse_views(images, depths, cameras, needed=needed, color_tolerance=0.2)
        assert len(cloud.points) <= int((cloud.counts > needed).sum())
        assert len(cloud.points) > 0
    assert len(fuse_views(images, depths, cameras, needed=4).points) == 0


@pytest.mark.parametrize(("views", "needed"), [(1, 0), (2, 0), (3, 1), (5, 2), (16, 6), (25, 10)])
def test_the_default_threshold_is_the_papers_at_25_views_and_can_always_be_met(views: int, needed: int):
    assert default_needed(views) == needed


def test_shapes_that_do_not_fit_are_refused():
    images, depths, cameras = row_of_views(2)
    with pytest.raises(ValueError, match="need images"):
        fuse_views(images, depths[:1], cameras)


def test_detail_of_a_close_up_agrees_with_coarser_views_and_stays_in_the_cloud():
    # A sheet of fine noise at depth 1; two coarse views average 4 x 4 of the close-up's pixels.
    noise = 0.5 + 0.25 * torch.randn(3, 192, 256, generator=torch.Generator().manual_seed(0)).clamp(-1.9, 1.9)
    coarse = torch.nn.functional.avg_pool2d(noise, 4)
    fine = noise[:, 72:120, 96:160]
    wide, close = pinhole(focal=50, width=64, height=48), pinhole(focal=200, width=64, height=48)
    cameras = Cameras.cat([wide, wide, close])
    images = torch.stack([coarse, coarse, fine])
    cloud = fuse_views(images, torch.ones(3, 48, 64), cameras, scale=1.0)
    inside = cloud.counts[2, 8:-8, 8:-8]
    assert (inside == 2).float().mean() > 0.95
    pixels, _ = cameras[2].project(cloud.points)
    place = pixels[0].floor().long()
    near = ((place >= 8) & (place < torch.tensor([56, 40]))).all(dim=1)
    found, true = cloud.colors[near], fine[:, place[near, 1], place[near, 0]].T
    assert near.sum() > 0.95 * 48 * 32
    assert (found - true).square().mean().sqrt() < 0.03
