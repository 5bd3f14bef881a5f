"""Super-resolution of a Gaussian scene by Iterative 3D Synchronisation (I3DS).

Lee et al., "DiSR-NeRF" (arXiv 2404.00874), and arXiv 2410.18137, which replaces its gradient by variational score
distillation. A round enlarges every photograph on its own, from what the scene shows at its camera, and then fits the
scene to all of them, which keeps only what they have in common:

    photographs ─► enlarged ─► distilled ─► back-projected ─► fit ─► scene
                      ▲         (prior)     (low resolution)           │
                      └──────────────── rendered ◄─────────────────────┘   next round
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.conditioning import Conditioning, agree, fused_warp
from cus.errors import InputError
from cus.refinement.distillation import DistillOptions, distill
from cus.refinement.priors import Prior, Shown
from cus.refinement.pseudo_labels import PseudoLabels
from cus.refinement.sampling_rate import resolved, sampling_rates
from cus.scene import SceneEstimate
from cus.splats import FitConfig, FitRecord, Gaussians, fit_views, render
from cus.splats.fit_views import Views

# Rounds of back-projection; each leaves about a third of the error. The last one leaves none.
PROJECTIONS = 8


@dataclass(frozen=True)
class SuperResolution:
    """Options of super-resolution.

    Attributes:
        factor: enlargement of the photographs.
        rounds: number of rounds of enlargement and fit.
        iterations: steps of each fit.
        projected: whether enlarged photographs, shrunk again, must equal the photographs.
        labels: whether the enlarged photographs, warped into virtual close-ups, supervise the fit, too.
        selective: whether only what no photograph resolves is enlarged; elsewhere the photograph that does supervises.
        distillation: options of the distillation.
    """

    factor: int = 4
    rounds: int = 2
    iterations: int = 500
    projected: bool = True
    labels: bool = False
    selective: bool = False
    distillation: DistillOptions = field(default_factory=DistillOptions)

    def check(self) -> None:
        """Refuse invalid options. Raises InputError."""
        for name, least in (("factor", 2), ("rounds", 1), ("iterations", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)}")
        self.distillation.check()


class Keeper(Protocol):
    """Returns `make()`, or an earlier result of the same name: tensors by name."""

    def __call__(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]: ...  # noqa: D102


def made_anew(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """A `Keeper` that keeps nothing."""
    return make()


@dataclass(frozen=True)
class SuperResolved:
    """Result of super-resolution.

    Attributes:
        gaussians: the scene.
        pictures: V enlarged photographs of the last round, [3, H, W] uint8.
        selected: fraction of the enlarged photographs' pixels that was enlarged; 1 unless `selective`.
    """

    gaussians: Gaussians
    pictures: list[Tensor]
    selected: float


@dataclass(frozen=True)
class Call:
    """How a super-resolution runs, without effect on its result.

    Attributes:
        on_upscale: called with (round, samples moved, in all) during distillation; rounds count from 0.
        on_fit: called with (round, FitRecord) to prepare the record of a round's fit.
        keep: keeps finished parts of rounds.
    """

    on_upscale: Callable[[int, int, int], None] | None = None
    record: Callable[[int], FitRecord | None] = lambda _: None
    keep: Keeper = made_anew


def super_resolve(
    scene: SceneEstimate,
    views: Views,
    gaussians: Gaussians,
    config: FitConfig,
    options: SuperResolution,
    prior: Prior | None = None,
    seed: int = 0,
    call: Call | None = None,
) -> SuperResolved:
    """Enlarge the photographs and the scene in turns.

    Args:
        scene: V photographs with cameras and depths.
        views: the same photographs as supervision of the fit.
        gaussians: scene fitted to them.
        config: settings of each fit.
        options: options of super-resolution.
        prior: diffusion model; None: back-projection only.
        seed: seed of all noise and of the fits.
        call: progress, checkpoints and resume.

    Raises:
        InputError: invalid options.
    """
    options.check()
    call = call or Call()
    views, selected = _selected(scene, views, options)
    conditioning = None if prior is None else conditioning_of(scene, options.factor)
    # A fit that starts from a fitted scene.
    config = replace(config, iterations=options.iterations, crops=max(1, config.crops), coarse_share=0.0, sh_warmup=0.0)
    pictures: list[Tensor] = []
    for turn in range(options.rounds):
        start = gaussians if turn else None
        count = None if call.on_upscale is None else partial(call.on_upscale, turn)
        enlarge = partial(enlarged, scene, start, options, prior, conditioning, seed + turn, config.antialiased, count)
        kept = call.keep(f"enlarged{turn}", lambda enlarge=enlarge: _as_bytes(enlarge()))
        pictures = [kept[f"picture{index}"] for index in range(len(scene))]
        seen, begun = replace(views, photographs=tuple(pictures)), gaussians.shortened()
        source = PseudoLabels.beside(scene, pictures, seen, config) if options.labels else None
        fit = partial(fit_views, seen, begun, config, seed + turn, call.record(turn), source)
        tensors = call.keep(f"scene{turn}", lambda fit=fit: _tensors_of(fit().gaussians))
        gaussians = Gaussians(**{name: value.to(gaussians.means.device) for name, value in tensors.items()})
    return SuperResolved(gaussians, pictures, selected)


def _as_bytes(images: list[Tensor]) -> dict[str, Tensor]:
    return {f"picture{index}": (255 * image).round().byte().cpu() for index, image in enumerate(images)}


def _tensors_of(gaussians: Gaussians) -> dict[str, Tensor]:
    tensors = {item.name: getattr(gaussians, item.name) for item in fields(gaussians)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@torch.no_grad()
def enlarged(
    scene: SceneEstimate,
    gaussians: Gaussians | None,
    options: SuperResolution,
    prior: Prior | None,
    conditioning: Conditioning | None,
    seed: int,
    antialiased: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """One round's enlarged photographs: V pictures [3, H, W] in [0, 1].

    Args:
        scene: photographs.
        gaussians: scene whose renders they start from; None: the photographs, enlarged bicubically.
        options: options of super-resolution.
        prior: diffusion model, or None.
        conditioning: what the prior is shown of each view.
        seed: seed of all noise.
        antialiased: how the scene was fitted.
        on_progress: called with (samples moved, in all).
    """
    photographs = list(scene.images)
    if gaussians is None:
        images = [upsampled(photograph, options.factor) for photograph in photographs]
    else:
        width, height = (options.factor * side for side in (scene.cameras.width, scene.cameras.height))
        images = list(render(gaussians, scene.cameras.resized(width, height), antialiased=antialiased))
    if options.projected:
        images = [back_projected(image, low) for image, low in zip(images, photographs, strict=True)]
    if prior is not None and conditioning is not None:
        if gaussians is not None:
            # What the scene shows holds what all photographs had in common after the round before.
            conditioning = replace(conditioning, images=torch.stack(images).clamp(0, 1))
        judges = prior.views([shown_view(scene, conditioning, index) for index in range(len(scene))])
        samples = [judge.encode(image) for judge, image in zip(judges, images, strict=True)]
        generator = torch.Generator().manual_seed(seed)
        samples = distill(samples, judges, prior.schedule, options.distillation, generator, on_progress)
        images = [judge.decode(sample) for judge, sample in zip(judges, samples, strict=True)]
        if options.projected:
            images = [back_projected(image, low) for image, low in zip(images, photographs, strict=True)]
    return [image.clamp(0, 1) for image in images]


def upsampled(photograph: Tensor, factor: int) -> Tensor:
    """[3, h, w] -> [3, factor h, factor w], bicubic, in [0, 1]."""
    return F.interpolate(photograph[None], scale_factor=float(factor), mode="bicubic")[0].clamp(0, 1)


def back_projected(image: Tensor, photograph: Tensor) -> Tensor:
    """The picture [3, H, W], changed so that its means over the photograph's pixels [3, h, w] are these.

    Iterative back-projection (Irani and Peleg 1991): the error is enlarged bicubically and added. What little is left
    is spread evenly over each pixel.
    """
    size = image.shape[-2:]
    for _ in range(PROJECTIONS):
        error = photograph - F.interpolate(image[None], photograph.shape[-2:], mode="area")[0]
        image = (image + F.interpolate(error[None], size, mode="bicubic")[0]).clamp(0, 1)
    error = photograph - F.interpolate(image[None], photograph.shape[-2:], mode="area")[0]
    return image + F.interpolate(error[None], size, mode="nearest")[0]


def _selected(scene: SceneEstimate, views: Views, options: SuperResolution) -> tuple[Views, float]:
    """Views whose enlarged photographs supervise only what none of them resolves, and the fraction of that."""
    if not options.selective:
        return views, 1.0
    sharp = resolved(sampling_rates(scene, scene.cameras), options.factor)
    weights = torch.where(sharp.to(views.pixel_weights.device), 0.0, views.pixel_weights)
    return replace(views, photograph_weights=weights), float((~sharp).float().mean())


def conditioning_of(scene: SceneEstimate, factor: int) -> Conditioning:
    """The photographs' fused warp into each view at the enlarged size."""
    width, height = factor * scene.cameras.width, factor * scene.cameras.height
    return fused_warp(agree(scene), scene.cameras.resized(width, height), agreed=True, with_layers=True)


def shown_view(scene: SceneEstimate, conditioning: Conditioning, index: int) -> Shown:
    """What a prior is shown of one view: its part of the conditioning, and its photograph."""
    part = slice(index, index + 1)
    layers, sharp = conditioning.layers, conditioning.resolved
    one = Conditioning(
        conditioning.images[part],
        conditioning.masks[part],
        conditioning.depths[part],
        None if layers is None else type(layers)(layers.images[part], layers.masks[part], layers.gate[part]),
        None if sharp is None else sharp[part],
    )
    return Shown(scene.images[index], one, scene.images[part])
