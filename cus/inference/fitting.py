"""The Gaussian scene of a run: what supervises the fit, and the fit itself."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.closeup import CloseUp
from cus.conditioning import FusedCloud
from cus.inference.folder import State
from cus.inference.progress import OnProgress
from cus.inference.recorded import state_of
from cus.inference.settings import in_range
from cus.splats import FitConfig, FitRecord, Gaussians, Views, fit_views, image_confidence, render

# What no other view confirms still counts a little: 0 means to the fit that there is no picture.
LEAST_CONFIDENCE = 0.01


@dataclass(frozen=True)
class FitOptions:
    """How a user wants a Gaussian scene fitted; None takes the backend's default.

    Attributes:
        iterations: steps.
        strategy: "fixed", "default" or "mcmc".
        max_gaussians: the most there may be.
        sh_degree: of the colours, 0 to 3.
        exposure: whether each frame gets a colour transform of its own.
        depth_weight: of depth supervision.
        refine_cameras: whether cameras are moved.
        antialiased: whether opacities are compensated for the size of a pixel.
        size: longest side of the images in pixels.
        crops: of each photograph at its own resolution, a round of all images; 0: photographs at `size` alone.
        image_confidence: whether frames far from the photographs count less (Table IV).
        pixel_confidence: whether pixels that few views confirm count less (Table IV).
        seed: of every random draw.
    """

    iterations: int | None = None
    strategy: str | None = None
    max_gaussians: int | None = None
    sh_degree: int | None = None
    exposure: bool | None = None
    depth_weight: float | None = None
    refine_cameras: bool | None = None
    antialiased: bool | None = None
    size: int | None = None
    crops: int | None = None
    image_confidence: bool = True
    pixel_confidence: bool = True
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be done, before anything slow starts. Raises InputError."""
        for option, value, low, high in (
            ("--iterations", self.iterations, 1, 1_000_000),
            ("--max-gaussians", self.max_gaussians, 4, 50_000_000),
            ("--sh-degree", self.sh_degree, 0, 3),
            ("--depth-weight", self.depth_weight, 0, 1000),
            ("--size", self.size, 32, 8192),
            ("--crops", self.crops, 0, 100),
            ("--seed", self.seed, 0, 2**63 - 1),
        ):
            in_range(option, value, low, high)

    def config(self, device: torch.device, width: int, height: int) -> FitConfig:
        """The fit's settings for images of width x height pixels. Raises InputError for what cannot be."""
        config = FitConfig.for_backend(device=device)
        known = {field.name for field in fields(FitConfig)}
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name in known}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.size is not None:
            # Pixels of the shrunk image; what is smaller stays as it is.
            changes["max_pixels"] = round(self.size**2 * min(width, height) / max(width, height))
        config = replace(config, **changes)
        config.check()
        return config


def supervision(
    made: CloseUp,
    cloud: FusedCloud,
    options: FitOptions,
    photographs: Sequence[Tensor] | None = None,
    valid: Tensor | None = None,
) -> Views:
    """Frames, then photographs, with the confidences of Eqs. 9 and 10; the photographs have full weight.

    Args:
        made: the frames, and what they were made from.
        cloud: of both.
        options: how to fit.
        photographs: at their own resolution, V of [3, h, w] uint8 (`stages.photographs`); None: only as the scene
            estimate has them.
        valid: [V, H', W'] bool, where the photographs have pixels that count, at the scene's size; None: everywhere.
    """
    images, depths, cameras = made.with_references()
    T = len(made.frames)
    pixel = cloud.pixel_confidence.float().clone() if options.pixel_confidence else torch.ones_like(depths)
    pixel[:T].clamp_(min=LEAST_CONFIDENCE)
    # A photograph is evidence wherever it has a pixel that counts, consistent with others or not.
    pixel[T:] = _photographed(valid, images[T:]).to(pixel)
    image = torch.ones(len(cameras), device=pixel.device)
    if options.image_confidence:
        image[:T] = image_confidence(cameras[:T], cameras[T:])
    references = torch.arange(len(cameras), device=pixel.device) >= T
    larger = () if photographs is None else (*[None] * T, *photographs)
    return Views(images, cameras, pixel, image, depths, references, larger)


def _photographed(valid: Tensor | None, images: Tensor) -> Tensor:
    """[V, H, W] bool: pixels of the photographs [V, 3, H, W], at the frames' size, that wholly count."""
    if valid is None:
        return torch.ones_like(images[:, 0], dtype=torch.bool)
    shares = F.interpolate(valid.to(images)[:, None], images.shape[-2:], mode="area")[:, 0]
    return shares > 0.999


@dataclass(frozen=True)
class Splat:
    """A fitted Gaussian scene.

    Attributes:
        gaussians: the scene.
        renders: [T, 3, H, W] in [0, 1], along the path of the frames.
        viewmats: [T + V, 4, 4] of frames and photographs, where the fit has moved them.
        notes: what the user should know about the fit.
    """

    gaussians: Gaussians
    renders: Tensor
    viewmats: Tensor | None = None
    notes: tuple[str, ...] = ()

    def state(self) -> State:
        """The scene, to be recorded."""
        tensors = state_of(self.gaussians).tensors | {"renders": self.renders}
        if self.viewmats is not None:
            tensors["refined_viewmats"] = self.viewmats
        return State(tensors, self.notes)

    @staticmethod
    def of(state: State) -> "Splat":
        """The scene that `state` recorded."""
        tensors = dict(state.tensors)
        renders, viewmats = tensors.pop("renders"), tensors.pop("refined_viewmats", None)
        return Splat(Gaussians(**tensors), renders, viewmats, state.notes)


def fit(
    made: CloseUp,
    cloud: FusedCloud,
    options: FitOptions,
    on_progress: OnProgress,
    checkpoint: Path | None = None,
    photographs: Sequence[Tensor] | None = None,
    valid: Tensor | None = None,
) -> Splat:
    """The Gaussian scene (Eqs. 8 to 10), its renders along the path, and all cameras where they were moved.

    `photographs` and `valid` are those of `supervision`.

    With a checkpoint, a fit that was cut off goes on from it, or starts anew with a note where it is damaged; the
    caller removes the file.
    """
    views = supervision(made, cloud, options, photographs, valid)
    config = options.config(views.images.device, views.cameras.width, views.cameras.height)
    anew: list[str] = []
    record = FitRecord(
        on_status=lambda now: on_progress(now.iteration, now.iterations, str(now)),
        checkpoint=checkpoint,
        on_unusable=lambda reason: anew.append(f"Gaussian scene: {reason}, so the fit started anew"),
    )
    found = fit_views(views, cloud, config, options.seed, record)
    T = len(made.frames)
    renders = render(found.gaussians, found.cameras[:T], antialiased=config.antialiased)
    status = found.status
    match = f"their renders match what they were fitted to at {status.psnr:.1f} dB PSNR"
    notes = (f"Gaussian scene: {status.gaussians:,} Gaussians; {match}", *anew)
    return Splat(found.gaussians, renders, found.cameras.viewmats if config.refine_cameras else None, notes)
