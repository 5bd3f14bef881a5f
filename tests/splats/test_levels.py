"""Levels of detail: which Gaussians a view shows, and how far."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cus.cameras import Cameras
from cus.splats import FitConfig, Gaussians, fit_views, load_splats, render, save_ply
from cus.splats.initialise import initial_gaussians
from cus.splats.levels import STEP, opacities_at, shares
from tests.conditioning.plane_scenes import pinhole


def wall(rows: int, depth: float = 4.0) -> Gaussians:
    """A grey wall of discs in front of `pinhole`."""
    y, x = torch.meshgrid(torch.linspace(-2, 2, rows), torch.linspace(-2, 2, rows), indexing="ij")
    points = torch.stack([x, y, torch.full_like(x, depth)], dim=-1).reshape(-1, 3)
    return initial_gaussians(points, torch.full_like(points, 0.5), 0)


def limited(gaussians: Gaussians, low: float, high: float) -> Gaussians:
    return replace(gaussians, rates=torch.tensor([[low, high]]).expand(len(gaussians), 2).clone())


def camera_at(rate: float) -> Cameras:
    """A camera that samples the origin at this many pixels per unit."""
    camera = pinhole((0.0, 0.0, -float(pinhole((0.0, 0.0, 0.0)).Ks[0, 0, 0]) / rate))
    assert torch.allclose(camera.Ks[0, 0, 0] / camera.project(torch.zeros(1, 3))[1], torch.tensor(rate))
    return camera


@pytest.mark.parametrize("rate", [2.0, 10.0, 11.0, 13.0, 17.0, 17.5, 200.0])
def test_a_coarse_and_a_fine_level_add_up_to_one_at_every_distance(rate: float):
    means = torch.zeros(2, 3)
    share = shares(torch.tensor([[0.0, 10.0], [10.0 * STEP, 0.0]]), means, camera_at(rate))
    assert float(share.sum()) == pytest.approx(1.0, abs=1e-5)
    if rate <= 10 or rate >= 10 * STEP:
        assert float(share.max()) == pytest.approx(1.0, abs=1e-5)


def test_one_level_fades_to_both_sides_as_the_logarithm_of_the_ratio():
    level = torch.tensor([[10.0, 10.0]])
    for ratio in (1 / 3, 0.7, 1.0, 1.5, 3.0):
        expected = max(0.0, 1 - abs(torch.log(torch.tensor(ratio)).item() / torch.log(torch.tensor(STEP)).item()))
        assert float(shares(level, torch.zeros(1, 3), camera_at(10 * ratio))) == pytest.approx(expected, abs=1e-4)


def test_two_levels_are_together_as_opaque_as_one():
    opacities = torch.tensor([0.1, 0.5, 0.9])
    through = (1 - opacities_at(opacities, torch.full((3,), 0.3))) * (
        1 - opacities_at(opacities, torch.full((3,), 0.7))
    )
    torch.testing.assert_close(1 - through, opacities)


def test_detail_for_close_views_leaves_far_views_as_they_are():
    far = pinhole((0.0, 0.0, 0.0))
    coarse = wall(24)
    rate = float(far.Ks[0, 0, 0]) / 4
    detail = limited(replace(wall(60), sh=torch.ones(3600, 1, 3)), STEP * rate * 1.01, 0)
    both = limited(coarse, 0, rate * 1.01).joined(detail)
    assert torch.equal(render(both, far), render(coarse, far))
    near = pinhole((0.0, 0.0, 1.75))
    assert torch.equal(render(both, near), render(replace(detail, rates=None), near))


def test_a_file_keeps_the_levels_and_a_fit_honours_them(tmp_path: Path):
    both = limited(wall(12), 0.0, 5.0).joined(limited(wall(12, 4.1), 15.0, 0.0))
    save_ply(tmp_path / "splat.ply", both)
    loaded = load_splats(tmp_path / "splat.ply")
    assert loaded.rates is not None and both.rates is not None and torch.equal(loaded.rates, both.rates)
    camera = pinhole((0.0, 0.0, 0.0))
    # Far away only the coarse level is seen, so only it can learn.
    rate = float(camera.Ks[0, 0, 0]) / 4
    hidden = limited(wall(12), 0.0, 0.0).joined(limited(wall(12, 4.1), 4 * rate, 0))
    config = FitConfig(iterations=3, crops=0, coarse_share=0.0, final_rate=1.0, min_opacity=0.0)
    white = torch.ones(1, 3, camera.height, camera.width)
    views = _views(white, camera)
    found = fit_views(views, hidden, config).gaussians
    assert found.rates is not None and torch.equal(found.rates, hidden.rates)
    assert torch.equal(found.sh[144:], hidden.sh[144:]) and not torch.equal(found.sh[:144], hidden.sh[:144])


def _views(images, cameras):
    from cus.splats.fit_views import Views

    ones = torch.ones_like(images[:, 0])
    return Views(images, cameras, ones, torch.ones(len(images)), None, torch.ones(len(images), dtype=torch.bool))


def test_baking_keeps_the_finest_level_alone():
    both = limited(wall(12), 0.0, 5.0).joined(limited(wall(10), 15.0, 0.0)).joined(wall(3))
    baked = both.baked()
    assert baked.rates is None and len(baked) == 100 + 9
    assert wall(3).baked().rates is None
