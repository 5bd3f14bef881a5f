"""Pseudo-labels: photographs warped into virtual close-ups, which supervise a Gaussian scene from new positions.

Xia, Sun and Liu, "Enhancing Close-up Novel View Synthesis via Pseudo-labeling" (2025). A scene fitted to photographs is
unconstrained between their pixels, and a close-up shows this as needles and speckle. Where the surface is known, the
photographs determine what a virtual close-up shows, and this constrains the scene.

The paper warps a photograph backward through the depth that the scene renders in the virtual view, and forward through
the depth of the photograph's own view, and keeps pixels where both agree. Here both use the same sampling: a
photograph's depth, drawn into the virtual view as a mesh, is a second depth there, and either depth gives positions in
the photographs. The colours are sampled through the photographs' depth, whose error is smaller at close range. If
several photographs see the surface but differ in colour, the surface is in the wrong place, and is not kept either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.cameras import Cameras
from cus.conditioning.fused.agreement import agree
from cus.conditioning.fused.operations import KERNELS, TORCH
from cus.conditioning.fused.surfaces import drawn_inverse_depth, finished, mixed
from cus.conditioning.fused.views import View, placements, views_of
from cus.conditioning.options import Backend, resolved_backend
from cus.refinement.poses import PoseOptions, VirtualPose, VirtualPoses, by_angle, seeing
from cus.scene import SceneEstimate
from cus.splats.crops import SceneTensors, Supervision
from cus.splats.fit_config import FitConfig
from cus.splats.fit_views import Views
from cus.splats.rasterization import rasterization

# Number of poses to try before giving up a turn.
ATTEMPTS = 4
# A photograph shows a point if its own depth agrees at least this well (`Layer.seen`).
SEEN = 0.5
# The scene covers a pixel if its opacity is above this.
COVERED = 0.5
# Photographs whose gains differ by at most this in their logarithm have the same exposure: 0.05 of a medium grey.
SAME_EXPOSURE = 0.1
# The warp through the rendered depth is compared at the size of a label divided by this.
CHECKED = 2


@dataclass(frozen=True)
class LabelOptions:
    """Options of pseudo-labels.

    Attributes:
        poses: options of the virtual cameras.
        weight: weight of a label's loss relative to that of the image of the same step.
        threshold: largest mean difference over the channels, in [0, 1], at which both warps, and the photographs among
            each other, agree.
        photographs: maximum number of photographs per label, those that see its point at the smallest angle.
        least_share: minimum fraction of its pixels that a label must keep to be used.
        path_share: fraction of the labels along the path, if there is one; the others are at virtual poses.
    """

    poses: PoseOptions = field(default_factory=PoseOptions)
    weight: float = 1.0
    threshold: float = 0.05
    photographs: int = 4
    least_share: float = 0.2
    path_share: float = 1.0


@dataclass(frozen=True)
class PseudoLabel:
    """The supervision of a virtual view from the photographs.

    Attributes:
        camera: one camera of the virtual view.
        image: [3, H, W] in [0, 1]; black where no photograph has a surface.
        kept: [H, W] bool, the pixels that supervise.
    """

    camera: Cameras
    image: Tensor
    kept: Tensor


def exposure_weight(gains: Tensor | None) -> float:
    """The weight of pictures of one exposure beside photographs with gains [V, 3]: at what both see, the photograph is
    to decide. 1, or less if the photographs differ in exposure.
    """
    if gains is None:
        return 1.0
    exposures = gains.log()
    spread = float((exposures.amax(dim=0) - exposures.amin(dim=0)).max())
    return min(1.0, SAME_EXPOSURE / max(spread, SAME_EXPOSURE))


class PseudoLabels:
    """A `ViewSource` of pseudo-labels, at new poses every time (the paper's general training), or along a path (its
    test-time training).

    Attributes:
        weight: weight of a label's loss, less if the photographs differ in exposure (`exposure_weight`).
        counts: [3] float64: labels made, steps without one, and the sum of the labels' fractions of kept pixels.
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
            photographs: the same views at a larger size, V of [3, h, w] uint8 or float32; None: the scene's own images.
            width: width of the labels in pixels.
            height: height of the labels in pixels.
            options: options of the labels; by default the paper's, as far as it states them.
            path: cameras to make labels for, of any size; None: virtual poses.
            backend: "auto", "cpu" or "torch", as for `cus.conditioning.fused_warp`.

        Raises:
            InputError: no photograph has a reliable depth, or the photographs do not match the scene's views.
        """
        self.options = options or LabelOptions()
        self.counts = torch.zeros(3, dtype=torch.float64)
        # One exposure, and consistent depths in all photographs: pixels that still differ are not kept.
        scene = agree(scene, photographs, enlarge=False, backend=backend)
        self.weight = self.options.weight * exposure_weight(scene.gains)
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
        """Make labels of the size of a fit's images.

        Args:
            scene: photographs with cameras, depths (0 = none) and confidences.
            photographs: the same views at a larger size; None: the scene's own images.
            views: images that supervise the fit.
            config: settings of the fit.
            options: options of the labels.
            path: cameras to make labels for; None: virtual poses.

        Raises:
            InputError: as for `__init__`.
        """
        fine = views.shrunk(config.max_pixels).cameras
        return PseudoLabels(scene, photographs, fine.width, fine.height, options, path)

    @property
    def scene(self) -> SceneEstimate:
        """The photographs, with depths and exposures that agree."""
        return self._scene

    @property
    def note(self) -> str:
        """A summary of the labels, as a sentence without a full stop."""
        made, without, shares = self.counts.tolist()
        kept = f", {100 * shares / made:.0f} % of their pixels kept" if made else ""
        lost = f"; {without:.0f} steps found no view that the photographs show" if without else ""
        return f"pseudo-labels: {made:.0f} views{kept}{lost}"

    def identity(self) -> tuple[str, list[Tensor]]:
        """The options in words, and the tensors that determine the labels."""
        path = [] if self._path is None else [self._path.viewmats, self._path.Ks]
        scene = self._scene
        own = [scene.images, self._cameras.viewmats, self._cameras.Ks, scene.depths, scene.confidences]
        return f"{self.options}, weight {self.weight}", [*own, *self._photographs, *path]

    def draw(self, scene: SceneTensors, generator: torch.Generator) -> Supervision | None:
        """Draw poses until one gives a label; None after too many without one."""
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
        """The label of one virtual view, or None if no photograph shows it.

        Args:
            scene: means, quats, scales, opacities and sh of the Gaussians.
            pose: virtual view, and the point by which photographs are chosen.
        """
        camera, size = pose.camera, (pose.camera.height, pose.camera.width)
        chosen = by_angle(self._cameras, seeing(self._cameras, pose.point), pose.point, camera.centers[0])
        views = [self._views[index] for index in chosen[: self.options.photographs]]
        if not views:
            return None
        places = placements(views, camera.to(views[0].depths.device))
        inverse = drawn_inverse_depth(views, places, size, self._operations)
        shown = [self._operations.look_up(view, place, inverse) for view, place in zip(views, places, strict=True)]
        image, weights = mixed(shown)
        # Points that no photograph sees according to its own depth lie behind a surface of all of them.
        seen = torch.stack([layer.seen for layer in shown]).amax(dim=0) > SEEN
        # For two photographs with equal weights this is their difference.
        pairs = zip(weights, shown, strict=True)
        spread = 2 * torch.stack([w * (layer.colors - image).abs().mean(dim=0) for w, layer in pairs]).sum(dim=0)
        has_surface = inverse > 0
        sharp = finished(views, places, shown, (image, weights), has_surface, self._operations)[0]
        kept = has_surface & seen & (spread <= self.options.threshold) & self._confirmed(scene, camera, views, image)
        return PseudoLabel(camera, torch.where(has_surface, sharp.float(), 0.0).clamp(0, 1), kept)

    def _confirmed(self, scene: SceneTensors, camera: Cameras, views: Sequence[View], image: Tensor) -> Tensor:
        """[H, W] bool: where the photographs show the same picture [3, H, W] through the depth that the scene renders.

        Compared at a smaller size, which takes a quarter of the time and averages the noise.
        """
        size = (max(1, camera.height // CHECKED), max(1, camera.width // CHECKED))
        small = camera.resized(size[1], size[0])
        depths, alphas = rendered_depth(scene, small)
        covered = alphas > COVERED
        inverse = torch.where(covered, 1 / depths.clamp(min=1e-12), 0.0).to(image)
        if self._operations is TORCH:
            inverse = inverse.double()
        places = placements(views, small.to(image.device))
        layers = [self._operations.look_up(view, place, inverse) for view, place in zip(views, places, strict=True)]
        own = F.interpolate(image[None], size, mode="area")[0]
        alike = covered & ((own - mixed(layers)[0]).abs().mean(dim=0) <= self.options.threshold)
        return F.interpolate(alike[None, None].float(), image.shape[1:])[0, 0] > 0


def rendered_depth(scene: SceneTensors, camera: Cameras) -> tuple[Tensor, Tensor]:
    """Expected z-depths and opacities [H, W] of Gaussians from one camera."""
    means, quats, scales, opacities, sh = scene
    camera = camera.to(means.device)
    depths, alphas, _ = rasterization(
        means, quats, scales, opacities, sh[:, :1], camera.viewmats, camera.Ks, camera.width, camera.height,
        sh_degree=0, render_mode="ED", rasterize_mode="antialiased",
    )  # fmt: skip
    return depths[0, ..., 0], alphas[0, ..., 0]
