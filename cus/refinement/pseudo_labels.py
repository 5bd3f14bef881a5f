"""Pseudo-labels: photographs warped into virtual close-ups, which supervise a Gaussian scene where none was taken.

Xia, Sun and Liu, "Enhancing Close-up Novel View Synthesis via Pseudo-labeling" (2025). A scene of photographs may be
anything between their pixels, and a close-up shows it: needles and speckle. What the photographs show of a virtual
close-up is known where the surface is known, and tells the scene what to be there.

The paper warps a photograph backwards through the depth that the scene renders in the virtual view, and forwards
through the depth of the photograph's own view, and keeps what comes out alike. Here both ways end in the same sampling:
a photograph's depth, drawn into the virtual view as a mesh, is a second depth there, and either says where the pixels
lie in the photographs. The colours are taken through the photographs' depth, whose error is smaller at close range.
Where several photographs see the surface and differ in what they show, the surface is not where it is thought to be,
and nothing is kept either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.fused.agreement import agree
from cus.conditioning.fused.operations import KERNELS, TORCH
from cus.conditioning.fused.surfaces import drawn_inverse_depth, finished, mixed
from cus.conditioning.fused.views import placements, views_of
from cus.conditioning.options import Backend, resolved_backend
from cus.refinement.poses import PoseOptions, VirtualPose, VirtualPoses, by_angle, seeing
from cus.scene import SceneEstimate
from cus.splats.crops import Supervision
from cus.splats.fit_config import FitConfig
from cus.splats.fit_views import Views
from cus.splats.rasterization import rasterization
from cus.splats.view_source import SceneTensors

# Poses that are tried before a turn is given up.
ATTEMPTS = 4
# A photograph shows a point whose depth agrees with its own this well (`Layer.seen`).
SEEN = 0.5
# The scene covers a pixel with more than this opacity.
COVERED = 0.5


@dataclass(frozen=True)
class LabelOptions:
    """How pseudo-labels are made.

    Attributes:
        poses: of the virtual cameras.
        per_turn: labels for each turn of an image or a crop.
        threshold: the largest difference, the mean over the channels, of 1, at which both warps, and the photographs
            among each other, agree.
        photographs: that a label is made from at most, those that see its point at the least angle.
        least_share: of its pixels that a label must keep to be used.
        path_share: of the labels that are made along a path, where there is one; the others are at virtual poses.
    """

    poses: PoseOptions = field(default_factory=PoseOptions)
    per_turn: float = 1.0
    threshold: float = 0.05
    photographs: int = 4
    least_share: float = 0.2
    path_share: float = 1.0


@dataclass(frozen=True)
class PseudoLabel:
    """What the photographs say of a virtual view.

    Attributes:
        camera: one camera.
        image: [3, H, W] in [0, 1]; black where no photograph has a surface.
        kept: [H, W] bool, the pixels that supervise.
    """

    camera: Cameras
    image: Tensor
    kept: Tensor


class PseudoLabels:
    """A `ViewSource` of pseudo-labels, at new poses every time (the paper's general training), or along a path (its
    test-time training).

    Attributes:
        counts: [3] float64: labels made, turns without one, and the labels' shares of kept pixels in all.
    """

    def __init__(
        self,
        scene: SceneEstimate,
        photographs: Sequence[Tensor] | None,
        width: int,
        height: int,
        options: LabelOptions | None = None,
        path: Cameras | None = None,
        backend: Backend = "auto",
    ) -> None:
        """Prepare the photographs.

        Args:
            scene: photographs with cameras, depths (0 = none) and confidences.
            photographs: the same at any larger size, V of [3, h, w] uint8 or float32; None: the scene's own images.
            width: of the labels, pixels.
            height: likewise.
            options: by default the paper's, as far as it gives them.
            path: the cameras to make labels for, of any size; None: virtual poses.
            backend: see `cus.conditioning.fused_warp`.

        Raises:
            InputError: no photograph has a reliable depth, or photographs that are not the scene's views.
        """
        self.options = options or LabelOptions()
        self.counts = torch.zeros(3, dtype=torch.float64)
        # One exposure, and depths that show the same in all photographs: what differs is not kept.
        scene = agree(scene, photographs, backend=backend)
        self._scene, self._views = scene, views_of(scene, photographs)
        self._cameras = scene.cameras.to("cpu")
        self._photographs = [] if photographs is None else list(photographs)
        self._path = None if path is None else path.to("cpu").resized(width, height)
        self._poses = VirtualPoses(scene, width, height, self.options.poses)
        compiled = resolved_backend(backend, (scene.images, scene.depths), "a float32 scene") == "cpu"
        self._operations = KERNELS if compiled else TORCH

    @staticmethod
    def beside(
        scene: SceneEstimate,
        photographs: Sequence[Tensor] | None,
        views: Views,
        config: FitConfig,
        options: LabelOptions | None = None,
        path: Cameras | None = None,
    ) -> "PseudoLabels":
        """Of the size of a fit's images.

        Args:
            scene: as `__init__` takes it.
            photographs: likewise.
            views: what the fit is supervised by.
            config: how it is done.
            options: as `__init__` takes them.
            path: likewise.

        Raises:
            InputError: see `__init__`.
        """
        fine = views.shrunk(config.max_pixels).cameras
        return PseudoLabels(scene, photographs, fine.width, fine.height, options, path)

    @property
    def note(self) -> str:
        """What came of them, a sentence without its full stop."""
        made, without, shares = self.counts.tolist()
        kept = f", {100 * shares / made:.0f} % of their pixels kept" if made else ""
        lost = f"; {without:.0f} turns found no view that the photographs show" if without else ""
        return f"pseudo-labels: {made:.0f} views{kept}{lost}"

    def turns(self, images: int) -> int:
        """See `ViewSource.turns`."""
        return round(self.options.per_turn * images)

    def identity(self) -> tuple[str, list[Tensor]]:
        """See `ViewSource.identity`."""
        path = [] if self._path is None else [self._path.viewmats, self._path.Ks]
        own = [self._scene.images, self._cameras.viewmats, self._cameras.Ks]
        return repr(self.options), [*own, self._scene.depths, self._scene.confidences, *self._photographs, *path]

    def draw(self, scene: SceneTensors, generator: torch.Generator) -> Supervision | None:
        """See `ViewSource.draw`."""
        for _ in range(ATTEMPTS):
            label = self.label(scene, self._next(scene, generator))
            share = 0.0 if label is None else float(label.kept.float().mean())
            if label is not None and share >= self.options.least_share:
                self.counts += torch.tensor([1.0, 0.0, share], dtype=torch.float64)
                return Supervision(label.camera.to(label.image.device), label.image, label.kept.to(label.image), None)
        self.counts[1] += 1
        return None

    def _next(self, scene: SceneTensors, generator: torch.Generator) -> VirtualPose:
        if self._path is None or float(torch.rand(1, generator=generator)) >= self.options.path_share:
            return self._poses.draw(generator)
        camera = self._path[int(torch.randint(len(self._path), (1,), generator=generator))]
        depths, alphas = rendered_depth(scene, camera)
        covered = depths[alphas > COVERED]
        depth = covered.median() if covered.numel() else torch.ones(())
        middle = camera.resized(1, 1).backproject(depth.cpu().reshape(1, 1, 1))
        return VirtualPose(camera, middle.reshape(3))

    def label(self, scene: SceneTensors, pose: VirtualPose) -> PseudoLabel | None:
        """The label of one virtual view, or None where no photograph shows it.

        Args:
            scene: means, quats, scales, opacities and sh of the Gaussians.
            pose: the view, and the point by which photographs are chosen.
        """
        camera, size = pose.camera, (pose.camera.height, pose.camera.width)
        chosen = by_angle(self._cameras, seeing(self._cameras, pose.point), pose.point, camera.centers[0])
        views = [self._views[index] for index in chosen[: self.options.photographs]]
        if not views:
            return None
        places = placements(views, camera.to(views[0].depths.device))
        inverse = drawn_inverse_depth(views, places, size, self._operations)
        shown = [self._operations.look_up(view, place, inverse) for view, place in zip(views, places, strict=True)]
        depths, alphas = rendered_depth(scene, camera)
        covered = alphas > COVERED
        own = torch.where(covered, 1 / depths.clamp(min=1e-12), 0.0).to(inverse)
        check = [self._operations.look_up(view, place, own) for view, place in zip(views, places, strict=True)]
        image, weights = mixed(shown)
        other = mixed(check)[0]
        # What no photograph sees by its own depth lies behind a surface of all of them.
        seen = torch.stack([layer.seen for layer in shown]).amax(dim=0) > SEEN
        alike = (image - other).abs().mean(dim=0) <= self.options.threshold
        # Of two photographs that count alike this is the difference between them.
        pairs = zip(weights, shown, strict=True)
        spread = 2 * torch.stack([w * (layer.colors - image).abs().mean(dim=0) for w, layer in pairs]).sum(dim=0)
        has_surface = inverse > 0
        sharp = finished(views, places, shown, (image, weights), has_surface, self._operations)[0]
        kept = has_surface & covered & seen & alike & (spread <= self.options.threshold)
        return PseudoLabel(camera, torch.where(has_surface, sharp.float(), 0.0).clamp(0, 1), kept)


def rendered_depth(scene: SceneTensors, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Expected z-depths and opacities [H, W] of Gaussians in one camera."""
    means, quats, scales, opacities, sh = scene
    camera = camera.to(means.device)
    depths, alphas, _ = rasterization(
        means, quats, scales, opacities, sh[:, :1], camera.viewmats, camera.Ks, camera.width, camera.height,
        sh_degree=0, render_mode="ED", rasterize_mode="antialiased",
    )  # fmt: skip
    return depths[0, ..., 0], alphas[0, ..., 0]
