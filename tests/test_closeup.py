"""The method as a whole: `close_up` is its stages put together by hand, whatever makes or remembers them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cus.cameras import Cameras, trajectories
from cus.closeup import close_up, given
from cus.conditioning import conditioning_kind, fuse_views, fused_warp, hierarchical_warp, render_points
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.scene import SceneEstimate
from tests.conditioning.plane_scenes import estimate, pinhole, plane_depths, render_depths
from tests.diffusion.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def scene() -> SceneEstimate:
    """Two views of a leaning wall, with exact depths."""
    cameras = Cameras.cat([pinhole((x, 0.0, 0.0), 60, 64, 32) for x in (-0.2, 0.2)])
    depths = plane_depths(cameras, (0.1, 0.1, 1.0))
    return estimate(render_depths(cameras, depths), cameras, depths)


@pytest.fixture(scope="module")
def path(scene: SceneEstimate) -> Cameras:
    return trajectories.zoom(scene.cameras, zoom=2.0, frames=3)


@pytest.fixture(scope="module")
def pipeline() -> CloseUpShotPipeline:
    return tiny_pipeline()


def test_two_passes_are_warp_pass_fusion_render_and_pass(scene, path, pipeline):
    made = close_up(scene, path, pipeline, passes=2, guidance=1.0, seed=7)
    warped = hierarchical_warp(scene, path)

    def run(guide: torch.Tensor | None) -> torch.Tensor:
        draws = torch.Generator().manual_seed(7)
        return pipeline(scene.images[:1], warped, guide, guidance=1.0, generator=draws)

    def depths_of_all() -> torch.Tensor:
        return torch.cat([warped.depths, scene.depths])

    cameras = Cameras.cat([path, scene.cameras])
    coarse = fuse_views(torch.cat([run(None), scene.images]), depths_of_all(), cameras, scale=scene.scale)
    guide = render_points(coarse.points, coarse.colors, path)
    frames = run(guide.images)
    assert made.structure is not None and torch.equal(made.structure.images, guide.images)
    assert torch.equal(made.frames, frames) and not torch.equal(frames, run(None))
    final = fuse_views(torch.cat([frames, scene.images]), depths_of_all(), cameras, scale=scene.scale)
    assert torch.equal(made.cloud.points, final.points) and torch.equal(made.cloud.counts, final.counts)


def test_stages_come_in_order_and_one_that_is_known_is_not_made_again(scene, path, pipeline):
    names: list[str] = []

    def each(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        names.append(name)
        return function(*arguments)

    once = close_up(scene, path, pipeline, passes=1, guidance=1.0, each=each)
    assert names == ["conditioning", "frames"] and once.cloud is once.cloud
    assert names.pop() == "cloud"
    names.clear()
    twice = close_up(scene, path, pipeline, passes=2, guidance=1.0, each=each)
    assert names == ["conditioning", "coarse", "structure", "frames"]
    again = close_up(scene, path, pipeline, passes=1, guidance=1.0, each=given(frames=twice.frames))
    assert again.frames is twice.frames and torch.equal(again.conditioning.images, once.conditioning.images)


def test_photographs_are_read_only_for_kinds_that_take_them(scene, path, pipeline):
    def read() -> list[torch.Tensor]:
        return [image.repeat_interleave(2, -1).repeat_interleave(2, -2) for image in scene.images]

    def refuse() -> list[torch.Tensor]:
        raise AssertionError("nobody asked for photographs")

    frames = given(frames=torch.zeros(3, 3, 32, 64))
    close_up(scene, path, pipeline, photographs=refuse, each=frames)
    fused = close_up(scene, path, pipeline, kind=conditioning_kind("fused"), photographs=read, each=frames)
    assert torch.equal(fused.conditioning.images, fused_warp(scene, path, read()).images)
    with pytest.raises(InputError, match="a photograph for each of the 2 views, got 1"):
        close_up(scene, path, pipeline, kind=conditioning_kind("fused"), photographs=read()[:1])


def test_what_cannot_be_is_refused(scene, path):
    pipeline = tiny_pipeline()
    for passes in (0, 3):
        with pytest.raises(ValueError, match=f"passes must be 1 or 2, got {passes}"):
            close_up(scene, path, pipeline, passes=passes)
    with torch.no_grad():
        next(iter(pipeline.unet.parameters())).fill_(torch.nan)
    with pytest.raises(InputError, match="values that are not numbers in float32"):
        close_up(scene, path, pipeline, passes=1, guidance=1.0)
