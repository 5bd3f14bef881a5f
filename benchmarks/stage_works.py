"""The work of each stage on synthetic inputs of a given size, timed by `benchmarks/stages.py`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from diffusers.utils import logging
from torch import Tensor

from benchmarks.scenes import boards_before_a_wall, crowd
from cus.cameras import Cameras, trajectories
from cus.conditioning import fuse_views, hierarchical_warp, render_points
from cus.diffusion.latents import FirstStage, decode, encode
from cus.diffusion.memory import skeleton
from cus.estimators import SceneEstimate, estimate_scene
from cus.hub.stored import checked_folder, open_model
from cus.models.projector import ImageProjector
from cus.models.unet import UNet
from cus.splats import FitConfig, Gaussians, Views, render
from cus.splats.optimization import Optimization
from cus.splats.parameters import Parameters
from cus.splats.sh import sh_from_rgb
from procedural.tracer import random_scene, sample_reference_cameras
from procedural.tracer import render as photograph

Work = Callable[[], object]
PHOTOGRAPHED = 3  # seed of the procedural scene that the estimator sees


@dataclass(frozen=True)
class Size:
    """The amount of work; pictures are 16:9.

    Attributes:
        width: Picture width in pixels; for a stage with targets, that of the references.
        target_width: Target width in pixels; None: `width`.
        views: Number of photographs, views to fuse, or images to fit.
        frames: Number of targets, or frames of a clip.
        count: Number of Gaussians or points.
    """

    width: int = 512
    target_width: int | None = None
    views: int = 2
    frames: int = 4
    count: int = 50_000

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return self.width * 9 // 16

    @property
    def target_size(self) -> tuple[int, int]:
        """(width, height) of the targets in pixels."""
        width = self.target_width or self.width
        return width, width * 9 // 16


TINY = Size(width=128, frames=2, count=500)
# The estimator finds no features in smaller pictures.
TINY_PHOTOGRAPHS = Size(width=256)


@dataclass(frozen=True)
class StageTask:
    """One stage, with one implementation, at one size: a `Task` of `benchmarks.measure`.

    Attributes:
        stage: Name of the stage in `WORKS`.
        method: Name of the implementation.
        size: Amount of work.
        device: Torch device to compute on.
        model: Model, as for `CloseUpShotPipeline.from_pretrained`.
    """

    stage: str
    method: str
    size: Size
    device: str = "cpu"
    model: str = "mini"

    def tiny(self) -> Work:
        """The stage at the smallest size."""
        return replace(self, size=TINY_PHOTOGRAPHS if self.stage == "estimator" else TINY).work()

    def work(self) -> Work:
        """The stage with prepared inputs."""
        torch.manual_seed(0)
        # The library warns about configuration defaults once per network and process.
        logging.set_verbosity_error()
        return WORKS[self.stage](self)


def estimator(task: StageTask) -> Work:
    """Depth of V photographs, with their cameras ("given") or without ("estimated")."""
    scene = random_scene(PHOTOGRAPHED)
    pair = sample_reference_cameras(scene, 0, task.size.width, task.size.height)
    # More views are placed between the two: a larger distance would also need more planes.
    taken = trajectories.interpolate(pair, frames=task.size.views)
    images, focals = photograph(scene, taken, supersample=1)[0].to(task.device), taken.Ks[:, 0, 0]
    cameras = taken if task.method == "given" else None
    return lambda: estimate_scene(images, cameras, "stereo", focals=focals)


def conditioning(task: StageTask) -> Work:
    """Warp V views along a zoom of T targets."""
    scene = _scene(task)
    targets = trajectories.zoom(scene.cameras.to("cpu"), 4.0, frames=task.size.frames).resized(*task.size.target_size)
    backend: Any = task.method
    return lambda: hierarchical_warp(scene, targets, backend=backend)


def fusion(task: StageTask) -> Work:
    """Fuse V views with exact depth into one cloud."""
    scene = _scene(task)
    return lambda: fuse_views(scene.images, scene.depths, scene.cameras, scale=scene.scale)


def points(task: StageTask) -> Work:
    """Render a cloud from T targets."""
    size = task.size
    scene = {name: value.float().to(task.device) for name, value in crowd(size.count, size.width, size.height).items()}
    cameras = Cameras(scene["viewmats"].cpu(), scene["Ks"].cpu(), size.width, size.height)
    targets = trajectories.zoom(cameras, 4.0, frames=size.frames).to(task.device)
    if task.method == "pytorch3d":
        from benchmarks.pytorch3d_points import nearest_points

        return nearest_points(scene["means"], scene["colors"], targets)
    return lambda: render_points(scene["means"], scene["colors"], targets)


def unet(task: StageTask) -> Work:
    """One step of the denoiser on a clip of T frames, without guidance."""
    folder = checked_folder(task.model, "CloseUpShotPipeline")
    network = _loaded(UNet, folder, "unet", task)
    # Only their sizes: weights of the other parts are not measured.
    sizes = skeleton(open_model(folder))
    projector: dict[str, Any] = cast(Any, ImageProjector).load_config(folder, subfolder="image_projector")
    image_tokens, config, multiple = projector["num_tokens"], network.config, sizes.size_multiple
    h, w = (-(-side // multiple) * network.size_multiple for side in (task.size.height, task.size.width))
    sample = torch.randn(1, config["in_channels"], task.size.frames, h, w, device=task.device)
    context = torch.randn(1, config["text_tokens"] + image_tokens, config["context_dim"], device=task.device)
    timesteps = torch.full((1,), 500, device=task.device)
    return _inferring(lambda: network(sample, timesteps, context).sample)


def encoding(task: StageTask) -> Work:
    """T frames to latents."""
    vae, frames = _autoencoder(task), _frames(task)
    return _inferring(lambda: encode(vae, frames))


def decoding(task: StageTask) -> Work:
    """T frames from latents, with the skips of their conditioning images if the decoder has them."""
    vae, frames = _autoencoder(task), _frames(task)
    h, w = frames.shape[-2] // vae.downsample, frames.shape[-1] // vae.downsample
    latents = torch.randn(len(frames), vae.latent_channels, h, w, device=task.device)
    return _inferring(lambda: decode(vae, latents, frames))


def fit(task: StageTask) -> Work:
    """One iteration of the Gaussian fit at full size."""
    gaussians, camera = _gaussians(task)
    size, backend = task.size, task.method
    assert backend in ("cpu", "torch", "gsplat")
    config = replace(
        FitConfig.for_backend(backend, task.device),
        iterations=1000,
        max_gaussians=size.count,
        max_pixels=size.width * size.height,
        coarse_share=0.0,
        backend=backend,
    )
    images = torch.rand(size.views, 3, size.height, size.width, device=task.device)
    cameras = camera[torch.zeros(size.views, dtype=torch.long)]
    first = torch.arange(size.views, device=task.device) == 0
    views = Views(images, cameras, torch.ones_like(images[:, 0]), images.new_ones(size.views), None, first)
    parameters = Parameters(gaussians, config.rates, config.max_stretch)
    return Optimization(views, parameters, config, seed=0).advance


def rendering(task: StageTask) -> Work:
    """Render one frame of a Gaussian scene."""
    gaussians, camera = _gaussians(task)
    backend: Any = task.method
    return lambda: render(gaussians, camera, backend=backend)


WORKS: dict[str, Callable[[StageTask], Work]] = {
    "estimator": estimator,
    "conditioning": conditioning,
    "fusion": fusion,
    "points": points,
    "unet": unet,
    "encode": encoding,
    "decode": decoding,
    "fit": fit,
    "render": rendering,
}


def _scene(task: StageTask) -> SceneEstimate:
    return boards_before_a_wall(task.size.views, task.size.width, task.size.height).to(task.device)


def _autoencoder(task: StageTask) -> FirstStage:
    folder = checked_folder(task.model, "CloseUpShotPipeline")
    return _loaded(type(skeleton(open_model(folder)).vae), folder, "vae", task)


def _loaded(kind: Any, folder: str, subfolder: str, task: StageTask) -> Any:
    """One network of a pipeline's folder, with weights in the implementation's precision, as loaded by `cus-infer`."""
    return kind.from_pretrained(folder, subfolder=subfolder, dtype=getattr(torch, task.method)).eval().to(task.device)


def _frames(task: StageTask) -> Tensor:
    """[T, 3, H, W], cropped to multiples of 8, which every autoencoder accepts."""
    return torch.rand(task.size.frames, 3, task.size.height // 8 * 8, task.size.width // 8 * 8, device=task.device)


def _gaussians(task: StageTask) -> tuple[Gaussians, Cameras]:
    size = task.size
    made = {name: value.float().to(task.device) for name, value in crowd(size.count, size.width, size.height).items()}
    camera = Cameras(made["viewmats"], made["Ks"], size.width, size.height)
    sh = sh_from_rgb(made["colors"])[:, None]
    return Gaussians(made["means"], made["quats"], made["scales"], made["opacities"], sh), camera


def _inferring(work: Work) -> Work:
    """Run a network's work like `cus-infer`: without gradients."""

    def call() -> object:
        with torch.inference_mode():
            return work()

    return call
