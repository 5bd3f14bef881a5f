"""Confidence-weighted fit of 3D Gaussians to generated frames and references (Section III-E, Eqs. 8 to 10)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.errors import InputError
from cus.splats.crops import ViewSource
from cus.splats.fit_config import FitConfig
from cus.splats.fit_start import ColoredCloud, Fit, checked_cloud, fit_fingerprints, read_checkpoint, write_checkpoint
from cus.splats.fit_views import Views, default_references
from cus.splats.gaussians import Gaussians
from cus.splats.optimization import Optimization
from cus.splats.parameters import Parameters


@dataclass(frozen=True)
class FitStatus:
    """Progress of a fit.

    Attributes:
        iteration: Steps done.
        iterations: Number of steps in all.
        psnr: Mean over the images in dB, each as of its last turn (see `Optimization.psnr`).
        gaussians: Current number of Gaussians.
    """

    iteration: int
    iterations: int
    psnr: float
    gaussians: int

    def __str__(self) -> str:
        return f"{self.psnr:.1f} dB, {self.gaussians:,} Gaussians"


@dataclass(frozen=True)
class FitRecord:
    """Callbacks and checkpoint of a fit.

    Attributes:
        on_progress: Called after every step with (iterations done, all iterations).
        on_status: Called after every step with the status.
        checkpoint: File to resume from, if it exists, and to write to; None writes nothing.
        every: Number of steps between checkpoints; another one follows the last step.
        on_unusable: Called with the reason if the checkpoint is damaged or belongs to another fit, which then starts
            anew; None makes that an error.
    """

    on_progress: Callable[[int, int], None] | None = None
    on_status: Callable[[FitStatus], None] | None = None
    checkpoint: Path | None = None
    every: int = 100
    on_unusable: Callable[[str], None] | None = None


@dataclass(frozen=True)
class FitResult:
    """Result of a fit.

    Attributes:
        gaussians: The scene.
        cameras: As given, or refined (`FitConfig.refine_cameras`).
        exposures: Colour transforms [M, 3, 4] of the images (`FitConfig.exposure`), identities where off.
        status: Status at the end.
    """

    gaussians: Gaussians
    cameras: Cameras
    exposures: Tensor
    status: FitStatus


def fit_gaussians(
    images: Tensor,
    cameras: Cameras,
    points: Tensor | ColoredCloud,
    pixel_confidence: Tensor | None = None,
    image_confidence: Tensor | None = None,
    *,
    depths: Tensor | None = None,
    references: Tensor | None = None,
    photographs: Sequence[Tensor | None] = (),
    config: FitConfig | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    on_status: Callable[[FitStatus], None] | None = None,
    checkpoint: Path | str | None = None,
    every: int = 100,
) -> Gaussians:
    """Fit 3D Gaussians to images under known cameras.

    The loss of an image is W_image * ((1 - lambda) mean(W_pixel |render - image|) + lambda (1 - SSIM)) (Eq. 10, with L1
    averaged over pixels and channels). Unlike in the paper, the SSIM term respects W_pixel too: it compares the render
    with W_pixel image + (1 - W_pixel) render, so a doubtful pixel has little influence and one of confidence 0 none at
    all. On frames with inconsistent patches this gained 0.9 dB in close-up views.

    A pixel with confidence exactly 0 (no picture there) starts no point either; give doubtful pixels that no other view
    confirms a small confidence such as 0.01, so that they fill their holes without disturbing anything else.

    On a CPU the same seed gives the same result, even if the fit is interrupted and resumed from a checkpoint.

    Args:
        images: [M, 3, H, W] in [0, 1], H and W at least 16.
        cameras: M views of this size.
        points: A cloud with `points` and `colors`, or points [N, 3], which then take their colours from the images.
        pixel_confidence: W_pixel [M, H, W] in [0, 1] (Eq. 9); default 1.
        image_confidence: W_image [M], >= 0; default 1.
        depths: z-depths of the images [M, H, W], 0 = none: positions for points in pixels that the cloud leaves empty,
            and the target of `FitConfig.depth_weight`.
        references: [M] bool, photographs: their exposures are fixed, and so is the first one's camera. Default: the
            images of confidence 1 if others have less, else the first image.
        photographs: M higher-resolution versions of the images, [3, h, w] uint8, or None for an image without one;
            empty for none at all. Crops of them take turns with the images (`Crops`), so the scene learns more detail.
        config: Settings of the fit; default: `FitConfig.for_backend("auto", images.device)`.
        seed: Seed of the order of the images, the backgrounds and the strategy.
        on_progress: Called with (iterations done, all iterations).
        on_status: Called after every step with PSNR and number of Gaussians.
        checkpoint: File that the fit resumes from, if it exists, and writes every `every` steps. The caller removes it.
        every: Number of steps between checkpoints.

    Returns:
        At most `config.max_gaussians` Gaussians on the device of the images.

    Raises:
        ValueError: Inconsistent shapes, or values out of range.
        InputError: Too few points to start from, values that are not finite, no positive weight, invalid settings, or a
            checkpoint that cannot be written or belongs to another fit.
    """
    config = config or FitConfig.for_backend("auto", images.device)
    image_weights = images.new_ones(len(images)) if image_confidence is None else image_confidence
    views = Views(
        images,
        cameras,
        torch.ones_like(images[:, 0]) if pixel_confidence is None else pixel_confidence,
        image_weights,
        depths,
        default_references(image_weights) if references is None else references,
        tuple(photographs),
    )
    record = FitRecord(on_progress, on_status, None if checkpoint is None else Path(checkpoint), every)
    return fit_views(views, points, config, seed, record).gaussians


def fit_views(
    views: Views,
    points: Tensor | ColoredCloud | Gaussians,
    config: FitConfig,
    seed: int = 0,
    record: FitRecord | None = None,
    source: ViewSource | None = None,
) -> FitResult:
    """As `fit_gaussians`, which describes inputs and errors, but also returns the learned cameras and exposures.

    Args:
        views: The images with their cameras and weights.
        points: A cloud, or Gaussians to continue from unchanged.
        config: Settings of the fit.
        seed: Seed of every random draw.
        record: Callbacks and checkpoint.
        source: Source of extra views that take turns with the images; None: no such views.
    """
    record = record or FitRecord()
    config.check()
    views.check()
    start = points if isinstance(points, Gaussians) else checked_cloud(points, views)
    optimization, save = _begin(Fit(views, start, config, seed, source), record)
    while optimization.iteration < config.iterations:
        optimization.advance()
        done = optimization.iteration
        if done % record.every == 0 or done == config.iterations:
            save()
        if record.on_progress:
            record.on_progress(done, config.iterations)
        if record.on_status:
            record.on_status(_status(optimization))
    return FitResult(
        optimization.parameters.gaussians(),
        optimization.refinement.refined(views.cameras),
        optimization.exposure.transforms(),
        _status(optimization),
    )


def _begin(fit: Fit, record: FitRecord) -> tuple[Optimization, Callable[[], None]]:
    """The fit at its start or at its checkpoint, and a function that records it."""
    path, config = record.checkpoint, fit.config
    fingerprints = {} if path is None else fit_fingerprints(fit)
    try:
        saved = None if path is None else read_checkpoint(path, fingerprints, fit.views.images.device)
    except InputError as error:
        if record.on_unusable is None:
            raise
        record.on_unusable(str(error).partition(";")[0])
        saved = None
    if saved is None:
        parameters = Parameters(fit.starting_gaussians(), config.rates, config.max_stretch)
    else:
        start = "parameters."
        state = {k.removeprefix(start): v for k, v in saved.items() if k.startswith(start)}
        parameters = Parameters.restored(state, config.rates, config.max_stretch)
    optimization = Optimization(fit.views, parameters, config, fit.seed, fit.source)
    if saved is not None:
        optimization.restore(saved)

    def save() -> None:
        if path is not None:
            write_checkpoint(path, optimization.state(), fingerprints)

    return optimization, save


def _status(optimization: Optimization) -> FitStatus:
    iterations = optimization.config.iterations
    return FitStatus(optimization.iteration, iterations, optimization.psnr, len(optimization.parameters))
