"""The kernels of `cus.conditioning.cpu` against the tensor operations that say the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scenes import boards_before_a_wall
from cus.cameras import Cameras, trajectories
from cus.conditioning import Conditioning, hierarchical_warp
from cus.conditioning.cpu.occlusion import sample_spacing_cpu
from cus.conditioning.cpu.warp import coarsen
from cus.conditioning.occlusion import sample_spacing
from cus.conditioning.warp import EMPTY
from cus.conditioning.warp import coarsen as coarsen_torch
from cus.errors import InputError
from cus.estimators import SceneEstimate
from tests.conditioning.plane_scenes import pinhole, random_scene
from tests.conditioning.test_occlusion import sheet_over_wall
from tests.conditioning.test_warp import TARGETS

WIDE = pinhole((0.1, 0.0, 0.0), focal=9, width=23, height=17)  # many points a pixel


def both_forms(scene: SceneEstimate, targets: Cameras, **options) -> tuple[Conditioning, Conditioning]:
    kernels, plain = (hierarchical_warp(scene, targets, backend=backend, **options) for backend in ("cpu", "torch"))
    return kernels, plain


def assert_same(kernels: Conditioning, plain: Conditioning) -> None:
    assert torch.equal(kernels.masks, plain.masks)
    torch.testing.assert_close(kernels.images, plain.images, rtol=0, atol=1e-5)
    torch.testing.assert_close(kernels.depths, plain.depths, rtol=1e-5, atol=0)


@pytest.mark.parametrize("merge", ["nearest", "depth"])
@pytest.mark.parametrize("suppress", [True, False])
@pytest.mark.parametrize("scales", [None, (1,), (2, 6), (1, 3), (1, 2, 4, 8)])
def test_kernels_and_tensor_operations_give_the_same_pictures(merge: str, suppress: bool, scales: tuple | None):
    for seed in range(4):
        targets = Cameras.cat([*TARGETS.values(), WIDE])
        assert_same(*both_forms(random_scene(seed), targets, merge=merge, suppress_background=suppress, scales=scales))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    center=st.tuples(st.floats(-1, 1), st.floats(-0.5, 0.5), st.floats(-1, 2.5)),
    focal=st.floats(5, 400),
    yaw=st.floats(-0.6, 0.6),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_they_do_so_for_any_target(seed: int, center: tuple, focal: float, yaw: float, size: tuple[int, int]):
    scene = random_scene(seed)
    target = pinhole(center, focal=focal, width=size[0], height=size[1], yaw=yaw)
    seen = scene.cameras[0].resized(*size)  # seeing nothing at all is an error
    assert_same(*both_forms(scene, Cameras.cat([target, seen])))


@pytest.mark.parametrize("suppress", [True, False])
def test_they_do_so_on_a_path_through_several_views(suppress: bool):
    scene = boards_before_a_wall(3, 160, 90)
    path = trajectories.interpolate(scene.cameras, zoom=1.0, frames=6)
    zoomed = Cameras(path.viewmats, trajectories.zoom(scene.cameras, zoom=5.0, frames=6).Ks, 160, 90)
    kernels, plain = both_forms(scene, zoomed, suppress_background=suppress)
    assert_same(kernels, plain)
    assert (kernels.coverage > 0.9).all()


def test_they_remove_the_same_leaks():
    scene = sheet_over_wall([(0.0, 0.0, 0.0), (2.2, 0.0, 0.0)])
    targets = Cameras.cat([pinhole((x, 0.0, 1.4), focal=60, width=64, height=48) for x in (0.0, 0.5, 0.51)])
    for scales in (None, (1,)):
        kernels, plain = both_forms(scene, targets, scales=scales)
        assert_same(kernels, plain)
        assert not torch.equal(kernels.images, hierarchical_warp(scene, targets, False, scales).images)


def test_of_equally_near_points_in_a_pixel_both_take_the_first():
    camera = pinhole(width=32, height=24)
    images = torch.rand((1, 3, 24, 32), generator=torch.Generator().manual_seed(3))
    depths = torch.full((1, 24, 32), 4.0)
    scene = SceneEstimate(images, camera, depths, torch.ones_like(depths))
    target = pinhole(focal=0.8 * 40, width=26, height=20)  # some pixels hold two; not so many that means are taken
    kernels, plain = both_forms(scene, target)
    assert torch.equal(kernels.images, plain.images)


def test_the_same_bits_on_any_number_of_threads():
    scene = random_scene(21)
    targets = Cameras.cat([*TARGETS.values(), WIDE] * 2)
    threads, pictures = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            pictures.append(hierarchical_warp(scene, targets, merge="depth"))
    finally:
        torch.set_num_threads(threads)
    for other in pictures[1:]:
        assert torch.equal(other.images, pictures[0].images)
        assert torch.equal(other.masks, pictures[0].masks)
        assert torch.equal(other.depths, pictures[0].depths)


def test_strided_pictures_are_read_as_what_they_are():
    scene = random_scene(22)
    strided = SceneEstimate(
        scene.images.flip(-1).contiguous().flip(-1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        scene.cameras,
        scene.depths.mT.contiguous().mT,
        scene.confidences,
    )
    expected, same = (hierarchical_warp(s, TARGETS["beside"]) for s in (scene, strided))
    assert torch.equal(expected.images, same.images)


def test_a_scene_that_the_kernels_cannot_take_is_refused_with_a_remedy():
    scene = random_scene(23)
    double = SceneEstimate(scene.images.double(), scene.cameras, scene.depths, scene.confidences)
    with pytest.raises(InputError, match="needs a float32 scene.*float64 on cpu.*backend='torch'"):
        hierarchical_warp(double, TARGETS["beside"], backend="cpu")
    with pytest.raises(ValueError, match="backend must be one of auto, cpu, torch, got 'cuda'"):
        hierarchical_warp(scene, TARGETS["beside"], backend="cuda")  # pyright: ignore


@pytest.mark.parametrize("kept", [1.0, 0.5, 0.1, 0.02, 0.0])
def test_the_spacing_of_samples_agrees(kept: float):
    generator = torch.Generator().manual_seed(5)
    depths = 4 + torch.randint(0, 2, (37, 41), generator=generator).float() + torch.rand((37, 41), generator=generator)
    depths[torch.rand(depths.shape, generator=generator) >= kept] = 0
    assert torch.equal(sample_spacing_cpu(depths), sample_spacing(depths))


@pytest.mark.parametrize("factor", [1, 2, 3, 5, 64])
def test_coarser_z_buffers_agree(factor: int):
    keys = torch.randint(0, EMPTY, (13, 18), generator=torch.Generator().manual_seed(factor))
    keys[torch.rand(keys.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = EMPTY
    assert torch.equal(torch.from_numpy(coarsen(keys.numpy(), factor)), coarsen_torch(keys, factor))
