"""User options of a Gaussian fit."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from cus.choices import StrategyName
from cus.errors import InputError
from cus.limits import check_options, limited
from cus.options import Flag, option

if TYPE_CHECKING:
    import torch

    from cus.splats import FitConfig


@dataclass(frozen=True)
class FitOptions:
    """User options of a Gaussian fit; None takes the backend's default.

    Attributes:
        iterations: optimisation steps (default: 1000; torch: 300)
        strategy: density control: fixed keeps the cloud's Gaussians, default clones and splits as 3DGS does, mcmc
            relocates as 3DGS-MCMC does (default: fixed for runs, mcmc for photographs)
        max_gaussians: maximum number of Gaussians (default: by backend)
        sh_degree: degree of the spherical harmonics of the colours, 0 to 3 (default: by backend)
        exposure: learn a colour transform per image, fixed for the photographs (default: off)
        depth_weight: weight of the relative error in disparity (default: 0)
        refine_cameras: optimise all cameras slightly except the first photograph's; they are saved in
            refined_cameras.json (default: off)
        antialiased: compensate opacities for the pixel size, so that renders from closer up agree (default: on)
        size: longest side of the images in pixels (default: that of a run's frames, up to what the backend can
            afford; photographs: 512)
        crops: full-resolution crops of each photograph for every time that an image is shown whole; 0: photographs
            are only fitted at the size of the images (default: 1)
        pseudo_labels: let photographs warped into virtual close-ups supervise the fit, too: no needles from closer
            up
        super_resolve: enlarge the photographs by this whole factor, 2 to 16, with mini, and fit the scene to them, too;
            cus-refine --method vsd has more settings. For posed photographs
        image_confidence: frames far from the photographs count less (Table IV); for runs of cus-infer
        pixel_confidence: pixels that few views confirm count less (Table IV); for runs of cus-infer
        seed: seed of every random draw
    """

    iterations: Annotated[int | None, option("N")] = limited(None, low=1, high=1_000_000)
    strategy: Annotated[StrategyName | None, option()] = None
    max_gaussians: Annotated[int | None, option("N")] = limited(None, low=4, high=50_000_000)
    sh_degree: Annotated[int | None, option("D")] = limited(None, low=0, high=3)
    exposure: Annotated[bool | None, option()] = None
    depth_weight: Annotated[float | None, option("W")] = limited(None, low=0, high=1000)
    refine_cameras: Annotated[bool | None, option()] = None
    antialiased: Annotated[bool | None, option()] = None
    size: Annotated[int | None, option("PIXELS")] = limited(None, low=32, high=8192)
    crops: Annotated[int | None, option("N")] = limited(None, low=0, high=100)
    pseudo_labels: Flag = False
    super_resolve: Annotated[int | None, option("FACTOR")] = limited(None, low=2, high=16)
    image_confidence: Annotated[bool, option()] = True
    pixel_confidence: Annotated[bool, option()] = True
    seed: Annotated[int, option("N")] = limited(0, low=0, high=2**63 - 1)

    def check(self) -> None:
        """Refuse invalid options before anything slow starts. Raises InputError."""
        check_options(self)

    def config(self, device: "torch.device", width: int, height: int) -> "FitConfig":
        """The fit's settings for images of width x height pixels. Raises InputError for invalid ones."""
        from cus.splats import FitConfig

        for name in ("exposure", "refine_cameras"):
            if self.pseudo_labels and getattr(self, name):
                raise InputError(
                    f"--pseudo-labels warps photographs with the cameras and colours as they are given: leave "
                    f"--{name.replace('_', '-')} out, or fit without pseudo-labels"
                )

        config = FitConfig.for_backend(device=device)
        known = {field.name for field in fields(FitConfig)}
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name in known}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.size is not None:
            # In pixels of the shrunk image; smaller images are not enlarged.
            changes["max_pixels"] = round(self.size**2 * min(width, height) / max(width, height))
        config = replace(config, **changes)
        config.check()
        return config
