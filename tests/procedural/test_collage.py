"""Collage scenes, and close-up clips of scenes whose geometry is known."""

from dataclasses import replace

import numpy as np
import torch

from cus.estimators import SceneEstimate
from procedural import collage
from procedural.close_up_clips import ClipRecipe, imperfect, make_clip

SMALL = ClipRecipe(frames=3, width=64, height=36, window_width=48, window_height=32, structure_fraction=1.0)


def test_rendered_depth_is_where_the_rays_end() -> None:
    scene = collage.Collage.random(3)
    cameras = collage.reference_cameras(3, 48, 32)
    images, depths = collage.render(scene, cameras, supersample=1)
    assert images.min() >= 0 and images.max() <= 1
    points = cameras.backproject(depths)[depths > 0]
    surfaces = []
    for solid in scene.solids:
        local = (points - solid.center) @ solid.axes.T / solid.radii
        flat = local[:, 2].abs() * solid.radii[2] + (local[:, :2].abs() - 1).clamp(min=0).sum(-1)
        surfaces.append(flat if solid.flat else (local.norm(dim=-1) - 1).abs())
    assert torch.stack(surfaces).min(0).values.max() < 1e-2


def test_the_same_point_has_the_same_colour_in_both_views() -> None:
    scene = collage.Collage.random(4)
    cameras = collage.reference_cameras(4, 96, 64)
    images, depths = collage.render(scene, cameras, supersample=2)
    points = cameras[0].backproject(depths[:1]).reshape(-1, 3)
    pixels, z = cameras[1].project(points)
    column, row = pixels[0].floor().long().unbind(-1)
    seen = (column >= 0) & (column < 96) & (row >= 0) & (row < 64)
    column, row = column.clamp(0, 95), row.clamp(0, 63)
    seen &= (depths[1, row, column] - z[0]).abs() < 0.02 * z[0]
    errors = (images[0].flatten(1) - images[1][:, row, column])[:, seen].abs()
    assert seen.float().mean() > 0.4
    assert errors.mean() < 0.06


def test_clips_are_reproducible_and_their_conditioning_resembles_the_target() -> None:
    scene = collage.Collage.random(5)
    references = collage.reference_cameras(5, 64, 36)
    clips = [make_clip(lambda c: collage.render(scene, c, 1), references, SMALL, 9) for _ in range(2)]
    assert torch.equal(clips[0].conditioning, clips[1].conditioning)
    clip = clips[0]
    assert clip.targets.shape == (3, 3, 32, 48) and clip.structure is not None
    known = clip.masks[:, None].expand_as(clip.targets)
    assert known.float().mean() > 0.6
    assert (clip.targets - clip.conditioning)[known].abs().mean() < 0.15
    assert (clip.conditioning[~known] == 0).all()


def test_a_clip_for_point_renders_differs_in_its_conditioning_alone() -> None:
    scene = collage.Collage.random(5)
    references = collage.reference_cameras(5, 64, 36)
    hierarchical, points = (
        make_clip(lambda c: collage.render(scene, c, 1), references, replace(SMALL, conditioning=kind), 9)
        for kind in ("hierarchical", "points")
    )
    assert torch.equal(points.targets, hierarchical.targets)
    assert points.info["conditioning"] == "points"
    assert not torch.equal(points.conditioning, hierarchical.conditioning)
    known = points.masks[:, None].expand_as(points.targets)
    assert known.float().mean() > 0.6
    assert (points.targets - points.conditioning)[known].abs().mean() < 0.15


def test_an_imperfect_estimate_keeps_the_first_camera_and_its_confidence_predicts_error() -> None:
    scene = collage.Collage.random(6)
    cameras = collage.reference_cameras(6, 96, 64)
    images, depths = collage.render(scene, cameras, 1)
    exact = SceneEstimate(images, cameras, depths, (depths > 0).float())
    recipe = ClipRecipe(depth_noise=0.1)
    estimate = imperfect(exact, recipe, np.random.default_rng(1))
    assert torch.equal(estimate.cameras.viewmats[0], cameras.viewmats[0])
    assert not torch.equal(estimate.cameras.viewmats[1], cameras.viewmats[1])
    assert (estimate.confidences[estimate.depths == 0] == 0).all()
    known = (estimate.depths > 0) & (depths > 0)
    errors = (estimate.depths / depths.clamp(min=1e-6) - 1).abs()[known]
    order = estimate.confidences[known].argsort()
    half = len(order) // 2
    assert errors[order[half:]].mean() < 0.7 * errors[order[:half]].mean()
