"""Exposure, cameras and depth, learned or supervised beside the scene."""

from dataclasses import replace

import pytest
import torch

from cus.cameras import Cameras
from cus.splats import FitConfig, Gaussians, Views, fit_gaussians, fit_views, rasterization
from cus.splats.image_corrections import CameraRefinement, Exposure, mean_depth
from cus.splats.initialise import initial_gaussians
from cus.splats.losses import disparity_error
from tests.splats.walls import cameras, cloud, psnr, seen, wall_pictures

QUICK = replace(FitConfig.for_backend("torch"), iterations=150)


def supervision(images: torch.Tensor, views: Cameras, references: list[bool]) -> Views:
    ones = torch.ones_like(images[:, 0])
    return Views(images, views, ones, ones[:, 0, 0], None, torch.tensor(references))


def test_frames_with_drifting_gains_are_recovered_closer_to_the_truth_with_exposures() -> None:
    images, views, points, colors = wall_pictures(cameras(6))
    references = [True, False, False, False, False, True]
    gains = torch.tensor([1.0, 1.2, 1.3, 0.9, 1.25, 1.0])
    drifted = (gains[:, None, None, None] * images).clamp(0, 1)
    found = {}
    for exposure in (False, True):
        config = replace(QUICK, exposure=exposure)
        result = fit_views(supervision(drifted, views, references), cloud(points, colors), config)
        found[exposure] = psnr(seen(result.gaussians, views), images)
        off = result.exposures - torch.eye(3, 4)
        assert float(off[[0, 5]].abs().max()) == 0
        assert (float(off.abs().max()) > 0.05) == exposure
    assert found[True] > found[False] + 1, found
    learned = result.exposures[1:5].diagonal(dim1=1, dim2=2).mean(dim=1)
    assert ((learned - 1) * (gains[1:5] - 1) > 0).all()


def test_an_exposure_that_is_not_wanted_stays_the_identity() -> None:
    """Each is pulled to the identity, and only the image in turn moves."""
    exposure = Exposure(torch.tensor([False, False, True]), 0.05, 0.02)
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(exposure.seen(2, picture), picture)
    for _ in range(20):
        (exposure.seen(0, picture) - 1.2 * picture).abs().mean().backward()
        exposure.step(1.0)
    transforms = exposure.transforms()
    assert float((transforms[0] - torch.eye(3, 4)).abs().max()) > 0.05
    assert torch.equal(transforms[1], torch.eye(3, 4)) and torch.equal(transforms[2], torch.eye(3, 4))
    for _ in range(200):
        (exposure.penalty(0) * 50).backward()
        exposure.step(1.0)
    assert float((exposure.transforms()[0] - torch.eye(3, 4)).abs().max()) < 0.02


def perturbed(views: Cameras, scale: float) -> Cameras:
    generator = torch.Generator().manual_seed(1)
    refinement = CameraRefinement(len(views), 0, 2.0, 1e-3)
    for twist in refinement._values:
        twist.data = scale * torch.randn(6, generator=generator)
    return refinement.refined(views)


@pytest.mark.slow
def test_perturbed_cameras_move_back_towards_the_truth() -> None:
    images, views, points, colors = wall_pictures(cameras(5))
    wrong = perturbed(views, 0.01)
    assert torch.equal(wrong.viewmats[0], views.viewmats[0])
    config = replace(QUICK, refine_cameras=True, iterations=250)
    result = fit_views(supervision(images, wrong, [True] + 4 * [False]), cloud(points, colors), config)

    def miss(found: Cameras) -> float:
        pixels = [c.project(points)[0] for c in (found, views)]
        return float((pixels[0] - pixels[1]).norm(dim=-1)[1:].mean())

    assert torch.equal(result.cameras.viewmats[0], views.viewmats[0])
    assert miss(result.cameras) < 0.5 * miss(wrong), (miss(result.cameras), miss(wrong))
    rotations = result.cameras.viewmats[:, :3, :3]
    torch.testing.assert_close(rotations @ rotations.transpose(1, 2), torch.eye(3).expand(5, 3, 3), atol=1e-5, rtol=0)


def test_a_refinement_turns_and_moves_the_camera_in_its_own_axes() -> None:
    views = cameras(2)
    refinement = CameraRefinement(2, 0, 2.0, 1e-3)
    refinement._values[1].data = torch.tensor([0, 0, torch.pi / 2, 0.5, 0, 0])
    turned = refinement.viewmat(1, views.viewmats[1:])[0] @ torch.linalg.inv(views.viewmats[1])
    torch.testing.assert_close(turned[:3, :3], torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-6, rtol=0)
    refinement._values[1].data = torch.tensor([0, 0, 0, 0.5, 0, 0])
    moved = refinement.viewmat(1, views.viewmats[1:])[0] @ torch.linalg.inv(views.viewmats[1])
    torch.testing.assert_close(moved[:3, 3], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)


def test_the_unit_of_camera_motions_is_the_scenes_depth() -> None:
    points = torch.tensor([[0.0, 0, 1], [0, 0, 3], [0, 0, -5], [90, 0, 2]])
    view = Cameras(torch.eye(4)[None], cameras(1).Ks, 48, 32)
    assert mean_depth(points, view) == pytest.approx(1.5)
    assert mean_depth(points - torch.tensor([0, 0, 100.0]), view) == 1.0


@pytest.mark.slow
def test_depth_supervision_brings_surfaces_to_their_depth() -> None:
    """One camera sees no parallax: only the given depth can say where the wall stands."""
    images, views, points, colors = wall_pictures(cameras(1))
    depths = expected_depth(initial_gaussians(points, colors, 0), views)
    near = cloud(points * 0.97, colors)
    errors = []
    for weight in (0.0, 1.0):
        config = replace(QUICK, depth_weight=weight, fill_holes=False)
        fitted = fit_gaussians(images, views, near, depths=depths, config=config)
        errors.append(float((expected_depth(fitted, views) / depths - 1).abs().mean()))
    assert errors[1] < 0.35 * errors[0], errors


def expected_depth(gaussians: Gaussians, views: Cameras) -> torch.Tensor:
    return rasterization(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh,
        views.viewmats, views.Ks, views.width, views.height, sh_degree=0, render_mode="ED", backend="torch",
    )[0][..., 0]  # fmt: skip


def test_depth_errors_do_not_depend_on_the_scenes_unit_and_skip_what_is_unknown() -> None:
    generator = torch.Generator().manual_seed(0)
    known = 1 + torch.rand(6, 8, generator=generator)
    rendered = known * (1 + 0.1 * torch.rand(6, 8, generator=generator))
    ones = torch.ones(6, 8)
    error = disparity_error(rendered, ones, known, ones)
    torch.testing.assert_close(disparity_error(50 * rendered, ones, 50 * known, ones), error)
    wrong = rendered.clone()
    wrong[:3] = 100.0
    partly = known.clone()
    partly[:3] = 0
    half = disparity_error(wrong, ones, partly, ones)
    assert float(half) == pytest.approx(float(disparity_error(rendered, ones, partly, ones)))
    assert float(disparity_error(wrong, torch.zeros(6, 8), known, ones)) == 0
