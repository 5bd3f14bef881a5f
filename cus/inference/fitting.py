"""The Gaussian scene of a run: the supervision of its fit, and the fit itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.closeup import CloseUp
from cus.conditioning import FusedCloud
from cus.inference.fit_options import FitOptions
from cus.inference.folder import State
from cus.inference.progress import OnProgress
from cus.inference.recorded import state_of
from cus.refinement.pseudo_labels import PseudoLabels
from cus.splats import FitRecord, Gaussians, Views, fit_views, image_confidence, render

# Pixels that no other view confirms still count a little: for the fit, 0 means that there is no picture.
LEAST_CONFIDENCE = 0.01
ALONE_BASELINE = 0.1  # in scene scales


def supervision(
    made: CloseUp,
    cloud: FusedCloud,
    options: FitOptions,
    photographs: Sequence[Tensor] | None = None,
    valid: Tensor | None = None,
) -> Views:
    """Frames, then photographs, with the confidences of Eqs. 9 and 10; the photographs have full weight.

    Args:
        made: frames with their inputs.
        cloud: point cloud of frames and photographs.
        options: options of the fit.
        photographs: V photographs at full resolution, [3, h, w] uint8 (`stages.photographs`); None: only at the scene
            estimate's size.
        valid: [V, H', W'] bool, valid pixels of the photographs at the scene's size; None: all.
    """
    images, depths, cameras = made.with_references()
    T = len(made.frames)
    pixel = cloud.pixel_confidence.float().clone() if options.pixel_confidence else torch.ones_like(depths)
    pixel[:T].clamp_(min=LEAST_CONFIDENCE)
    # A photograph is evidence at every valid pixel, whether or not it is consistent with others.
    pixel[T:] = _photographed(valid, images[T:]).to(pixel)
    image = torch.ones(len(cameras), device=pixel.device)
    if options.image_confidence:
        # A single photograph has no neighbour to give a baseline: photographers move by about a tenth of the distance.
        baseline = ALONE_BASELINE * made.scene.scale if len(cameras) == T + 1 else None
        image[:T] = image_confidence(cameras[:T], cameras[T:], baseline=baseline)
    references = torch.arange(len(cameras), device=pixel.device) >= T
    larger = () if photographs is None else (*[None] * T, *photographs)
    return Views(images, cameras, pixel, image, depths, references, larger)


def _photographed(valid: Tensor | None, images: Tensor) -> Tensor:
    """[V, H, W] bool: pixels of the photographs [V, 3, H, W], at the frames' size, that are entirely valid."""
    if valid is None:
        return torch.ones_like(images[:, 0], dtype=torch.bool)
    shares = F.interpolate(valid.to(images)[:, None], images.shape[-2:], mode="area")[:, 0]
    return shares > 0.999


@dataclass(frozen=True)
class Splat:
    """A fitted Gaussian scene.

    Attributes:
        gaussians: the scene.
        renders: [T, 3, H, W] in [0, 1], renders along the path of the frames.
        viewmats: [T + V, 4, 4] optimised cameras of frames and photographs, or None.
        notes: messages for the user about the fit.
    """

    gaussians: Gaussians
    renders: Tensor
    viewmats: Tensor | None = None
    notes: tuple[str, ...] = ()

    def state(self) -> State:
        """Convert the scene for saving."""
        tensors = state_of(self.gaussians).tensors | {"renders": self.renders}
        if self.viewmats is not None:
            tensors["refined_viewmats"] = self.viewmats
        return State(tensors, self.notes)

    @staticmethod
    def of(state: State) -> "Splat":
        """Restore the scene from `state`."""
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
    """Fit the Gaussian scene (Eqs. 8 to 10), with its renders along the path, and all cameras if optimised.

    `photographs` and `valid` are as for `supervision`.

    With a checkpoint, an interrupted fit resumes from it, or starts anew with a note if it is damaged; the
    caller removes the file.
    """
    views = supervision(made, cloud, options, photographs, valid)
    config = options.config(views.images.device, views.cameras.width, views.cameras.height)
    anew: list[str] = []
    record = FitRecord(
        on_status=lambda now: on_progress(now.iteration, now.iterations, str(now)),
        checkpoint=checkpoint,
        on_unusable=lambda reason: anew.append(f"Gaussian scene: {reason}, so the fit started from scratch"),
    )
    labels = PseudoLabels.beside(made.scene, photographs, views, config) if options.pseudo_labels else None
    found = fit_views(views, cloud, config, options.seed, record, labels)
    T = len(made.frames)
    renders = render(found.gaussians, found.cameras[:T], antialiased=config.antialiased)
    status = found.status
    match = f"their renders match the fitted images at {status.psnr:.1f} dB PSNR"
    notes = (f"Gaussian scene: {status.gaussians:,} Gaussians; {match}", *anew)
    notes += () if labels is None else (f"Gaussian scene: {labels.note}",)
    return Splat(found.gaussians, renders, found.cameras.viewmats if config.refine_cameras else None, notes)
