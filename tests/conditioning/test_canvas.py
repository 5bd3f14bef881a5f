import pytest
import torch

from cus.conditioning.canvas import Canvas
from cus.conditioning.warp import coarsen_any, project_depths, splat
from tests.conditioning import slow_warp
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, random_scene, render_depths
from tests.conditioning.test_warp import TARGETS


def painted(scene, view: int, target, scales: tuple[int, ...], chosen: torch.Tensor) -> Canvas:
    canvas = Canvas.blank(target.width, target.height, torch.device("cpu"))
    projection = project_depths(scene.depths[view], scene.cameras[view], target)
    colors = scene.images[view].flatten(1).T
    canvas.paint(colors, projection, splat(projection, chosen.flatten()), scales)
    return canvas


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("scales", [(1,), (2,), (1, 3), (1, 2, 4, 8)])
def test_painting_agrees_with_the_loop_over_levels_and_pixels(name: str, scales: tuple[int, ...]):
    scene, target = random_scene(7), TARGETS[name]
    chosen = scene.confidences[0] > 0.2
    canvas = painted(scene, 0, target, scales, chosen)
    slow = slow_warp.hierarchical(
        scene.images[0].numpy(), scene.depths[0].numpy(), chosen.numpy(), scene.cameras[0], target, scales
    )
    assert torch.equal(canvas.mask, torch.from_numpy(slow[1]))
    torch.testing.assert_close(canvas.depths, torch.from_numpy(slow[2]).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(canvas.image, torch.from_numpy(slow[0]).float(), rtol=1e-3, atol=1e-4)


def test_many_small_chunks_paint_what_one_large_chunk_does(monkeypatch: pytest.MonkeyPatch):
    scene = random_scene(8)
    whole = painted(scene, 0, TARGETS["zoomed"], (1, 2, 4), scene.depths[0] > 0)
    monkeypatch.setattr("cus.conditioning.canvas._CHUNK", 32)
    parts = painted(scene, 0, TARGETS["zoomed"], (1, 2, 4), scene.depths[0] > 0)
    assert torch.equal(whole.mask, parts.mask)
    torch.testing.assert_close(whole.image, parts.image)


def test_holes_leak_no_black_into_an_enlarged_white_surface():
    camera = pinhole(width=32, height=24)
    depths = plane_depths(camera)
    depths[torch.rand(depths.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = 0
    scene = estimate(torch.ones(1, 3, 24, 32), camera, depths)
    canvas = painted(scene, 0, camera.zoomed(4), (1, 2, 4), depths[0] > 0)
    assert canvas.mask.any() and not canvas.mask.all()
    torch.testing.assert_close(canvas.image[canvas.mask], torch.ones(int(canvas.mask.sum()), 3))
    assert canvas.image[~canvas.mask].abs().max() == 0


def test_surfaces_of_other_depths_do_not_bleed_into_each_other():
    camera = pinhole(width=32, height=24)
    depths = plane_depths(camera)
    depths[..., 16:] = 2.0
    images = torch.zeros(1, 3, 24, 32)
    images[..., 16:] = 1.0
    canvas = painted(estimate(images, camera, depths), 0, camera.zoomed(3), (1, 2, 4), depths[0] > 0)
    assert canvas.complete
    assert ((canvas.image < 1e-6) | (canvas.image > 1 - 1e-6)).all()


@pytest.mark.parametrize("zoom", [2, 3, 4, 5.3])
def test_a_magnified_smooth_surface_comes_out_smooth(zoom: float):
    camera = pinhole(width=64, height=48, focal=60)
    depths = plane_depths(camera, (0.2, 0.1, 1.0))
    target = camera.zoomed(zoom)
    scene = estimate(render_depths(camera, depths), camera, depths)
    canvas = painted(scene, 0, target, (1, 2, 4, 8), depths[0] > 0)
    truth_depths = plane_depths(target, (0.2, 0.1, 1.0))
    truth = render_depths(target, truth_depths)[0].permute(1, 2, 0)
    assert canvas.complete
    assert (canvas.image - truth).abs().max() < 0.04
    assert ((canvas.depths - truth_depths[0]) / truth_depths[0]).abs().max() < 0.02


def test_painting_never_changes_what_is_there():
    scene = random_scene(9)
    canvas = painted(scene, 0, TARGETS["beside"], (1,), scene.depths[0] > 0)
    before = canvas.image.clone(), canvas.mask.clone(), canvas.depths.clone()
    projection = project_depths(scene.depths[1], scene.cameras[1], TARGETS["beside"])
    canvas.paint(scene.images[1].flatten(1).T, projection, splat(projection), (1, 2, 4))
    assert canvas.mask.sum() > before[1].sum()
    for after, earlier in zip((canvas.image, canvas.mask, canvas.depths), before, strict=True):
        assert torch.equal(after[before[1]], earlier[before[1]])


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_a_coarse_cell_is_open_where_any_of_its_pixels_is(factor: int):
    mask = torch.rand((7, 11), generator=torch.Generator().manual_seed(factor)) > 0.8
    cells = coarsen_any(mask, factor)
    for i in range(cells.shape[0]):
        for j in range(cells.shape[1]):
            assert cells[i, j] == mask[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].any()
