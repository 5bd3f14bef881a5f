"""Pipeline, samplers, conditioning, fusion, fits and training steps on tensors that claim to be on a GPU.

None mixes devices, all give the CPU's values, and inside the sampling loop nothing makes the host wait for the device.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.closeup import close_up
from cus.conditioning import agree, fuse_views, fused_warp, hierarchical_warp, render_scene_points
from cus.conditioning.kinds import Hierarchical
from cus.diffusion import CloseUpShotPipeline
from cus.diffusion.sampler import ddim
from cus.scene import SceneEstimate
from cus.splats import FitConfig, fit_gaussians
from cus.training.decoder import SkipDecoding
from cus.training.distill import DistillConfig, DistillStage
from cus.training.scripts import settings_of
from cus.training.unet import UNetStage
from tests.devices.claimed import Claimed, DeviceError, Machine
from tests.diffusion.tiny import layered, pictures, tiny_pipeline
from tests.evaluation.small_scenes import one_thread
from tests.training.made_clips import made_clip, write_made_clips
from tests.training.test_clip_crops import small_stage
from tests.training.test_distill import arguments

NETWORKS = ("unet", "vae", "image_encoder", "image_projector", "prompt")


class Open(CloseUpShotPipeline):
    """The pipeline without inference mode, in which operations come to a mode before they are taken apart."""

    __call__ = torch.no_grad()(CloseUpShotPipeline.__call__.__wrapped__)  # pyright: ignore


def moved(pipeline: CloseUpShotPipeline, machine: Machine) -> CloseUpShotPipeline:
    """The pipeline with its networks on the machine's device."""
    for name in NETWORKS:
        machine.moved(getattr(pipeline, name))
    pipeline.__class__ = Open
    return pipeline


def without_waiting(pipeline: CloseUpShotPipeline, machine: Machine) -> list[int]:
    """Let no step of the sampler wait for the device; tensors that each loop has copied to it are counted."""
    counted: list[int] = []

    def sampler(*arguments: Any, **options: Any) -> Tensor:
        before = machine.uploads
        with machine.no_waiting():
            made = ddim(*arguments, **options)
        counted.append(machine.uploads - before)
        return made

    pipeline.sampler = sampler
    return counted


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {"guidance": 1.0}),
        ({}, {"guidance": 3.0, "guidance_rescale": 0.7, "eta": 1.0}),
        ({"residual_scale": 1.0, "skip": True}, {"guidance": 2.0, "structure": True}),
        ({"layers": 2, "unshuffle": 2, "noise": 0.0, "fill_holes": True, "color_window": 5}, {"guidance": 1.0}),
    ],
    ids=["plain", "guided-with-noise", "skip-and-structure", "layers"],
)
def test_the_sampling_loop_waits_for_nothing_and_gives_the_cpus_frames(options, call) -> None:
    call = dict(call)
    shown: Any = layered(6) if options.get("layers") else pictures(6)
    structure = pictures(6) if call.pop("structure", False) else None
    expected = tiny_pipeline(**options)(pictures(1), shown, structure, steps=3, **call)
    with Machine() as machine:
        pipeline = moved(tiny_pipeline(**options), machine)
        counted = without_waiting(pipeline, machine)
        guide = None if structure is None else machine.holds(structure)
        found = pipeline(machine.holds(pictures(1)), there(shown, machine), guide, steps=3, **call)
        assert isinstance(found, Claimed)
        # Noise of the seed's own generator, which is the host's: one tensor a step.
        assert counted and max(counted) <= (3 if call.get("eta") else 0)
        torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-4)


def there(shown: Any, machine: Machine) -> Any:
    """Whatever holds tensors, with them on the machine's device."""
    if isinstance(shown, Tensor):
        return machine.holds(shown)
    if not is_dataclass(shown) or isinstance(shown, type):
        return shown
    return replace(shown, **{field.name: there(getattr(shown, field.name), machine) for field in fields(shown)})


def test_a_sampler_that_looks_at_a_value_is_caught() -> None:
    def curious(denoise: Callable[..., Tensor], noise: Tensor, *arguments: Any, **options: Any) -> Tensor:
        made = ddim(denoise, noise, *arguments, **options)
        return made if float(made.abs().max()) < 1e9 else noise

    with Machine() as machine:
        pipeline = moved(tiny_pipeline(), machine)

        def forbidding(*arguments: Any, **options: Any) -> Tensor:
            with machine.no_waiting():
                return curious(*arguments, **options)

        pipeline.sampler = forbidding
        with pytest.raises(DeviceError, match="makes the host wait"):
            pipeline(machine.holds(pictures(1)), machine.holds(pictures(2)))


def scene_and_path() -> tuple[SceneEstimate, Cameras]:
    """A scene of exact depths, and a path that zooms in."""
    clip = made_clip(3)
    assert clip.geometry is not None
    return clip.geometry.estimate(clip.references), clip.geometry.path


def close(found: Any, expected: Any, atol: float, share: float = 1.0) -> None:
    """Whether claimed values, or all of a dataclass, are the CPU's, but for a share of them."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Claimed)
        near = (found.value.float() - expected.float()).abs() <= atol
        assert near.float().mean() >= share
    elif is_dataclass(expected):
        for field in fields(expected):
            close(getattr(found, field.name), getattr(expected, field.name), atol, share)


def larger(scene: SceneEstimate) -> list[Tensor]:
    """The photographs at twice their size."""
    return [image.repeat_interleave(2, 1).repeat_interleave(2, 2) for image in scene.images]


WARPS: dict[str, Callable[[SceneEstimate, Cameras], Any]] = {
    "hierarchical": lambda scene, path: hierarchical_warp(scene, path, backend="torch"),
    "fused": lambda scene, path: fused_warp(scene, path, backend="torch", with_layers=True),
    "larger": lambda scene, path: fused_warp(scene, path, larger(scene), backend="torch"),
    "agreement": lambda scene, path: agree(scene, backend="torch"),
    "points": lambda scene, path: render_scene_points(scene, path),
    "cloud": lambda scene, path: fuse_views(scene.images, scene.depths, scene.cameras),
}


@pytest.mark.parametrize("name", WARPS)
def test_conditioning_and_fusion_stay_on_the_device_of_the_scene(name: str) -> None:
    scene, path = scene_and_path()
    with one_thread():
        expected = WARPS[name](scene, path)
        with Machine() as machine:
            found = WARPS[name](there(scene, machine), there(path, machine))
    close(found, expected, 1e-3, 0.995)


def test_both_passes_stay_on_the_device_from_the_scene_to_the_cloud() -> None:
    scene, path = scene_and_path()
    how: dict[str, Any] = {"passes": 2, "kind": Hierarchical(), "steps": 2}
    with one_thread():
        expected = close_up(scene, path, tiny_pipeline(residual_scale=1.0), **how)
        with Machine() as machine:
            pipeline = moved(tiny_pipeline(residual_scale=1.0), machine)
            without_waiting(pipeline, machine)
            found = close_up(there(scene, machine), there(path, machine), pipeline, **how)
            assert found.structure is not None and expected.structure is not None
            assert isinstance(found.cloud.points, Claimed)
    close(found.frames, expected.frames, 0.01, 0.98)


def test_a_fit_s_steps_stay_on_the_device() -> None:
    scene, path = scene_and_path()
    with one_thread():
        cloud = fuse_views(scene.images, scene.depths, scene.cameras)
        config = FitConfig(iterations=2, backend="torch")
        given = (scene.images, scene.cameras, cloud)
        expected = fit_gaussians(*given, config=config)
        with Machine("lazy") as machine:
            found = fit_gaussians(*(there(part, machine) for part in given), config=config)
    close(found, expected, 1e-3, 0.99)


@pytest.mark.parametrize("structure", [False, True])
def test_a_training_step_of_the_u_net_stays_on_the_device_and_gives_the_cpus_gradients(
    structure: bool, tmp_path
) -> None:
    write_made_clips(tmp_path / "clips", 1)
    loss, gradient = step_of(unet_stage(tmp_path), structure)
    with Machine("lazy") as machine:
        found = step_of(unet_stage(tmp_path), structure, machine)
        torch.testing.assert_close(found[0].value, loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1].value, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("more", [["critic_rank=0", "regression=1", "objective.pixels=true"], ["critic_rank=2"]])
def test_a_step_of_distillation_stays_on_the_device(more: list[str], tmp_path) -> None:
    write_made_clips(tmp_path / "clips", 1)
    tiny_pipeline(unshuffle=2).save_pretrained(tmp_path / "teacher")

    def stage() -> DistillStage:
        found = DistillStage(settings_of(DistillConfig, arguments(tmp_path, tmp_path / "out", *more)))
        found.module.train(False)  # without drop-out, which draws from the device's own generator
        return found

    with one_thread():
        loss, gradient = step_of(stage(), True)
    with Machine("lazy") as machine:
        found = step_of(stage(), True, machine)
        torch.testing.assert_close(found[0].value, loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[1].value, gradient, rtol=1e-2, atol=1e-4)


def unet_stage(folder: Path) -> UNetStage:
    more = ("sampling.layers=0", "sampling.noise=1", "objective.pixels=false", "sampling.fill_holes=false")
    torch.manual_seed(0)
    return small_stage(folder / "clips", *more)


def step_of(stage: UNetStage, structure: bool, machine: Machine | None = None) -> tuple[Any, Any]:
    """Loss of a batch, and the gradient of the U-Net's last layer."""
    item = stage.dataset()[0]
    item["structure"], item["guided"] = item["conditioning"].flip(0), torch.tensor(structure)
    batch: dict[str, Tensor] = {name: value[None] for name, value in item.items()}
    if machine is not None:
        machine.moved(stage.module)
        machine.moved(stage.pipeline.vae)
        batch = {name: machine.holds(value) for name, value in batch.items()}
    loss = stage.loss(stage.module, batch, torch.Generator().manual_seed(0))
    loss.backward()
    return loss.detach(), stage.pipeline.unet.conv_out.weight.grad


def test_a_training_step_of_the_decoder_stays_on_the_device() -> None:
    vae = tiny_pipeline(skip=True).vae
    latents, conditioning = torch.randn(2, 4, 8, 12), pictures(2)
    vae.requires_grad_(True)
    expected = SkipDecoding(vae, residual=True)(latents, conditioning)
    with Machine("lazy") as machine:
        module = machine.moved(SkipDecoding(vae, residual=True))
        found = module(machine.holds(latents), machine.holds(conditioning))
        found.abs().mean().backward()
        assert all(isinstance(p.grad, Claimed) for p in vae.skip_convs.parameters())
        torch.testing.assert_close(found.value, expected, rtol=0, atol=1e-4)
