"""Pseudo ground truth: a scene of Gaussians fitted to all photographs, at more pixels than any frame shows (Fig. 7).

Fitted to photographs of the frame size, Gaussians become needles that only fit the training views. Full-resolution
crops of the photographs take turns with whole ones, so that close-ups are based on observed detail.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos
from cus.cameras.photos import large_pictures
from cus.conditioning.fusion import fused_photos
from cus.datasets.scene_clips.recipe import TruthRecipe
from cus.estimators import estimate_scene
from cus.splats import FitConfig, FitRecord, Gaussians, Views, fit_views, rasterization
from cus.splats.fit_start import ColoredCloud


@dataclass(frozen=True)
class Rendered:
    """Renders of a fit from N cameras.

    Attributes:
        images: [N, 3, H, W] in [0, 1], over black.
        alphas: [N, H, W] opacities in [0, 1].
        depths: [N, H, W] z-depths in scene units, 0 where the opacity is below one half.
    """

    images: Tensor
    alphas: Tensor
    depths: Tensor


def psnr(images: Tensor, targets: Tensor, mask: Tensor) -> float:
    """PSNR in dB of images [..., 3, H, W] in [0, 1] against targets, over mask [..., H, W]; infinite for equal ones."""
    errors = (images.clamp(0, 1) - targets).square().mean(dim=-3)[mask]
    return -10 * math.log10(float(errors.mean())) if len(errors) and float(errors.mean()) > 0 else math.inf


@dataclass(frozen=True)
class SceneTruth:
    """A fitted scene.

    Attributes:
        gaussians: the scene.
        antialiased: whether the fit used antialiased rendering, which renders use, too.
        held_out: PSNR in dB of renders of held-out photographs, by name.
    """

    gaussians: Gaussians
    antialiased: bool
    held_out: dict[str, float]

    @property
    def held_out_psnr(self) -> float:
        """Mean PSNR over the held-out photographs in dB."""
        return float(np.mean(list(self.held_out.values())))

    @torch.no_grad()
    def render(self, cameras: Cameras) -> Rendered:
        """Render pictures over black, one camera after the other."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        g = self.gaussians
        cameras = cameras.to(g.device)
        for index in range(len(cameras)):
            camera = cameras[index]
            renders, alphas, _ = rasterization(
                g.means, g.quats, g.scales, g.opacities, g.sh,
                camera.viewmats, camera.Ks, camera.width, camera.height,
                sh_degree=g.sh_degree, render_mode="RGB+ED",
                rasterize_mode="antialiased" if self.antialiased else "classic",
            )  # fmt: skip
            alpha = alphas[0, ..., 0]
            depth = torch.where(alpha > 0.5, renders[0, ..., 3], 0.0)
            found.append((renders[0, ..., :3].permute(2, 0, 1).clamp(0, 1).cpu(), alpha.cpu(), depth.cpu()))
        images, alphas, depths = (torch.stack(part) for part in zip(*found, strict=True))
        return Rendered(images, alphas, depths)


@dataclass(frozen=True)
class FitStart:
    """The inputs of a fit.

    Attributes:
        views: photographs that supervise the fit.
        cloud: point cloud of their estimated depths.
        held_out: photographs that score the fit.
    """

    views: Views
    cloud: ColoredCloud
    held_out: PosedPhotos


def fit_start(posed: PosedPhotos, recipe: TruthRecipe, device: torch.device) -> FitStart:
    """Read the photographs of a scene and estimate depths for the fit's starting cloud.

    Args:
        posed: three or more photographs, with cameras at their file sizes.
        recipe: settings of the fit.
        device: device of the fit.

    Raises:
        InputError: photographs that cannot be read, or no depth.
    """
    held_out = held_out_of(len(posed), recipe.hold_out)
    seen = posed.select([index for index in range(len(posed)) if index not in held_out])
    widths, heights = zip(*posed.sizes, strict=True)
    scale = min(1.0, recipe.size / max(*widths, *heights))
    photos, cameras = seen.read(round(max(widths) * scale), round(max(heights) * scale))
    own: tuple[Tensor, ...] = ()
    if recipe.crops:
        pictures = (seen.straight_picture(index).pixels for index in range(len(seen)))
        own = tuple(large_pictures(pictures, photos.scales, cameras.width, cameras.height, recipe.full_size))
    images, weights = photos.images.to(device), photos.valid.to(device).float()
    # The first photograph's exposure is the gauge.
    references = torch.arange(len(seen), device=device) == 0
    views = Views(images, cameras.to(device), weights, weights.new_ones(len(seen)), None, references, own)
    return FitStart(views, start_cloud(seen, recipe, device), posed.select(held_out))


def fit_truth(start: FitStart, recipe: TruthRecipe, seed: int = 0, record: FitRecord | None = None) -> SceneTruth:
    """Fit Gaussians to a scene and score them.

    Args:
        start: result of `fit_start` with the same recipe.
        recipe: settings of the fit.
        seed: seed of the fit.
        record: callbacks and checkpoint of the fit.

    Raises:
        InputError: the fit cannot start.
    """
    cameras = start.views.cameras
    config = fit_config(recipe, start.views.images.device, cameras.width * cameras.height)
    found = fit_views(start.views, start.cloud, config, seed, record)
    truth = SceneTruth(found.gaussians, config.antialiased, {})
    return replace(truth, held_out=_scores(truth, start.held_out, cameras.width, cameras.height))


def held_out_of(photographs: int, one_in: int) -> list[int]:
    """Evenly spaced photographs to hold out of a fit: at least one, never the first or last of three or more."""
    count = max(1, photographs // one_in)
    return [int((place + 0.5) * photographs / count) for place in range(count)]


def fit_config(recipe: TruthRecipe, device: torch.device, pixels: int) -> FitConfig:
    """The fit's settings for images of `pixels` pixels. Raises InputError for invalid ones."""
    config = replace(
        FitConfig.for_backend(device=device),
        iterations=recipe.iterations,
        max_gaussians=recipe.max_gaussians,
        max_pixels=pixels,
        sh_degree=recipe.sh_degree,
        crops=recipe.crops,
        exposure=recipe.exposure,
        strategy="mcmc",
    )
    config.check()
    return config


def start_cloud(posed: PosedPhotos, recipe: TruthRecipe, device: torch.device) -> ColoredCloud:
    """The point cloud of consistent estimated depths of some photographs. Raises InputError."""
    count = min(recipe.cloud_views, len(posed))
    chosen = posed.select(np.linspace(0, len(posed) - 1, count).round().astype(int).tolist())
    width, height = chosen.sizes[0]
    scale = min(1.0, recipe.cloud_size / max(width, height))
    photos, cameras = chosen.read(max(1, round(width * scale)), max(1, round(height * scale)))
    with torch.no_grad():
        estimate = estimate_scene(
            photos.images.to(device), cameras.to(device), recipe.estimator, valid=photos.valid.to(device)
        )
        return fused_photos(estimate)


def _scores(truth: SceneTruth, posed: PosedPhotos, width: int, height: int) -> dict[str, float]:
    """PSNR in dB of each photograph's render, over its valid pixels."""
    photos, cameras = posed.read(width, height)
    renders = truth.render(cameras).images
    pairs = zip(posed.names, renders, photos.images, photos.valid, strict=True)
    return {name: round(psnr(render, picture, valid), 3) for name, render, picture, valid in pairs}
