"""Enlarged photographs agree with the photographs, and a scene fitted to them has their detail."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import agree, fused_warp
from cus.errors import InputError
from cus.refinement.distillation import DistillOptions
from cus.refinement.priors import CriticOptions, PipelinePrior
from cus.refinement.sampling_rate import resolved, sampling_rates
from cus.refinement.super_resolution import (
    Call,
    SuperResolution,
    back_projected,
    enlarged,
    shown_view,
    super_resolve,
    upsampled,
)
from cus.splats import FitConfig, Views, render
from cus.splats.initialise import initial_gaussians
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths
from tests.diffusion.tiny import tiny_pipeline

PAIR = Cameras.cat([pinhole((-0.3, 0.0, 0.0)), pinhole((0.3, 0.05, 0.0))])
SLANTED = {"normal": (0.3, 0.1, 1.0), "offset": 4.0}


def pictures(cameras: Cameras) -> Tensor:
    fine = cameras.resized(4 * cameras.width, 4 * cameras.height)
    return F.avg_pool2d(render_depths(fine, plane_depths(fine, **SLANTED)), 4)


SCENE = estimate(pictures(PAIR), PAIR, plane_depths(PAIR, **SLANTED))
VIEWS = Views(
    SCENE.images,
    SCENE.cameras,
    torch.ones_like(SCENE.depths),
    torch.ones(2),
    SCENE.depths,
    torch.tensor([True, False]),
)
CONFIG = FitConfig(iterations=6, max_gaussians=4000, backend="torch")
QUICK = SuperResolution(factor=2, rounds=2, iterations=6, distillation=DistillOptions(steps=2))


def surface():
    points = SCENE.cameras.backproject(SCENE.depths)[0].reshape(-1, 3)
    return initial_gaussians(points, SCENE.images[0].permute(1, 2, 0).reshape(-1, 3), 0)


def shrunk(image: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(image[None], like.shape[-2:], mode="area")[0]


def test_an_enlarged_photograph_shrunk_again_is_the_photograph():
    photograph = SCENE.images[0]
    for start in (upsampled(photograph, 4), torch.rand(3, *(4 * side for side in photograph.shape[-2:]))):
        made = back_projected(start, photograph)
        torch.testing.assert_close(shrunk(made, photograph), photograph, rtol=0, atol=1e-5)


def test_back_projection_brings_an_enlargement_nearer_to_the_truth():
    camera = PAIR[0]
    truth = pictures(camera.resized(4 * camera.width, 4 * camera.height))[0]
    plain = upsampled(SCENE.images[0], 4)
    errors = [float((image - truth).square().mean()) for image in (plain, back_projected(plain, SCENE.images[0]))]
    assert errors[1] < errors[0]


def test_a_fit_to_enlarged_photographs_is_repeatable_and_its_pictures_are_of_their_size():
    first, again = (super_resolve(SCENE, VIEWS, surface(), CONFIG, QUICK) for _ in range(2))
    assert torch.equal(first.gaussians.means, again.gaussians.means)
    height, width = SCENE.images.shape[-2:]
    assert [tuple(picture.shape) for picture in first.pictures] == [(3, 2 * height, 2 * width)] * 2
    assert first.selected == 1


def test_the_next_round_starts_from_what_the_scene_shows():
    """So that what one photograph resolves reaches the others."""
    scene = surface()
    made = enlarged(SCENE, scene, QUICK, None, None, 0)
    width, height = 2 * SCENE.cameras.width, 2 * SCENE.cameras.height
    shown = render(scene, SCENE.cameras.resized(width, height))
    for image, start, low in zip(made, shown, SCENE.images, strict=True):
        torch.testing.assert_close(image, back_projected(start, low).clamp(0, 1))


def test_finished_parts_are_not_made_again():
    kept: dict[str, dict[str, Tensor]] = {}
    asked: list[str] = []

    def keep(name, make):
        asked.append(name)
        if name not in kept:
            kept[name] = make()
        return kept[name]

    whole = super_resolve(SCENE, VIEWS, surface(), CONFIG, QUICK, call=Call(keep=keep))
    assert asked == ["enlarged0", "scene0", "enlarged1", "scene1"]
    del kept["scene1"]
    again = super_resolve(SCENE, VIEWS, surface(), CONFIG, QUICK, call=Call(keep=keep))
    assert torch.equal(whole.gaussians.means, again.gaussians.means)


@pytest.mark.parametrize("gradient", ["sds", "rsd", "vsd"])
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_pipeline_changes_the_enlargement_and_keeps_the_photograph(gradient, noise):
    pipeline = tiny_pipeline(residual_scale=1.0, layers=2, unshuffle=2, noise=noise, fill_holes=True)
    prior = PipelinePrior(pipeline, CriticOptions(rank=2, rate=0.05))
    options = replace(QUICK, distillation=DistillOptions(gradient, steps=3, critic_every=1))
    width, height = 2 * SCENE.cameras.width, 2 * SCENE.cameras.height
    shown = fused_warp(agree(SCENE), SCENE.cameras.resized(width, height), agreed=True, with_layers=True)
    plain = enlarged(SCENE, None, options, None, None, 0)
    made = enlarged(SCENE, None, options, prior, shown, 0)
    for image, start, low in zip(made, plain, SCENE.images, strict=True):
        assert float((image - start).abs().max()) > 1e-3
        assert float((shrunk(image, low) - low).abs().max()) < 0.02
    assert prior.version == (3 if gradient == "vsd" else 0)


def test_the_estimate_of_a_regression_is_the_same_at_every_noise_level():
    prior = PipelinePrior(tiny_pipeline(residual_scale=1.0, unshuffle=2, noise=0.0), CriticOptions())
    shown = fused_warp(SCENE, SCENE.cameras, agreed=True, with_layers=True)
    view = prior.views([shown_view(SCENE, shown, 0)])[0]
    latents = view.encode(SCENE.images[0])
    estimates = [view.prior(torch.randn_like(latents), timestep) for timestep in (50, 900)]
    assert torch.equal(*estimates)
    torch.testing.assert_close(view.critic(latents, 500), estimates[0])


def test_the_critic_learns_the_samples_and_leaves_the_prior_as_it_was():
    prior = PipelinePrior(tiny_pipeline(residual_scale=1.0, unshuffle=2, noise=0.0), CriticOptions(rate=0.01))
    shown = fused_warp(SCENE, SCENE.cameras, agreed=True, with_layers=True)
    view = prior.views([shown_view(SCENE, shown, 0)])[0]
    sample = view.encode(SCENE.images[0])
    before, first = view.prior(sample, 500), view.critic(sample, 500)
    for _ in range(10):
        view.learn(sample, torch.randn_like(sample), 500)
    with torch.no_grad():
        errors = [float((estimate - sample).square().mean()) for estimate in (first, view.critic(sample, 500))]
    assert errors[1] < 0.9 * errors[0]
    view.made.clear()
    assert torch.equal(view.prior(sample, 500), before)


def test_a_photograph_has_one_pixel_for_each_of_its_own_and_more_where_another_is_closer():
    near = pinhole((0.0, 0.0, 3.0))
    cameras = Cameras.cat([pinhole((0.0, 0.0, 0.0)), near])
    plane = {"normal": (0.0, 0.0, 1.0), "offset": 4.0}
    depths = plane_depths(cameras, **plane)
    scene = estimate(render_depths(cameras, depths), cameras, depths)
    rates = sampling_rates(scene, cameras)
    height, width = rates.shape[-2:]
    middle = rates[0, height * 7 // 16 : height * 9 // 16, width * 7 // 16 : width * 9 // 16]
    torch.testing.assert_close(middle, torch.full_like(middle, 4.0), rtol=0.05, atol=0)
    torch.testing.assert_close(rates[0, :2], torch.ones_like(rates[0, :2]), rtol=0.05, atol=0)
    torch.testing.assert_close(rates[1].median(), torch.tensor(1.0), rtol=0.05, atol=0)
    sharp = resolved(rates, 4)
    assert 0 < float(sharp[0].float().mean()) < 0.2 and not bool(sharp[1].any())
    assert torch.allclose(rates, sampling_rates(scene, cameras, backend="torch"), rtol=0.05, atol=0.05)


def test_what_a_photograph_resolves_is_not_supervised_by_enlargements():
    near = pinhole((0.0, 0.0, 3.0))
    cameras = Cameras.cat([pinhole((0.0, 0.0, 0.0)), near])
    depths = plane_depths(cameras, normal=(0.0, 0.0, 1.0), offset=4.0)
    scene = estimate(render_depths(cameras, depths), cameras, depths)
    views = replace(VIEWS, images=scene.images, cameras=cameras, depths=depths)
    made = super_resolve(scene, views, surface(), CONFIG, replace(QUICK, rounds=1, selective=True))
    assert 0.5 < made.selected < 1


@pytest.mark.parametrize("options", [{"factor": 1}, {"rounds": 0}, {"iterations": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match="must be at least"):
        SuperResolution(**options).check()
