"""All settings of a fit in one place."""

from dataclasses import dataclass, field
from typing import get_args

import torch

from cus.choices import StrategyName
from cus.errors import InputError
from cus.splats.parameters import LearningRates
from cus.splats.rasterization import Backend, resolve_backend
from cus.splats.strategies import DefaultStrategy, FixedStrategy, MCMCStrategy, Strategy

# Fraction of the cap at which a strategy that adds Gaussians starts.
_START_SHARE = 0.6


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit.

    Attributes:
        iterations: Number of steps, each on one image. The paper takes 1000.
        max_gaussians: Maximum number of Gaussians.
        max_pixels: Larger images are shrunk to this many pixels for the fit; the number of Gaussians does not change.
        ssim_weight: Weight of the SSIM term, lambda of Eq. 8.
        sh_degree: Degree of the spherical harmonics, 0 to 3. 0 suits a zoom, where all rays to a point are alike.
        sh_warmup: Fraction of the iterations after which each next degree is added (1/3: degree 3 in the last third).
        coarse_share: Fraction of the iterations, from the start, on images of half size. This saves the cost per
            pixel, not the cost per Gaussian.
        crops: Number of crops of each higher-resolution photograph per round of all images (`Crops`). 0 = none.
        final_rate: All learning rates decay exponentially to this fraction of their start.
        max_stretch: Half axes stay within this factor of their initial lengths.
        min_opacity: Fainter Gaussians are pruned.
        fill_holes: Add points where the cloud leaves pixels empty (`complete_cloud`).
        antialiased: Fit with Mip-Splatting's opacity compensation, so that near and far views agree.
        tile_size: Side of the rasterizer's tiles in pixels; 8 is fastest for small Gaussians in torch.
        rates: Learning rates of the Gaussians.
        backend: Backend of `rasterization`.
        strategy: Density control: "fixed", "default" (3DGS), "mcmc" (3DGS-MCMC), or a strategy with its own settings.
        start_share: The cloud is thinned to this fraction of `max_gaussians`; None: 1 for "fixed", else 0.6, which
            leaves a strategy room to add.
        exposure: Learn a colour transform per image (`Exposure`).
        exposure_rate: Initial Adam step size of the colour transforms.
        exposure_weight: Weight of their regularisation towards the identity.
        depth_weight: Weight of the relative disparity error where depths are known (`disparity_error`).
        refine_cameras: Optimise the cameras, too (`CameraRefinement`).
        camera_rate: Initial Adam step size of the cameras, in radians and in mean depths of the scene.
    """

    iterations: int = 300
    max_gaussians: int = 60_000
    max_pixels: int = 384 * 216
    ssim_weight: float = 0.2
    sh_degree: int = 0
    sh_warmup: float = 0.3
    coarse_share: float = 0.2
    crops: int = 1
    final_rate: float = 0.1
    max_stretch: float = 2.0
    min_opacity: float = 0.02
    fill_holes: bool = True
    antialiased: bool = True
    tile_size: int = 8
    rates: LearningRates = field(default_factory=LearningRates)
    backend: Backend = "auto"
    strategy: StrategyName | Strategy = "fixed"
    start_share: float | None = None
    exposure: bool = False
    exposure_rate: float = 0.01
    exposure_weight: float = 0.02
    depth_weight: float = 0.0
    refine_cameras: bool = False
    camera_rate: float = 1e-3

    @staticmethod
    def for_backend(backend: Backend = "auto", device: torch.device | str = "cpu") -> "FitConfig":
        """Defaults that suit a backend's speed.

        torch is slow, so its fit is small: images of at most 384 x 216 pixels, 60 000 Gaussians, degree 0 and 300
        iterations (the paper: 1000), about a minute on two cores. The CPU kernels take the paper's 1000 iterations in
        half that
        time, with twice the Gaussians, about one per pixel of such an image: with fewer, the scene is worse than the
        frames in close-ups. gsplat on a GPU also takes full-size images.
        """
        resolved: str = resolve_backend(backend, torch.device(device))
        if resolved == "torch":
            return FitConfig(backend=backend)
        if resolved == "cpu":
            return FitConfig(iterations=1000, max_gaussians=120_000, tile_size=16, backend=backend)
        return FitConfig(
            iterations=1000,
            max_gaussians=500_000,
            max_pixels=1024 * 576,
            sh_degree=1,
            coarse_share=0.0,
            tile_size=16,
            backend=backend,
        )

    def check(self) -> None:
        """Raise InputError for invalid settings."""
        whole = [("iterations", self.iterations, 1), ("max_gaussians", self.max_gaussians, 4)]
        whole += [("max_pixels", self.max_pixels, 1), ("tile_size", self.tile_size, 1), ("crops", self.crops, 0)]
        for name, value, least in whole:
            if value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        if not 0 <= self.sh_degree <= 3:
            raise InputError(f"sh_degree must be 0 to 3, got {self.sh_degree}")
        if not 0 <= self.coarse_share <= 1:
            raise InputError(f"coarse_share must be 0 to 1, got {self.coarse_share}")
        for name in ("exposure_weight", "depth_weight", "camera_rate", "exposure_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.start_share is not None and not 0 < self.start_share <= 1:
            raise InputError(f"start_share must be above 0 and at most 1, got {self.start_share}")
        self.made_strategy()

    def made_strategy(self) -> Strategy:
        """The strategy object, made from its name if necessary. Raises InputError for an unknown name."""
        if not isinstance(self.strategy, str):
            return self.strategy
        if self.strategy == "fixed":
            return FixedStrategy(self.min_opacity)
        if self.strategy == "default":
            return DefaultStrategy(self.max_gaussians, self.min_opacity)
        if self.strategy == "mcmc":
            return MCMCStrategy(self.max_gaussians)
        raise InputError(f"unknown strategy {self.strategy!r}; expected {', '.join(get_args(StrategyName))}")

    @property
    def start_gaussians(self) -> int:
        """Number of Gaussians that the cloud is thinned to."""
        grows = not isinstance(self.made_strategy(), FixedStrategy)
        share = self.start_share if self.start_share is not None else (_START_SHARE if grows else 1.0)
        return max(4, round(share * self.max_gaussians))
