import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cus.cameras import Cameras
from cus.splats import downsample_points, image_confidence, rasterization
from cus.splats.complete import complete_cloud
from cus.splats.initialise import _voxels, initial_gaussians, quat_from_rotmat, sampling_distances
from cus.splats.projection import rotmat_from_quat


def camera(x: float = 0.0, focal: float = 50.0, count: int = 1) -> Cameras:
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = -x
    K = torch.tensor([[focal, 0, 32], [0, focal, 24], [0, 0, 1]])
    return Cameras(viewmats, K.repeat(count, 1, 1), 64, 48)


def plane(count: int, seed: int = 0, depth: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(count, 3, generator=generator) - 0.5) * torch.tensor([4.0, 3.0, 0.0])
    return points + torch.tensor([0.0, 0.0, depth])


def alphas(points: torch.Tensor, views: Cameras) -> torch.Tensor:
    g = initial_gaussians(points, torch.full_like(points, 0.5), 0)
    _, alpha, _ = rasterization(
        g.means, g.quats, g.scales, g.opacities, g.sh, views.viewmats, views.Ks, views.width, views.height,
        sh_degree=0, rasterize_mode="antialiased",
    )  # fmt: skip
    return alpha[0, ..., 0]


@pytest.mark.parametrize("zoom", [1.0, 4.0])
def test_a_sampled_surface_starts_without_holes_near_and_far(zoom: float) -> None:
    points, _ = downsample_points(plane(60_000), torch.zeros(60_000, 3), 4000)
    assert len(points) > 3000
    assert alphas(points, camera().zoomed(zoom)).quantile(0.01) > 0.6


@pytest.mark.parametrize("unit", [1e-12, 1e-3, 0.2, 100.0])
def test_voxels_are_numbered_in_the_order_of_their_size_and_place(unit: float) -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    octaves = torch.arange(500) % 3 - 1
    places = torch.floor((points - points.amin(dim=0)).double() / (unit * torch.exp2(octaves.double()))[:, None])
    _, expected = torch.unique(torch.cat([octaves[:, None], places.long()], dim=1), dim=0, return_inverse=True)
    assert torch.equal(_voxels(points, octaves, unit), expected)


def test_detail_that_only_a_close_up_samples_survives_the_thinning() -> None:
    views = Cameras.cat([camera(), camera().zoomed(4.0)])
    points = plane(60_000)
    spacings = sampling_distances(points, views)
    kept, _ = downsample_points(points, points, 3000, spacings)
    x, y = kept[:, 0].abs(), kept[:, 1].abs()
    center = ((x < 0.3) & (y < 0.22)).sum() / (0.6 * 0.44)
    around = ((x > 0.4) & (x < 1.2) & (y < 0.9)).sum() / (2 * 0.8 * 1.8)
    assert center > 8 * around  # 16 times the pixels
    assert alphas(kept, views[1]).quantile(0.01) > 0.6


def test_sampling_distance_is_the_smallest_pixel_of_the_cameras_that_have_the_point_in_view() -> None:
    views = Cameras.cat([camera(focal=50.0), camera(focal=50.0).zoomed(2.0)])
    points = torch.tensor([[0.0, 0, 2], [1.0, 0, 2], [5.0, 0, 2], [0.0, 0, -2]])
    torch.testing.assert_close(sampling_distances(points, views), torch.tensor([0.02, 0.04, math.inf, math.inf]))


def test_thinning_averages_and_never_exceeds_the_count() -> None:
    points = plane(5000)
    for count in (1, 10, 700, 4999):
        kept, colors = downsample_points(points, points, count)
        assert 0 < len(kept) <= count
        torch.testing.assert_close(kept, colors)
    assert len(downsample_points(points, points, 700)[0]) > 630
    same, _ = downsample_points(points, points, 5000)
    assert torch.equal(same, points)
    with pytest.raises(ValueError, match="at least 1"):
        downsample_points(points, points, 0)


def test_discs_lie_in_the_surface() -> None:
    tilt = torch.tensor([[1.0, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    points = plane(2000, depth=0.0) @ tilt.T
    g = initial_gaussians(points, torch.full_like(points, 0.5), 2)
    normals = rotmat_from_quat(g.quats)[:, :, 2]
    assert (normals @ tilt[:, 2]).abs().min() > 0.999
    assert (g.scales[:, 2] < 0.2 * g.scales[:, 0]).all() and g.sh.shape == (2000, 9, 3)


def test_a_stray_point_does_not_become_a_balloon() -> None:
    points = torch.cat([plane(2000), torch.tensor([[0.0, 0.0, 0.5]])])
    g = initial_gaussians(points, torch.full_like(points, 0.5), 0)
    assert g.scales[-1].max() < 3 * g.scales[:-1].amax(dim=1).median()


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(v * v for v in q) > 0.01))
def test_quaternions_and_matrices_are_inverse_up_to_sign(values: list[float]) -> None:
    rotations = rotmat_from_quat(torch.tensor([values], dtype=torch.float64))
    torch.testing.assert_close(rotmat_from_quat(quat_from_rotmat(rotations)), rotations, atol=1e-9, rtol=0)


def test_filling_adds_only_what_no_point_covers() -> None:
    views = Cameras.cat([camera(), camera(x=0.3)])
    images = torch.rand(2, 3, 48, 64)
    depths = torch.full((2, 48, 64), 2.0)
    points = views[0].backproject(depths[:1]).reshape(-1, 3)
    colors = images[0].permute(1, 2, 0).reshape(-1, 3)
    filled, filled_colors = complete_cloud(points, colors, images, views, depths)
    added = filled[len(points) :]
    assert torch.equal(filled[: len(points)], points) and len(filled) == len(filled_colors)
    assert 0 < len(added) < 0.3 * len(points)
    assert (added[:, 0] > 1.2).all()  # the strip that the second camera alone sees
    torch.testing.assert_close(added[:, 2], torch.full((len(added),), 2.0))
    again, _ = complete_cloud(filled, filled_colors, images, views, depths)
    assert len(again) == len(filled)


def test_unusable_pixels_and_unknown_depths_are_told_apart() -> None:
    """The left half has no depth and takes that of the right; the top rows are padding and become no points."""
    depths = torch.full((1, 48, 64), 2.0)
    depths[:, :, :32] = 0
    usable = torch.ones(1, 48, 64, dtype=torch.bool)
    usable[:, :8] = False
    nothing = torch.empty(0, 3)
    filled, _ = complete_cloud(nothing, nothing, torch.rand(1, 3, 48, 64), camera(), depths, usable)
    assert len(filled) == 40 * 64
    torch.testing.assert_close(filled[:, 2], torch.full((len(filled),), 2.0))


def test_points_behind_a_known_depth_do_not_cover_it() -> None:
    views = camera()
    far = views.backproject(torch.full((1, 48, 64), 4.0)).reshape(-1, 3)
    filled, _ = complete_cloud(far, far, torch.rand(1, 3, 48, 64), views, torch.full((1, 48, 64), 2.0))
    assert len(filled) == 2 * len(far)


def test_image_confidence_is_1_at_references_and_falls_with_distance_and_zoom() -> None:
    references = Cameras.cat([camera(0.0), camera(1.0)])
    torch.testing.assert_close(image_confidence(references, references), torch.ones(2))
    path = Cameras.cat([camera(x) for x in (0.0, 0.25, 0.5)] + [camera(-1.0), camera(-3.0)])
    weights = image_confidence(path, references)
    assert (weights[:-1] > weights[1:]).all() and weights.min() > 0
    torch.testing.assert_close(weights[3], torch.tensor(math.exp(-1)))
    zooms = image_confidence(Cameras.cat([camera().zoomed(z) for z in (1.0, 2.0, 4.0)]), references)
    torch.testing.assert_close(zooms, torch.exp(-torch.tensor([0.0, 0.25, 0.5])))
    torch.testing.assert_close(image_confidence(path, references), image_confidence(path, references, baseline=1.0))
    with pytest.raises(ValueError, match="no baseline"):
        image_confidence(path, camera())


def test_discs_of_strays_stay_small_where_the_size_of_a_pixel_is_known():
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0), torch.zeros(1))
    strays = torch.tensor([[500.0, 0, 0], [0, 500.0, 0], [0, 0, 500.0], [500.0, 500.0, 0]])
    points = torch.cat([grid, strays.repeat_interleave(3, dim=0) + 60 * torch.rand(12, 3)])
    pixels = torch.cat([torch.ones(400), torch.full((12,), 2.0)])
    pixels[0] = torch.inf
    free = initial_gaussians(points, torch.rand(412, 3), 0)
    bound = initial_gaussians(points, torch.rand(412, 3), 0, pixels)
    torch.testing.assert_close(bound.scales[:400], free.scales[:400])
    assert bool((free.scales[400:].amax(dim=1) > 10).any())
    assert float(bound.scales[400:].max()) < 4 * 2 * float(free.scales[:400].max())
