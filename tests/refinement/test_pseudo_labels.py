"""Pseudo-labels are what a photograph taken there would show, where they are kept."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes import boards_before_a_wall
from cus.cameras import Cameras, trajectories
from cus.errors import InputError
from cus.estimators import SceneEstimate
from cus.refinement.poses import VirtualPose
from cus.refinement.pseudo_labels import SAME_EXPOSURE, LabelOptions, PseudoLabels, rendered_depth
from cus.splats import FitConfig, FitRecord, Gaussians, Views, fit_views, render
from cus.splats.crops import SceneTensors
from cus.splats.initialise import initial_gaussians
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths, surface_colors

PAIR = Cameras.cat([pinhole((-0.3, 0.0, 0.0)), pinhole((0.3, 0.05, 0.0))])
SLANTED = {"normal": (0.3, 0.1, 1.0), "offset": 4.0}


def pictures(cameras: Cameras) -> Tensor:
    """Of the slanted plane; a pixel is the mean over its square, as a lens makes it."""
    fine = cameras.resized(4 * cameras.width, 4 * cameras.height)
    return F.avg_pool2d(render_depths(fine, plane_depths(fine, **SLANTED)), 4)


SCENE = estimate(pictures(PAIR), PAIR, plane_depths(PAIR, **SLANTED))


def tensors(gaussians: Gaussians) -> SceneTensors:
    return gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh


def surface(scene: SceneEstimate) -> Gaussians:
    """Discs on the surface that the photographs see."""
    points = scene.cameras.backproject(scene.depths)[0].reshape(-1, 3)
    return initial_gaussians(points, scene.images[0].permute(1, 2, 0).reshape(-1, 3), 0)


def labels(scene: SceneEstimate = SCENE, photographs=None, path: Cameras | None = None, **options) -> PseudoLabels:
    height, width = scene.images.shape[-2:]
    return PseudoLabels(scene, photographs, width, height, LabelOptions(**options), path)


def test_a_label_is_what_a_camera_there_would_see():
    source, scene = labels(), tensors(surface(SCENE))
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        seen = source.draw(scene, generator)
        assert seen is not None and seen.weights.mean() > 0.2
        exact = render_depths(seen.camera, plane_depths(seen.camera, **SLANTED))[0]
        error = (seen.target - exact).abs().amax(dim=0)
        assert float((error * seen.weights).max()) < 0.03
    assert source.counts[0] == 6 and source.counts[1] == 0 and 1.2 < source.counts[2] <= 6


def test_labels_weigh_less_where_photographs_differ_in_exposure():
    darker = replace(SCENE, images=torch.cat([SCENE.images[:1], 0.7 * SCENE.images[1:]]))
    assert labels(weight=0.5).weight == 0.5
    assert labels(darker, weight=0.5).weight == pytest.approx(0.5 * SAME_EXPOSURE / -math.log(0.7), rel=0.1)
    assert labels().identity()[0] != labels(darker).identity()[0]


def test_the_kernels_make_the_labels_of_the_tensor_operations():
    pose = VirtualPose(pinhole((0.1, 0.0, 2.5)), torch.tensor([0.1, 0.0, 4.0]))
    made = [
        PseudoLabels(SCENE, None, 32, 24, backend=backend).label(tensors(surface(SCENE)), pose)
        for backend in ("cpu", "torch")
    ]
    kernels, reference = made
    assert kernels is not None and reference is not None
    assert float((kernels.kept != reference.kept).float().mean()) < 0.01
    torch.testing.assert_close(kernels.image, reference.image, rtol=0, atol=2e-3)


def test_larger_photographs_make_sharper_labels():
    """A pattern that the small images average away is in the labels of the photographs at their own size."""

    def striped(cameras: Cameras) -> Tensor:
        points = cameras.backproject(plane_depths(cameras, **SLANTED))
        return (0.5 + 0.3 * torch.sin(60 * points[..., :1])).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous()

    fine = PAIR.resized(8 * PAIR.width, 8 * PAIR.height)
    large = striped(fine)
    scene = replace(SCENE, images=F.avg_pool2d(large, 8))
    photographs = [(picture * 255).round().to(torch.uint8) for picture in large]
    pose = VirtualPose(pinhole((0.1, 0.0, 3.0)), torch.tensor([0.1, 0.0, 4.0]))
    exact = striped(pose.camera)[0]
    errors = []
    for given in (None, photographs):
        label = labels(scene, given).label(tensors(surface(scene)), pose)
        assert label is not None
        errors.append(float((label.image - exact).abs().mean(dim=0)[label.kept].mean()))
    assert errors[1] < 0.2 * errors[0]


def test_nothing_is_kept_behind_a_surface():
    """Of boards before a wall: what a virtual camera sees past a board, and no photograph does, is left out."""
    scene = boards_before_a_wall(2, 48, 36)
    source, gaussians = labels(scene), tensors(surface(scene))
    aside = trajectories.orbit(scene.cameras, frames=3, depth=float(scene.depths[0].median()))[1:]
    for index in range(len(aside)):
        camera = aside[index]
        label = source.label(
            gaussians, VirtualPose(camera, camera.backproject(torch.full((1, 36, 48), 3.0))[0, 18, 24])
        )
        assert label is not None
        seen = torch.stack(
            [photographed(scene, view, camera, rendered_depth(gaussians, camera)[0]) for view in range(len(scene))]
        ).any(dim=0)
        # Along silhouettes the nearest pixel of a depth map may be that of the other surface.
        assert float((label.kept & ~seen).float().mean()) < 0.03


def photographed(scene: SceneEstimate, view: int, camera: Cameras, depths: Tensor) -> Tensor:
    """[H, W] bool: whether a photograph sees what a camera sees, by its own depth, to a tenth."""
    points = camera.backproject(depths[None])[0].reshape(-1, 3)
    pixels, far = scene.cameras[view].project(points)
    size = scene.images.shape[-1], scene.images.shape[-2]
    grid = (2 * pixels[0] / torch.tensor(size) - 1).view(1, 1, -1, 2)
    own = F.grid_sample(scene.depths[view][None, None], grid, mode="nearest", align_corners=False)[0, 0, 0]
    return ((own > 0) & (far[0] < 1.1 * own)).view(depths.shape)


def test_where_the_scene_has_another_surface_than_the_photographs_nothing_is_kept():
    stray = surface(SCENE)
    floater = replace(stray, means=stray.means - torch.tensor([0.0, 0.0, 1.5]))
    pose = VirtualPose(pinhole((0.0, 0.0, 1.6), focal=60), torch.tensor([0.0, 0.0, 4.0]))
    shares = []
    for gaussians in (stray, floater):
        label = labels(threshold=0.01).label(tensors(gaussians), pose)
        assert label is not None
        shares.append(float(label.kept.float().mean()))
    assert shares[0] > 0.95 and shares[1] < 0.3


def test_labels_along_a_path_are_of_its_cameras():
    path = trajectories.dolly(PAIR, 3.0, frames=3, depth=4.0)
    source, generator = labels(path=path), torch.Generator().manual_seed(0)
    drawn = [source.draw(tensors(surface(SCENE)), generator) for _ in range(12)]
    centers = {tuple(round(x, 4) for x in seen.camera.centers[0].tolist()) for seen in drawn if seen is not None}
    assert centers == {tuple(round(x, 4) for x in center) for center in path.centers.tolist()}


def test_a_scene_that_shows_nothing_gives_no_label_and_is_counted():
    source = labels()
    nowhere = replace(surface(SCENE), means=surface(SCENE).means + 1e3)
    assert source.draw(tensors(nowhere), torch.Generator().manual_seed(0)) is None
    assert source.counts.tolist() == [0, 1, 0]


def views_of_scene() -> Views:
    ones = torch.ones_like(SCENE.images[:, 0])
    return Views(SCENE.images, PAIR, ones, ones[:, 0, 0], SCENE.depths, torch.tensor([True, True]))


QUICK = FitConfig(iterations=100, max_gaussians=4000, coarse_share=0.0)


def speckled() -> Gaussians:
    """Four discs a pixel of either photograph, of colours that are right on the average only."""
    fine = PAIR.resized(2 * PAIR.width, 2 * PAIR.height)
    points = fine.backproject(plane_depths(fine, **SLANTED))
    rows, columns = torch.arange(fine.height)[:, None], torch.arange(fine.width)
    speckle = 0.2 * (1 - 2 * ((rows + columns) % 2).float())
    colors = surface_colors(points) + speckle[..., None]
    # The first picture's half of the plane, and what the second one sees beyond it.
    beyond = fine[0].project(points[1].reshape(-1, 3))[0][0, :, 0] > fine.width
    points, colors = (torch.cat([a, b[beyond]]) for a, b in (v.reshape(2, -1, 3) for v in (points, colors)))
    discs = initial_gaussians(points, colors, 0)
    return replace(discs, scales=0.7 * discs.scales)


def mean_square(found: Gaussians, cameras: Cameras, exact: Tensor) -> float:
    return float((render(found, cameras) - exact).square().mean())


def test_a_fit_with_pseudo_labels_sees_from_nearer_by_what_photographs_average_away():
    near = Cameras.cat([pinhole((x, 0.03, 3.0)) for x in (-0.2, 0.0, 0.2)])
    truth, errors = pictures(near), []
    for source in (None, labels(path=near)):
        found = fit_views(views_of_scene(), speckled(), QUICK, source=source).gaussians
        errors.append([mean_square(found, near, truth), mean_square(found, PAIR, SCENE.images)])
    (plain_near, plain_far), (near_error, far_error) = errors
    assert near_error < 0.3 * plain_near
    assert far_error < 5 * plain_far


class Killed(Exception):
    pass


def test_a_fit_with_pseudo_labels_goes_on_bit_for_bit(tmp_path: Path):
    config, path = replace(QUICK, iterations=12), tmp_path / "fit.safetensors"

    def fitted(checkpoint: Path | None, stop: int | None = None, source: PseudoLabels | None = None) -> Gaussians:
        def watch(done: int, _: int) -> None:
            if done == stop:
                raise Killed

        record = FitRecord(on_progress=watch, checkpoint=checkpoint, every=5)
        return fit_views(views_of_scene(), surface(SCENE), config, 3, record, source or labels()).gaussians

    whole = fitted(None)
    with pytest.raises(Killed):
        fitted(path, stop=7)
    source = labels()
    again = fitted(path, source=source)
    assert all(torch.equal(getattr(whole, name), getattr(again, name)) for name in ("means", "scales", "sh"))
    assert source.counts[0] == 12, "the labels before the interruption count, too"
    with pytest.raises(InputError, match="belongs to a fit with other"):
        fitted(path, source=labels(threshold=0.2))
