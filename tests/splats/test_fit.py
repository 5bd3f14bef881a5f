from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats import FitConfig, Gaussians, fit_gaussians, render
from cus.splats.initialise import initial_gaussians
from cus.splats.parameters import LearningRates, Parameters
from tests.splats.walls import cloud, psnr, wall, wall_pictures

QUICK = replace(FitConfig.for_backend("torch"), iterations=60)


@pytest.fixture(scope="module")
def truth() -> tuple[Tensor, Cameras, Tensor, Tensor]:
    return wall_pictures()


def test_a_perturbed_scene_is_recovered(truth) -> None:
    images, views, points, colors = truth
    generator = torch.Generator().manual_seed(0)
    moved = points + 0.02 * torch.randn(points.shape, generator=generator)
    recolored = (colors + 0.3 * torch.randn(colors.shape, generator=generator)).clamp(0, 1)
    before = psnr(render(initial_gaussians(moved, recolored, 0), views), images)
    seen: list[tuple[int, int]] = []
    fitted = fit_gaussians(
        images, views, cloud(moved, recolored), config=QUICK, on_progress=lambda done, total: seen.append((done, total))
    )
    after = psnr(render(fitted, views), images)
    assert before < 22 and after > 28, (before, after)
    assert seen == [(i + 1, 60) for i in range(60)]


def test_the_same_seed_gives_the_same_gaussians(truth) -> None:
    images, views, points, colors = truth
    config = replace(QUICK, iterations=12)
    runs = [fit_gaussians(images, views, cloud(points, colors), config=config, seed=seed) for seed in (3, 3, 4)]
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert torch.equal(getattr(runs[0], name), getattr(runs[1], name)), name
    assert not torch.equal(runs[0].means, runs[2].means)


def test_pixels_of_confidence_0_are_ignored(truth) -> None:
    """A painted square in every image leaves no trace when it has no confidence, and a clear one when it has."""
    images, views, points, colors = truth
    painted = images.clone()
    painted[:, :, 8:24, 12:28] = torch.tensor([1.0, 0.0, 1.0])[None, :, None, None]
    confidence = torch.ones_like(images[:, 0])
    confidence[:, 8:24, 12:28] = 0
    start = cloud(points, colors)
    masked = render(fit_gaussians(painted, views, start, confidence, config=QUICK), views)
    trusting = render(fit_gaussians(painted, views, start, config=QUICK), views)
    assert psnr(masked[:, :, 8:24, 12:28], images[:, :, 8:24, 12:28]) > 25
    assert psnr(trusting[:, :, 8:24, 12:28], images[:, :, 8:24, 12:28]) < 20


def test_an_image_without_confidence_does_not_count(truth) -> None:
    images, views, points, colors = truth
    spoilt = images.clone()
    spoilt[1] = 1 - spoilt[1]
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0])
    fitted = fit_gaussians(spoilt, views, cloud(points, colors), image_confidence=weights, config=QUICK)
    assert psnr(render(fitted, views), images) > 28


def test_holes_of_the_cloud_are_filled_from_depths_and_without(truth) -> None:
    images, views, points, colors = truth
    hole = points[:, 0].abs() < 0.4
    sparse = cloud(points[~hole], colors[~hole])
    depths = views.project(points)[1].mean() * torch.ones_like(images[:, 0])
    config = replace(QUICK, iterations=40)
    for known in (None, depths):
        fitted = fit_gaussians(images, views, sparse, depths=known, config=config)
        white, black = (render(fitted, views, torch.full((3,), value)) for value in (1.0, 0.0))
        assert (white - black).amax(dim=1).quantile(0.99) < 0.3  # next to nothing shines through
    bare = fit_gaussians(images, views, sparse, config=replace(config, fill_holes=False))
    white, black = (render(bare, views, torch.full((3,), value)) for value in (1.0, 0.0))
    assert (white - black).amax() > 0.8


def test_points_without_colors_take_them_from_the_images(truth) -> None:
    images, views, points, _ = truth
    fitted = fit_gaussians(images, views, points, config=replace(QUICK, iterations=1, rates=_still()))
    assert psnr(render(fitted, views), images) > 20


def test_no_needles_grow(truth) -> None:
    images, views, points, colors = truth
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    config = replace(QUICK, iterations=40, rates=replace(LearningRates(), scales=0.5))
    start = initial_gaussians(points, colors, 0)
    fitted = fit_gaussians(noise, views, cloud(points, colors), config=replace(config, min_opacity=0.0))
    ratio = fitted.scales.amax(dim=1) / start.scales.amax()
    assert fitted.scales.sort(dim=1).values[:, 1:].std() > 0 and ratio.max() < 1.01 * config.max_stretch


def test_harmonics_of_a_higher_degree_are_fitted(truth) -> None:
    images, views, points, colors = truth
    config = replace(QUICK, sh_degree=1, iterations=40)
    fitted = fit_gaussians(images, views, cloud(points, colors), config=config)
    assert fitted.sh_degree == 1 and fitted.sh[:, 1:].abs().max() > 0


def test_pruning_keeps_the_optimizer_in_step() -> None:
    points, colors = wall(6, 6)
    parameters = Parameters(initial_gaussians(points, colors, 1), LearningRates(), 3.0)
    target = torch.linspace(0, 1, 36)

    def step() -> None:
        means, _, scales, opacities, sh = parameters.tensors()
        (
            means.square().sum() + scales.sum() + sh.square().sum() + (opacities - target[: len(means)]).abs().sum()
        ).backward()
        parameters.step(1.0)

    for _ in range(60):
        step()
    parameters.prune(0.5)
    left = len(parameters.gaussians())
    assert 0 < left < 36
    step()
    assert len(parameters.gaussians()) == left
    parameters.prune(2.0)
    assert len(parameters.gaussians()) == 1


def test_large_images_are_shrunk_for_the_fit(truth) -> None:
    images, views, points, colors = truth
    config = replace(QUICK, iterations=30, max_pixels=400)
    fitted = fit_gaussians(images, views, cloud(points, colors), config=config)
    assert psnr(render(fitted, views), images) > 20


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(3, 3, 32, 48)}, ValueError, "expected images"),
        ({"pixel_confidence": torch.ones(4, 32, 47)}, ValueError, "pixel_confidence must have shape"),
        ({"pixel_confidence": torch.full((4, 32, 48), 255.0)}, ValueError, "at most 1"),
        ({"image_confidence": -torch.ones(4)}, ValueError, "must not be negative"),
        ({"images": torch.full((4, 3, 32, 48), torch.nan)}, InputError, "NaN"),
        ({"image_confidence": torch.zeros(4)}, InputError, "every confidence is 0"),
        ({"points": torch.empty(0, 3)}, InputError, "only 0 points"),
        ({"points": torch.full((9, 3), torch.inf)}, InputError, "NaN or infinite"),
        ({"config": replace(QUICK, coarse_share=1.5)}, InputError, "coarse_share must be 0 to 1, got 1.5"),
    ],
)
def test_wrong_inputs_are_named_before_the_work(truth, change: dict, error: type, message: str) -> None:
    images, views, points, colors = truth
    arguments = {"images": images, "points": cloud(points, colors)} | change
    with pytest.raises(error, match=message):
        fit_gaussians(cameras=views, **arguments)


def _still() -> LearningRates:
    return LearningRates(means=0, scales=0, quats=0, opacities=0, sh0=0, sh_rest=0)


def test_rendering_reports_progress_and_composites_the_background(truth) -> None:
    _, views, points, colors = truth
    seen: list[tuple[int, int]] = []
    start: Gaussians = initial_gaussians(points + torch.tensor([9.0, 0, 0]), colors, 0)
    images = render(start, views, torch.tensor([0.1, 0.2, 0.3]), on_progress=lambda *now: seen.append(now))
    assert images.shape == (4, 3, 32, 48) and seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    torch.testing.assert_close(images[0, :, 5, 5], torch.tensor([0.1, 0.2, 0.3]))
