"""A round of progressive self-training on a textured plane: its views, their pixels, the new detail."""

import math
from dataclasses import replace

import pytest
import torch

from cus.conditioning.fused.agreement import agree
from cus.diffusion import CloseUpShotPipeline
from cus.refinement.detail import with_detail
from cus.refinement.progressive import (
    GeneratedViews,
    Known,
    ProgressiveOptions,
    choose_views,
    generate_views,
)
from cus.refinement.pseudo_labels import SAME_EXPOSURE, rendered_depth
from cus.scene import SceneEstimate
from cus.splats import Gaussians, fit_views, render
from cus.splats.levels import shares
from tests.conditioning.plane_scenes import plane_depths, render_depths
from tests.refinement.test_pseudo_labels import (
    QUICK,
    SCENE,
    SLANTED,
    labels,
    mean_square,
    surface,
    tensors,
    views_of_scene,
)

OPTIONS = ProgressiveOptions(updated=3, candidates=8, gaussians=4000)
# A point of the plane in front of both cameras.
TARGET = torch.tensor([0.0, 0.0, 4.0])


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return CloseUpShotPipeline.from_pretrained("mini")


def known() -> Known:
    scene = agree(SCENE)
    pictures = tuple((image * 255).round().to(torch.uint8) for image in scene.images)
    return Known(scene, pictures, torch.ones_like(scene.depths), len(scene))


def chosen(gaussians: Gaussians, factor: float = 3.0, seed: int = 0):
    distance = float(TARGET.norm())
    generator = torch.Generator().manual_seed(seed)
    return choose_views(gaussians, known(), TARGET, (distance / factor, distance), OPTIONS, generator)


def test_the_views_of_a_round_end_at_the_frontier():
    views = chosen(surface(SCENE))
    assert views.references == [0, 1]
    distances = (views.cameras.centers - TARGET).norm(dim=1)
    third = TARGET.norm() / 3
    # Three on the way, farthest first, then one on the line of each photograph.
    assert len(views.cameras) == 5
    assert bool((distances[:3].diff() <= 0).all()) and bool((distances[:3] >= third * 0.999).all())
    torch.testing.assert_close(distances[3:], third.expand(2))
    again = chosen(surface(SCENE))
    assert torch.equal(views.cameras.viewmats, again.cameras.viewmats)
    assert not torch.equal(views.cameras.viewmats, chosen(surface(SCENE), seed=1).cameras.viewmats)


def made_views(pipeline: CloseUpShotPipeline) -> tuple[Gaussians, SceneEstimate, torch.Tensor]:
    gaussians = surface(SCENE)
    views = chosen(gaussians)
    made, weights = generate_views(gaussians, known(), views, pipeline, labels(), TARGET, OPTIONS, 0)
    return gaussians, made, weights


def test_reliable_pixels_are_true_and_weigh_most(pipeline):
    _, made, weights = made_views(pipeline)
    assert bool(((weights == 1) | (weights == OPTIONS.shown) | (weights == OPTIONS.invented)).all())
    assert float((weights == 1).float().mean()) > 0.5
    truth = render_depths(made.cameras, plane_depths(made.cameras, **SLANTED))
    error = (made.images - truth).abs().mean(dim=1)
    assert float(error[weights == 1].max()) < 0.05
    depths = plane_depths(made.cameras, **SLANTED)
    reliable = weights == 1
    torch.testing.assert_close(made.depths[reliable], depths[reliable], rtol=0.02, atol=0)
    assert bool((made.confidences[made.depths == 0] == 0).all())


def test_generated_views_join_the_known_ones_and_photographs_stay_first(pipeline):
    _, made, weights = made_views(pipeline)
    together = known().extended(made, weights)
    assert together.count == 2 and len(together.scene) == len(together.photographs) == 7
    assert torch.equal(together.weights[2:], weights) and bool((together.weights[:2] == 1).all())


def test_a_fit_sees_all_generated_views_with_their_weights_and_no_photograph(pipeline):
    gaussians, made, weights = made_views(pipeline)
    source = GeneratedViews(known().extended(made, weights))
    generator = torch.Generator().manual_seed(0)
    seen = [source.draw(tensors(gaussians), generator) for _ in range(30)]
    for index in range(len(made)):
        same = [each for each in seen if torch.equal(each.camera.viewmats, made.cameras[index].viewmats)]
        assert 0 < len(same) < 20
        assert torch.equal(same[0].target, made.images[index]) and torch.equal(same[0].weights, weights[index])
        seen = [each for each in seen if not any(each is other for other in same)]
    assert not seen


def test_generated_views_weigh_less_where_photographs_differ_in_exposure():
    darker = replace(SCENE, images=torch.cat([SCENE.images[:1], 0.7 * SCENE.images[1:]]))
    scene = agree(darker)
    mixed = Known(scene, known().photographs, torch.ones_like(scene.depths), len(scene))
    alike, differing = (GeneratedViews(each.extended(each.scene, each.weights)) for each in (known(), mixed))
    assert alike.weight == 1
    assert differing.weight == pytest.approx(SAME_EXPOSURE / -math.log(0.7), rel=0.1)
    assert alike.identity()[0] != differing.identity()[0]


def test_where_generated_views_of_less_weight_have_another_exposure_the_photographs_decide():
    gaussians, shot = surface(SCENE), SCENE.cameras
    darker = replace(SCENE, images=0.7 * SCENE.images)
    source = GeneratedViews(known().extended(darker, torch.ones_like(SCENE.depths)))
    source.weight = 0.3
    found = fit_views(views_of_scene(), gaussians, QUICK, source=source).gaussians
    assert mean_square(found, shot[0], SCENE.images[:1]) < 1e-4 < mean_square(found, shot[0], darker.images[:1])


def test_detail_is_added_where_views_come_near_and_far_views_do_not_change(pipeline):
    gaussians, made, _ = made_views(pipeline)
    cameras = SCENE.cameras
    denser, added = with_detail(gaussians, made, [cameras], 2000)
    assert 100 < added <= 2000 and len(denser) == len(gaussians) + added
    assert denser.rates is not None
    new, old = denser.rates[-added:], denser.rates[:-added]
    assert bool((new[:, 0] > 0).all()) and bool((new[:, 1] == 0).all()) and bool((old[:, 0] == 0).all())
    assert 0 < float((old[:, 1] > 0).float().mean()) < 1
    torch.testing.assert_close(render(denser, cameras), render(gaussians, cameras), rtol=0, atol=1e-4)
    # Near views show the new ones, which close the surface as far as a cloud does before its fit.
    frontier = made.cameras[len(made) - 1]
    share = shares(denser.rates, denser.means, frontier)
    assert float(share[-added:].mean()) > 0.9 and float(share[:-added][old[:, 1] > 0].max()) < 0.2
    means, quats, scales, _, sh = tensors(denser)
    alphas = rendered_depth((means, quats, scales, denser.opacities_in(frontier), sh), frontier)[1]
    assert float(alphas.min()) > 0.5


def test_nothing_is_added_where_views_come_no_nearer():
    gaussians = surface(SCENE)
    same = replace(SCENE, images=SCENE.images.clone())
    denser, added = with_detail(gaussians, same, [SCENE.cameras], 2000)
    assert added == 0 and denser is gaussians


def test_detail_that_the_photographs_have_at_their_own_size_is_not_replaced(pipeline):
    gaussians, made, _ = made_views(pipeline)
    cameras = SCENE.cameras
    shown = replace(made, depths=plane_depths(made.cameras, **SLANTED))
    larger = cameras.resized(4 * cameras.width, 4 * cameras.height)
    assert with_detail(gaussians, shown, [cameras], 2000)[1] > 100
    assert with_detail(gaussians, shown, [larger], 2000)[1] == 0
    pictures = tuple(torch.zeros(3, larger.height, larger.width, dtype=torch.uint8) for _ in range(2))
    own = replace(known(), photographs=pictures).finest
    assert [(c.width, c.height) for c in own] == [(larger.width, larger.height)] * 2
    torch.testing.assert_close(own[1].Ks, larger[1].Ks)


def test_holes_are_filled_at_every_level_and_what_is_before_them_stays(pipeline):
    gaussians, made, _ = made_views(pipeline)
    depths, half = plane_depths(made.cameras, **SLANTED), made.cameras.width // 2
    depths[:, :, :half] = 0
    denser, added = with_detail(gaussians, replace(made, depths=depths), [SCENE.cameras], 2000)
    assert denser.rates is not None
    new, old = denser.rates[-added:], denser.rates[:-added]
    assert 100 < int((new == 0).all(dim=1).sum()) < added
    pixels, _ = made.cameras.project(gaussians.means[old[:, 1] > 0])
    assert pixels.shape[1] > 50 and bool((pixels[..., 0] >= half).any(dim=0).all())
    holes_only = replace(made, depths=torch.zeros_like(depths))
    assert with_detail(gaussians, holes_only, [SCENE.cameras], 2000) == (gaussians, 0)
