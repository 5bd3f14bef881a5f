"""Close-up-GS: a Gaussian scene that is trained on its own, generated close-ups, each round three times nearer.

Xia and Liu, "Close-up-GS: Enhancing Close-Up View Synthesis in 3D Gaussian Splatting with Progressive Self-Training"
(2025). A round (Section 4.3):

1. Frontier views look at the target from a third of the last round's distance. Anchor views are the known views that
   cover them best and repeat each other least (Eq. 5).
2. Views to be updated are chosen by the same rule from random ones between anchors and frontier.
3. A diffusion model generates these views and the frontier's, with the anchors as references. The paper renders the
   scene as the model's input and masks what the photographs do not confirm; here the photographs at their own
   resolution, and the generated views known by then, are warped there (`cus.conditioning`), and the warp's mask is the
   model's. The scene's own render decides, together with this warp, which pixels are reliable.
4. The scene is fitted to photographs and generated views. Reliable pixels, which the photographs confirm, are
   those of the photographs' warp and weigh most (Section 4.3.4). Surfaces that the views see from a third of the
   distance become denser (`cus.refinement.detail`). The generated views then count as known.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cus.cameras import Cameras
from cus.closeup import close_up, given
from cus.diffusion import CloseUpShotPipeline
from cus.refinement.frontier import frontier_views, views_between
from cus.refinement.poses import VirtualPose
from cus.refinement.pseudo_labels import PseudoLabels, exposure_weight, rendered_depth
from cus.refinement.view_selection import coverage, distance_discount, select_views, similarity, visible_share
from cus.scene import SceneEstimate
from cus.splats.crops import SceneTensors, Supervision
from cus.splats.gaussians import Gaussians

# Views are compared by depth maps of this longest side in pixels.
COMPARED_SIDE = 96
# The scene covers a pixel if its opacity is above this.
COVERED = 0.5


@dataclass(frozen=True)
class ProgressiveOptions:
    """Settings of a round.

    Attributes:
        references: number of anchor views (the paper's 5).
        updated: number of views to be updated besides the frontier's (the paper's 8).
        candidates: number of random views that they are chosen from.
        gaussians: maximum number of new Gaussians per round.
        shown: weight of generated pixels that a photograph shows, but that are not reliable; reliable ones weigh 1.
        invented: weight of generated pixels that no photograph shows.
    """

    references: int = 5
    updated: int = 8
    candidates: int = 48
    gaussians: int = 120_000
    shown: float = 0.5
    invented: float = 0.1


@dataclass(frozen=True)
class Known:
    """Views that the scene is trained on: V photographs, then G generated ones, all of one size.

    Attributes:
        scene: images, cameras, depths and confidences of all V + G views; the photographs agree (`agree`).
        photographs: V pictures at their own size [3, h, w] uint8, then the G generated ones.
        weights: [V + G, H, W] weights of the pixels in the fit.
        count: number V of photographs.
    """

    scene: SceneEstimate
    photographs: tuple[Tensor, ...]
    weights: Tensor
    count: int

    @property
    def finest(self) -> list[Cameras]:
        """The cameras, each at the size of its picture: photographs have more detail than the images."""
        cameras = self.scene.cameras
        return [cameras[i].resized(p.shape[-1], p.shape[-2]) for i, p in enumerate(self.photographs)]

    def extended(self, made: SceneEstimate, weights: Tensor) -> "Known":
        """With generated views and the weights of their pixels [T, H, W]."""
        scene = self.scene
        gains = None if scene.gains is None or made.gains is None else torch.cat([scene.gains, made.gains])
        together = replace(
            scene,
            images=torch.cat([scene.images, made.images]),
            cameras=Cameras.cat([scene.cameras, made.cameras]),
            depths=torch.cat([scene.depths, made.depths]),
            confidences=torch.cat([scene.confidences, made.confidences]),
            gains=gains,
        )
        pictures = tuple((image.cpu() * 255).round().to(torch.uint8) for image in made.images)
        return Known(together, (*self.photographs, *pictures), torch.cat([self.weights, weights]), self.count)


class GeneratedViews:
    """The generated ones among known views as a `ViewSource`: every step of a fit also sees a random one of them.

    Attributes:
        weight: weight of a view's loss relative to that of the photograph of the same step: 1, or less if the
            photographs differ in exposure. The views have one exposure; at a surface that both see, the photograph
            is to decide.
        counts: none.
    """

    def __init__(self, known: Known) -> None:
        """`known`: at least one of them is generated."""
        self._known, self.counts = known, torch.zeros(0)
        gains = known.scene.gains
        self.weight = exposure_weight(None if gains is None else gains[: known.count])

    def draw(self, scene: SceneTensors, generator: torch.Generator) -> Supervision:
        """A random generated view."""
        known, count = self._known.scene, self._known.count
        index = count + int(torch.randint(len(known) - count, (1,), generator=generator))
        return Supervision(known.cameras[index], known.images[index], self._known.weights[index], None)

    def identity(self) -> tuple[str, list[Tensor]]:
        """Settings in words, and the tensors that determine the views."""
        cameras = self._known.scene.cameras
        tensors = [self._known.scene.images, self._known.weights, cameras.viewmats, cameras.Ks]
        return f"generated, weight {self.weight}", tensors


@dataclass(frozen=True)
class Chosen:
    """The views of a round.

    Attributes:
        references: indices of the known views that the model sees: the chosen photographs and anchor views.
        cameras: cameras to generate: those to be updated, farthest first, then the frontier.
    """

    references: list[int]
    cameras: Cameras


def choose_views(
    gaussians: Gaussians,
    known: Known,
    target: Tensor,
    distances: tuple[float, float],
    options: ProgressiveOptions,
    generator: torch.Generator,
) -> Chosen:
    """Anchor views, views to be updated and frontier views of a round (Sections 4.3.1 and 4.3.2).

    Args:
        gaussians: the scene so far.
        known: views so far; the first is the photograph that the target was named in.
        target: point of interest [3].
        distances: distances of this frontier and of the last one from the target, in scene units.
        options: settings.
        generator: generator of the random draws, on the CPU.
    """
    near, far = distances
    cameras = known.scene.cameras.to("cpu")
    small = _small(cameras)
    depths = _depths(gaussians, small)
    # The first frontier views start from random photographs; the first photograph's line is always among them.
    begin = [0, *(1 + torch.randperm(known.count - 1, generator=generator)[: options.references - 1]).tolist()]
    frontier = frontier_views(cameras[begin], target, near)
    shown = visible_share(_depths(gaussians, _small(frontier)), _small(frontier), depths, small, centred=True)
    weights, alike = coverage([shown]), similarity(depths, small)
    photos, made = range(known.count), range(known.count, len(cameras))
    anchors: list[int] = []
    for group in (list(photos), list(made)):
        if group:
            picked = select_views(weights[group], alike[group][:, group], options.references, generator)
            anchors += [group[index] for index in picked]
    lines = sorted({0, *(index for index in anchors if index < known.count)})
    frontier = frontier_views(cameras[lines], target, near)
    candidates = views_between(cameras[anchors], target, near, far, options.candidates, generator)
    few, ahead = _small(candidates), _small(frontier)
    own, goals = _depths(gaussians, few), _depths(gaussians, ahead)
    both = [
        visible_share(goals, ahead, own, few, centred=True),
        visible_share(depths[anchors], small[anchors], own, few, centred=False),
    ]
    middle = frontier.centers.mean(dim=0)
    discount = distance_discount(candidates.centers, middle, middle + (middle - target) * (far / near - 1))
    chosen = select_views(coverage(both, discount), similarity(own, few), options.updated, generator)
    order = sorted(chosen, key=lambda index: -float((candidates.centers[index] - target).norm()))
    return Chosen(anchors, Cameras.cat([candidates[order], frontier]))


def generate_views(
    gaussians: Gaussians,
    known: Known,
    chosen: Chosen,
    pipeline: CloseUpShotPipeline,
    labels: PseudoLabels,
    target: Tensor,
    options: ProgressiveOptions,
    seed: int,
) -> tuple[SceneEstimate, Tensor]:
    """Generate a round's views (Section 4.3.3).

    Args:
        gaussians: the scene so far; with the photographs it decides which pixels are reliable.
        known: views so far.
        chosen: references and cameras of the round.
        pipeline: model.
        labels: pseudo-labels of the photographs.
        target: point of interest [3].
        options: settings.
        seed: seed of the model's noise.

    Returns:
        The views as an estimate whose confidences say how far they can be relied on, and the weights of their pixels in
        the fit [T, H, W].
    """
    references = _select(known.scene, chosen.references)
    own = [known.photographs[index] for index in chosen.references]
    cameras = chosen.cameras.to(references.images.device)
    made = close_up(
        references, cameras, pipeline, photographs=own, passes=1, seed=seed, each=given(agreement=references)
    )
    shown, images = made.conditioning.masks, made.frames.to(references.images).clone()
    weights = torch.where(shown, options.shown, options.invented)
    for index in range(len(cameras)):
        camera = chosen.cameras[index]
        tensors = (
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities_in(camera.to(gaussians.device)),
            gaussians.sh,
        )  # fmt: skip
        label = labels.label(tensors, VirtualPose(camera, target))
        if label is not None:
            images[index] = torch.where(label.kept, label.image, images[index])
            weights[index] = torch.where(label.kept, 1.0, weights[index])
    depths = torch.where(shown, made.conditioning.depths, 0.0)
    confidences = torch.where(shown, weights, 0.0)
    gains = None if references.gains is None else _exposures(references, cameras)
    return SceneEstimate(images, cameras, depths, confidences, gains=gains), weights


def _exposures(references: SceneEstimate, cameras: Cameras) -> Tensor:
    """Gains [T, 3] of views that have the exposure of the references near them, as `fused_warp` gives it."""
    assert references.gains is not None
    distances = torch.cdist(cameras.centers.double(), references.cameras.centers.double())
    shares = 1 / (distances.square() + 1e-12 * distances.square().mean() + 1e-30)
    shares = shares / shares.sum(dim=1, keepdim=True)
    return (shares @ references.gains.double().log()).exp().to(references.gains)


def _select(scene: SceneEstimate, indices: list[int]) -> SceneEstimate:
    return replace(
        scene,
        images=scene.images[indices],
        cameras=scene.cameras[indices],
        depths=scene.depths[indices],
        confidences=scene.confidences[indices],
        gains=None if scene.gains is None else scene.gains[indices],
        left_out=(),
    )


def _small(cameras: Cameras) -> Cameras:
    scale = min(1.0, COMPARED_SIDE / max(cameras.width, cameras.height))
    return cameras.resized(max(2, round(cameras.width * scale)), max(2, round(cameras.height * scale)))


@torch.no_grad()
def _depths(gaussians: Gaussians, cameras: Cameras) -> Tensor:
    """Rendered depths [N, h, w] on the CPU, 0 where nothing covers a pixel."""
    found = []
    for index in range(len(cameras)):
        camera = cameras[index]
        opacities = gaussians.opacities_in(camera.to(gaussians.device))
        tensors = gaussians.means, gaussians.quats, gaussians.scales, opacities, gaussians.sh
        depths, alphas = rendered_depth(tensors, camera)
        found.append(torch.where(alphas > COVERED, depths, 0.0).cpu())
    return torch.stack(found)
