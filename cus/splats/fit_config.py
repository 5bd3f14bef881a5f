"""How a fit is done: every number of it in one place."""

from dataclasses import dataclass, field
from typing import get_args

import torch

from cus.choices import StrategyName
from cus.errors import InputError
from cus.splats.parameters import LearningRates
from cus.splats.rasterization import Backend, resolve_backend
from cus.splats.strategies import DefaultStrategy, FixedStrategy, MCMCStrategy, Strategy

# The share of the cap at which a strategy that adds Gaussians begins.
_START_SHARE = 0.6


@dataclass(frozen=True)
class FitConfig:
    """How to fit.

    Attributes:
        iterations: Steps of one image each. The paper takes 1000.
        max_gaussians: There are never more.
        max_pixels: Larger images are shrunk to this many pixels for the fit; the Gaussians do not depend on it.
        ssim_weight: lambda of Eq. 8.
        sh_degree: Of the harmonics, 0 to 3. 0 suits a zoom, where all rays to a point are alike.
        sh_warmup: Share of the iterations after which a degree more comes in (1/3: degree 3 in the last third at most).
        coarse_share: Share of the iterations, from the start, on images of half size. That saves what goes with the
            pixels, not what goes with the Gaussians.
        crops: Of each photograph that is given at more pixels, a round of all images; see `Crops`. 0 = none.
        final_rate: All learning rates fall exponentially to this share of their start.
        max_stretch: Half axes stay within this factor of their start.
        min_opacity: Fainter Gaussians are pruned.
        fill_holes: Add points where the cloud leaves pixels empty, see `complete_cloud`.
        antialiased: Fit with Mip-Splatting's opacity compensation, so that near and far views agree.
        tile_size: Of the rasterizer; 8 is fastest for small Gaussians in torch.
        rates: Learning rates of the Gaussians.
        backend: Of `rasterization`.
        strategy: Density control: "fixed", "default" (3DGS), "mcmc" (3DGS-MCMC), or a strategy with its own settings.
        start_share: The cloud is thinned to this share of `max_gaussians`; None: 1 for "fixed", else 0.6, which leaves
            a strategy room to add.
        exposure: Learn a colour transform an image, see `Exposure`.
        exposure_rate: Its Adam step size, at the start.
        exposure_weight: How much it is pulled to the identity.
        depth_weight: Of the relative error in disparity, where depths are known; see `disparity_error`.
        refine_cameras: Move the cameras, see `CameraRefinement`.
        camera_rate: Their Adam step size at the start, in radians and in mean depths of the scene.
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
        """Defaults that a backend can afford.

        torch is slow, so its fit is small: images of at most 384 x 216 pixels, 60 000 Gaussians, degree 0 and 300
        iterations (the paper: 1000), about a minute on two cores. The CPU kernels take the paper's 1000 iterations in
        half that time and twice the Gaussians, about as many as such an image has pixels: with fewer, the scene falls
        behind the frames in close-ups. gsplat on a GPU takes full size, too.
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
        """Refuse what cannot be done. Raises InputError."""
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
        """The strategy that a name stands for. Raises InputError for an unknown one."""
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
        """How many Gaussians the cloud is thinned to."""
        grows = not isinstance(self.made_strategy(), FixedStrategy)
        share = self.start_share if self.start_share is not None else (_START_SHARE if grows else 1.0)
        return max(4, round(share * self.max_gaussians))
