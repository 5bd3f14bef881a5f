"""Photographs supervise a fit through crops at their own resolution."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.splats import FitConfig, Views, fit_views
from cus.splats.crops import Crops
from cus.splats.initialise import initial_gaussians
from tests.splats.walls import cameras, cloud, psnr, seen, wall

SIZE = 48, 32
FINER = 4


def photographed(columns: int = 44, rows: int = 30) -> tuple[Views, Tensor, Tensor]:
    """Two views of a wall, at 48 x 32 pixels and as photographs with four times as many a side; points, colours."""
    points, colors = wall(columns, rows)
    views = cameras(2, *SIZE)
    large = seen(initial_gaussians(points, colors, 0), views.resized(SIZE[0] * FINER, SIZE[1] * FINER))
    images = torch.nn.functional.interpolate(large, SIZE[::-1], mode="area")
    photographs = tuple((picture * 255).round().to(torch.uint8) for picture in large)
    ones = torch.ones_like(images[:, 0])
    references = torch.tensor([True, True])
    return Views(images, views, ones, ones[:, 0, 0], 2 * ones, references, photographs), points, colors


def crops_of(views: Views) -> Crops:
    return Crops(views, *SIZE, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def views() -> Views:
    return photographed()[0]


def test_the_camera_of_a_crop_sees_what_the_crop_shows(views) -> None:
    crops = crops_of(views)
    points, colors = wall()
    focals = set()
    for index in range(8):
        crop = crops.draw(index % 2)
        focals.add(round(float(crop.camera.Ks[0, 0, 0])))
        assert psnr(seen(initial_gaussians(points, colors, 0), crop.camera)[0], crop.target) > 33
    assert focals == {240, 120}  # own pixels, and means of 2 x 2; means of 4 x 4 would be the whole


def test_a_crop_has_as_many_pixels_as_an_image(views) -> None:
    crop = crops_of(views).draw(1)
    assert crop.target.shape == (3, 32, 48) and crop.weights.shape == (32, 48)
    assert crop.depths is not None and crop.depths.shape == (32, 48)
    assert (crop.camera.width, crop.camera.height) == SIZE


def test_crops_cover_the_whole_photograph(views) -> None:
    """Each part is drawn about as often; at the border, where fewer windows reach, at least a quarter as often."""
    crops = crops_of(views)
    counts = torch.zeros(SIZE[1] * FINER, SIZE[0] * FINER)
    for _ in range(300):
        K = crops.draw(0).camera.Ks[0]
        left, top = (torch.tensor([96.0, 64.0]) - K[:2, 2]).round().long().tolist()
        if float(K[0, 0]) == 60 * FINER:
            counts[top : top + 32, left : left + 48] += 1
    coarse = torch.nn.functional.avg_pool2d(counts[None], 16)[0]
    inner = coarse[2:-2, 3:-3]
    assert inner.min() > 0.8 * inner.mean() and inner.max() < 1.2 * inner.mean()
    assert coarse.min() > 0.2 * inner.mean()


def test_crops_look_for_pixels_that_count_and_carry_their_confidence(views) -> None:
    weights = torch.zeros_like(views.pixel_weights)
    weights[:, 20:, 30:] = 0.5
    crops = crops_of(replace(views, pixel_weights=weights))
    for _ in range(12):
        crop = crops.draw(0)
        pixels = crop.camera.pixel_centers()
        own = (pixels - crop.camera.Ks[0, :2, 2]) * (60.0 / crop.camera.Ks[0, 0, 0]) + torch.tensor([24.0, 16.0])
        inside = (own[..., 0] >= 30) & (own[..., 1] >= 20)
        assert torch.equal(crop.weights > 0, inside) and float(crop.weights.max()) == 0.5


def test_crops_may_count_where_the_images_do_not_and_the_other_way_round(views) -> None:
    own = torch.zeros_like(views.pixel_weights)
    own[:, :, :24] = 0.5
    weighted = replace(views, photograph_weights=own)
    weighted.check()
    crops = crops_of(weighted)
    drawn = [crops.draw(0).weights for _ in range(16)]
    assert {float(value) for weights in drawn for value in weights.unique()} == {0.0, 0.5}
    assert float(torch.stack(drawn).mean()) > 0.25
    assert crops_of(replace(views, photograph_weights=own * 0)).images == []
    with pytest.raises(ValueError, match="photograph_confidence"):
        replace(views, photograph_weights=own[:1]).check()


def test_photographs_that_are_hardly_larger_give_no_crops(views) -> None:
    small = tuple(picture[:, ::4, ::4] for picture in views.photographs if picture is not None)
    assert crops_of(replace(views, photographs=small)).images == []
    assert crops_of(replace(views, photographs=(None, views.photographs[1]))).images == [1]
    assert crops_of(replace(views, photographs=())).images == []


def test_a_fit_learns_detail_that_only_the_photographs_hold() -> None:
    """Stripes of 1.7 pixels of an image, which averages them away, and 7 of a photograph."""
    points, colors = wall()
    stripes = torch.where((torch.arange(len(points)) % 44 % 2 == 0)[:, None], 0.9, 0.1).expand(-1, 3)
    small = cameras(2, 48, 32).resized(24, 16)
    own = small.resized(96, 64)
    large = seen(initial_gaussians(points, stripes, 0), own)
    images, ones = torch.nn.functional.interpolate(large, (16, 24), mode="area"), torch.ones(2, 16, 24)
    photographs = tuple((picture * 255).round().to(torch.uint8) for picture in large)
    views = Views(images, small, ones, torch.ones(2), None, torch.tensor([True, True]), photographs)
    config = replace(FitConfig.for_backend("torch"), iterations=60, coarse_share=0.0)
    grey, found = cloud(points, torch.full_like(colors, 0.5)), {}
    for crops in (0, 2):
        scene = fit_views(views, grey, replace(config, crops=crops)).gaussians
        found[crops] = psnr(seen(scene, own), large)
    assert found[2] > found[0] + 2, found


@pytest.mark.parametrize("wrong", [(None,), (torch.zeros(3, 64, 96), None), (torch.zeros(64, 96, 3).byte(), None)])
def test_photographs_that_are_none_are_refused(views, wrong: tuple[Tensor | None, ...]) -> None:
    with pytest.raises(ValueError, match="photographs"):
        replace(views, photographs=wrong).check()


def test_crops_of_a_portrait_beside_landscapes_stay_inside_it(views) -> None:
    """A photograph may be less wide than a crop."""
    narrow = Cameras(views.cameras.viewmats, views.cameras.Ks, *SIZE)
    photograph = torch.zeros(3, 400, 40, dtype=torch.uint8)
    crop = crops_of(replace(views, cameras=narrow, photographs=(photograph, None))).draw(0)
    assert crop.target.shape[1] <= 32 and crop.target.shape[2] <= 40
