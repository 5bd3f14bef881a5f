"""Confidence-weighted fit of 3D Gaussians to generated frames and references (Section III-E, Eqs. 8 to 10)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats.complete import complete_cloud
from cus.splats.gaussians import Gaussians
from cus.splats.initialise import downsample_points, initial_gaussians, sampling_distances
from cus.splats.parameters import LearningRates, Parameters
from cus.splats.rasterization import Backend, rasterization, resolve_backend
from cus.splats.ssim import ssim

# Smaller pictures leave SSIM's window no room.
_SMALLEST = 16


class ColoredCloud(Protocol):
    """Anything with points [N, 3] and colours [N, 3] in [0, 1], such as a FusedCloud."""

    @property
    def points(self) -> Tensor: ...  # noqa: D102

    @property
    def colors(self) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True)
class FitConfig:
    """How to fit.

    Attributes:
        iterations: Steps of one image each. The paper takes 1000.
        max_gaussians: The cloud is thinned to this many.
        max_pixels: Larger images are shrunk to this many pixels for the fit; the Gaussians do not depend on it.
        ssim_weight: lambda of Eq. 8.
        sh_degree: Of the harmonics, 0 to 3. 0 suits a zoom, where all rays to a point are alike.
        sh_warmup: Share of the iterations after which a degree more comes in (1/3: degree 3 in the last third at most).
        coarse_share: Share of the iterations, from the start, on images of half size: a quarter of the time each.
        final_rate: All learning rates fall exponentially to this share of their start.
        max_stretch: Half axes stay within this factor of their start.
        min_opacity: Fainter Gaussians are pruned, half way and at the end.
        fill_holes: Add points where the cloud leaves pixels empty, see `complete_cloud`.
        antialiased: Fit with Mip-Splatting's opacity compensation, so that near and far views agree.
        tile_size: Of the rasterizer; 8 is fastest for small Gaussians in torch.
        rates: Learning rates.
        backend: Of `rasterization`.
    """

    iterations: int = 300
    max_gaussians: int = 60_000
    max_pixels: int = 384 * 216
    ssim_weight: float = 0.2
    sh_degree: int = 0
    sh_warmup: float = 0.3
    coarse_share: float = 0.2
    final_rate: float = 0.1
    max_stretch: float = 2.0
    min_opacity: float = 0.02
    fill_holes: bool = True
    antialiased: bool = True
    tile_size: int = 8
    rates: LearningRates = field(default_factory=LearningRates)
    backend: Backend = "auto"

    @staticmethod
    def for_backend(backend: Backend = "auto", device: torch.device | str = "cpu") -> "FitConfig":
        """Defaults that a backend can afford.

        torch is slow, so its fit is small: images of at most 384 x 216 pixels, 60 000 Gaussians, degree 0 and 300
        iterations (the paper: 1000), about a minute on two cores. gsplat on a GPU takes the paper's 1000 iterations
        at full size.
        """
        if resolve_backend(backend, torch.device(device)) == "torch":
            return FitConfig(backend=backend)
        return FitConfig(
            iterations=1000,
            max_gaussians=500_000,
            max_pixels=1024 * 576,
            sh_degree=1,
            coarse_share=0.0,
            tile_size=16,
            backend=backend,
        )


@dataclass(frozen=True)
class _Views:
    """Training images at one resolution: images [M, 3, H, W], pixel weights [M, H, W]."""

    images: Tensor
    cameras: Cameras
    pixel_weights: Tensor


def fit_gaussians(
    images: Tensor,
    cameras: Cameras,
    points: Tensor | ColoredCloud,
    pixel_confidence: Tensor | None = None,
    image_confidence: Tensor | None = None,
    *,
    depths: Tensor | None = None,
    config: FitConfig | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Gaussians:
    """Fit 3D Gaussians to images under known cameras.

    The loss of an image is W_image * ((1 - lambda) mean(W_pixel |render - image|) + lambda (1 - SSIM)) (Eq. 10, with L1
    averaged over pixels and channels). Unlike the paper's, the SSIM term follows W_pixel too: it compares the render
    with W_pixel image + (1 - W_pixel) render, so that a doubtful pixel pulls little and one of confidence 0 nothing
    at all. On frames with inconsistent patches that gained 0.9 dB in close-up views.

    A pixel with confidence exactly 0 (no picture there) starts no point either; give doubtful pixels that no other view
    confirms a small confidence such as 0.01, and they fill their holes without disturbing anything else.

    On a CPU the same seed gives the same result.

    Args:
        images: [M, 3, H, W] in [0, 1], H and W at least 16.
        cameras: M views of this size.
        points: A cloud with `points` and `colors`, or points [N, 3], which then take their colours from the images.
        pixel_confidence: W_pixel [M, H, W] in [0, 1] (Eq. 9); default 1.
        image_confidence: W_image [M], >= 0; default 1.
        depths: z-depths of the images [M, H, W], 0 = none: where to put points in pixels that the cloud leaves empty.
        config: Default: `FitConfig.for_backend("auto", images.device)`.
        seed: Of the order of the images and the backgrounds.
        on_progress: Called with (iterations done, all iterations).

    Returns:
        At most `config.max_gaussians` Gaussians on the device of the images.

    Raises:
        ValueError: Shapes or ranges do not fit.
        InputError: Too few points to start from, values that are not finite, or nothing has a weight.
    """
    config = config or FitConfig.for_backend("auto", images.device)
    pixel_weights = torch.ones_like(images[:, 0]) if pixel_confidence is None else pixel_confidence
    image_weights = images.new_ones(len(images)) if image_confidence is None else image_confidence
    _check(images, cameras, pixel_weights, image_weights, depths)
    start = _start(_Views(images, cameras, pixel_weights), points, image_weights, depths, config)
    parameters = Parameters(start, config.rates, config.max_stretch)
    generator = torch.Generator().manual_seed(seed)
    fine = _shrunk(_Views(images, cameras, pixel_weights), config.max_pixels)
    coarse = _shrunk(fine, fine.cameras.width * fine.cameras.height // 4)
    queue: list[int] = []
    for iteration in range(config.iterations):
        progress = iteration / config.iterations
        queue = queue or torch.randperm(len(images), generator=generator).tolist()
        view = queue.pop()
        background = torch.rand(3, generator=generator).to(images)
        degree = min(config.sh_degree, int(progress / config.sh_warmup)) if config.sh_warmup > 0 else config.sh_degree
        views = coarse if progress < config.coarse_share else fine
        loss = _loss(parameters, views, view, background, degree, config)
        (image_weights[view] * loss).backward()
        parameters.step(config.final_rate**progress)
        if iteration == config.iterations // 2:
            parameters.prune(config.min_opacity)
        if on_progress:
            on_progress(iteration + 1, config.iterations)
    parameters.prune(config.min_opacity)
    return parameters.gaussians()


def _loss(
    parameters: Parameters, views: _Views, view: int, background: Tensor, sh_degree: int, config: FitConfig
) -> Tensor:
    """Eq. 10 without W_image, for one image in front of a random background, which makes gaps cost something."""
    means, quats, scales, opacities, sh = parameters.tensors()
    camera, target, weights = views.cameras[view], views.images[view], views.pixel_weights[view]
    renders, _, _ = rasterization(
        means, quats, scales, opacities, sh, camera.viewmats, camera.Ks, camera.width, camera.height,
        sh_degree=sh_degree, tile_size=config.tile_size, backgrounds=background[None],
        rasterize_mode="antialiased" if config.antialiased else "classic", backend=config.backend,
    )  # fmt: skip
    render = renders[0].permute(2, 0, 1)
    l1 = ((render - target).abs() * weights).mean()
    if config.ssim_weight == 0:
        return l1
    believed = torch.lerp(render.detach(), target, weights.expand_as(target))
    return (1 - config.ssim_weight) * l1 + config.ssim_weight * (1 - ssim(render, believed))


def _start(
    views: _Views, points: Tensor | ColoredCloud, image_weights: Tensor, depths: Tensor | None, config: FitConfig
) -> Gaussians:
    images, cameras = views.images, views.cameras
    if isinstance(points, Tensor):
        positions, colors = points, colors_of_points(points, images, cameras)
    else:
        positions, colors = points.points, points.colors
    if positions.ndim != 2 or positions.shape[1] != 3 or colors.shape != positions.shape:
        raise ValueError(f"expected points and colours [N, 3], got {list(positions.shape)}, {list(colors.shape)}")
    if not bool(torch.isfinite(positions).all() and torch.isfinite(colors).all()):
        raise InputError("the point cloud has values that are NaN or infinite")
    positions, colors = positions.to(images), colors.to(images)
    if config.fill_holes:
        usable = views.pixel_weights * image_weights[:, None, None] > 0
        positions, colors = complete_cloud(positions, colors, images, cameras, depths, usable, image_weights)
    if len(positions) < 4:
        raise InputError(
            f"only {len(positions)} points to start the Gaussians from: the views agree on nothing; "
            "check the depths and cameras, or lower the number of views that must agree"
        )
    spacings = sampling_distances(positions, cameras)
    positions, colors = downsample_points(positions, colors, config.max_gaussians, spacings)
    return initial_gaussians(positions, colors, config.sh_degree)


def colors_of_points(points: Tensor, images: Tensor, cameras: Cameras) -> Tensor:
    """Mean colour of the nearest pixels under each point over the views that have it in the picture [N, 3].

    Occlusion is ignored; points that no view has are grey.
    """
    total, count = points.new_zeros(len(points), 3), points.new_zeros(len(points), 1)
    for i in range(len(cameras)):
        pixels, depths = cameras[i].project(points)
        columns, rows = torch.floor(pixels[0]).long().unbind(1)
        inside = (depths[0] > 0) & (columns >= 0) & (columns < cameras.width) & (rows >= 0) & (rows < cameras.height)
        total[inside] += images[i][:, rows[inside], columns[inside]].T
        count[inside] += 1
    return torch.where(count > 0, total / count.clamp_min(1), torch.full_like(total, 0.5))


def _shrunk(views: _Views, max_pixels: int) -> _Views:
    """The views at no more than so many pixels (by area, aspect kept), but not so small that SSIM cannot work."""
    height, width = views.images.shape[-2:]
    factor = (max_pixels / (height * width)) ** 0.5
    size = max(round(height * factor), _SMALLEST), max(round(width * factor), _SMALLEST)
    if factor >= 1 or size[0] >= height or size[1] >= width:
        return views
    return _Views(
        interpolate(views.images, size, mode="area"),
        views.cameras.resized(width=size[1], height=size[0]),
        interpolate(views.pixel_weights[:, None], size, mode="area")[:, 0],
    )


def _check(
    images: Tensor, cameras: Cameras, pixel_weights: Tensor, image_weights: Tensor, depths: Tensor | None
) -> None:
    m = len(images)
    size = (cameras.height, cameras.width)
    if m == 0 or tuple(images.shape) != (len(cameras), 3, *size):
        raise ValueError(f"expected images [{len(cameras)}, 3, {size[0]}, {size[1]}], got {list(images.shape)}")
    if min(size) < _SMALLEST:
        raise ValueError(f"images must be at least {_SMALLEST}x{_SMALLEST} pixels, got {size[1]}x{size[0]}")
    for name, value, shape in [
        ("pixel_confidence", pixel_weights, (m, *size)),
        ("image_confidence", image_weights, (m,)),
        ("depths", depths, (m, *size)),
    ]:
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
    for name, value in [("images", images), ("pixel_confidence", pixel_weights), ("image_confidence", image_weights)]:
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} has values that are NaN or infinite")
        if bool((value < 0).any()):
            raise ValueError(f"{name} must not be negative, got a minimum of {float(value.min()):.3g}")
    if bool((pixel_weights > 1).any()):
        raise ValueError(f"pixel_confidence must be at most 1, got {float(pixel_weights.max()):.3g}")
    if float(pixel_weights.amax() * image_weights.amax()) == 0:
        raise InputError("every confidence is 0: there is nothing to fit to")
