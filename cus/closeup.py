"""CloseUpShot on one page: from the estimate of a few photographs to close-up frames and their point cloud.

Sections and equations are the paper's (arXiv 2511.13121). `estimate_scene` and a camera path
(`cus.cameras.trajectories`) come before this page, the fit of Gaussians (`cus.splats`, Eqs. 8 to 10) after it.

    scene, path ─► conditioning ─► coarse frames ─► global cloud ─► structure images    first of two passes
                        │                                                  │
                        └──────────────────► frames ◄──────────────────────┘            second pass, or the only one
                                               └─► global cloud
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, FusedCloud, agree, continued, fuse_views, render_points
from cus.conditioning.kinds import ConditioningKind, conditioning_kind
from cus.diffusion import CloseUpShotPipeline
from cus.errors import InputError
from cus.scene import SceneEstimate

T = TypeVar("T")
OnProgress = Callable[[int, int], None]
Photographs = Sequence[Tensor] | Callable[[], Sequence[Tensor]]
"""V photographs of any size, [3, Hi, Wi] float32 in [0, 1] or uint8, or a function that reads them on demand."""


class Each(Protocol):
    """Returns `function(*arguments)`, computed or from a cache.

    The names are those of the stages: "conditioning" (which may contain "agreement"), "coarse", "structure", "frames"
    and "cloud". Their functions also accept a callback `on_progress` as a keyword.
    """

    def __call__(self, name: str, function: Callable[..., T], *arguments: Any) -> T: ...  # noqa: D102


def given(**made: Any) -> Each:
    """An `Each` that computes every stage except the given ones, as in `given(agreement=scene)`."""

    def each(name: str, function: Callable[..., T], *arguments: Any) -> T:
        return made[name] if name in made else function(*arguments)

    return each


compute = given()


@dataclass(frozen=True)
class CloseUp:
    """Generated frames with their inputs.

    Attributes:
        scene: scene estimate for the V photographs.
        cameras: T cameras of the frames.
        conditioning: conditioning that the network saw.
        frames: [T, 3, H, W] float32 in [0, 1].
        structure: renders of the first pass's cloud for the second pass; None with one pass.
        each: computes the cloud, or takes it from a cache.
    """

    scene: SceneEstimate
    cameras: Cameras
    conditioning: Conditioning
    frames: Tensor
    structure: Conditioning | None = None
    each: Each = field(default=compute, repr=False)

    @cached_property
    def cloud(self) -> FusedCloud:
        """Points on which frames and photographs agree (Eq. 6), fused on first use; `counts` has frames first."""
        return self.each("cloud", fuse, self)

    def with_references(self) -> tuple[Tensor, Tensor, Cameras]:
        """Frames, then photographs, in one batch at the frames' size: images, depths [T + V, H, W], cameras.

        A generated frame's depth is that of its conditioning: its camera is the requested one by construction, and
        where the warp has no surface there is no depth to check.
        """
        height, width = self.frames.shape[-2:]
        images = F.interpolate(self.scene.images, (height, width), mode="area")
        depths = F.interpolate(self.scene.depths[:, None], (height, width), mode="nearest")[:, 0]
        cameras = self.cameras.to(images.device)
        return (
            torch.cat([self.frames.to(images), images]),
            torch.cat([self.conditioning.depths * self.conditioning.masks, depths]).to(images),
            Cameras.cat([cameras, self.scene.cameras.resized(width, height)]),
        )


def close_up(
    scene: SceneEstimate,
    path: Cameras,
    pipeline: CloseUpShotPipeline,
    *,
    passes: int | None = None,
    kind: ConditioningKind | None = None,
    photographs: Photographs | None = None,
    reference: Tensor | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    each: Each = compute,
) -> CloseUp:
    """Generate the frames seen by the cameras of a path, and the point cloud on which they and the photographs agree.

    Args:
        scene: V >= 1 photographs with cameras, depths and confidences.
        path: T cameras of the frames, of the frames' size.
        pipeline: model checkpoint as a pipeline.
        passes: 1, or 2 for a second pass guided by the global point cloud; None: the checkpoint's choice.
        kind: kind of the conditioning images; None: the checkpoint's best.
        photographs: views at a larger size, for kinds that use them as the source of colour.
        reference: [1, 3, h, w] in [0, 1], the image context of the network; None: the first view.
        steps: denoising steps per pass; None: the checkpoint's.
        guidance: classifier-free guidance scale; None: the checkpoint's.
        seed: seed of all noise; both passes draw the same.
        each: computes the stages, or takes them from a cache.

    Raises:
        InputError: the path sees nothing of the scene, the photographs do not match the scene's views, or the
            checkpoint requires an unknown kind or gives values that are not numbers.
        ValueError: `passes` is neither 1 nor 2.
    """
    own = pipeline.sampling
    if passes not in (None, 1, 2):
        raise ValueError(f"passes must be 1 or 2, got {passes}")
    second_pass = own.second_pass if passes is None else passes == 2
    kind = kind or conditioning_kind(own.conditioning)
    reference = scene.images[:1] if reference is None else reference
    sampling = (steps, guidance, seed, path)
    # I_t: what the photographs show of the path (Section III-B, Eqs. 3 and 4), without leaks (Section III-C, Eq. 5).
    conditioning = each("conditioning", condition, kind, scene, path, photographs, own.layers > 0, each)
    structure = None
    if second_pass:
        # Coarse frames (Section III-A, Eq. 1); their consistent pixels form one global cloud (Section III-D, Eq. 6).
        coarse = each("coarse", generate, pipeline, reference, conditioning, None, *sampling)
        structure = each("structure", render_cloud, CloseUp(scene, path, conditioning, coarse))
    # The frames; a second pass fuses features with those of the cloud's images I_g (Section III-D, Eq. 7).
    frames = each("frames", generate, pipeline, reference, conditioning, structure, *sampling)
    return CloseUp(scene, path, conditioning, frames, structure, each)


def condition(
    kind: ConditioningKind,
    scene: SceneEstimate,
    path: Cameras,
    photographs: Photographs | None = None,
    with_layers: bool = False,
    each: Each = compute,
    on_progress: OnProgress | None = None,
) -> Conditioning:
    """Render conditioning images: `Hierarchical` is the paper's Algorithm 1, `Fused` ours."""
    taken = None
    if kind.takes_photographs:
        taken = photographs() if callable(photographs) else photographs
    if kind.wants_agreement:
        scene = each("agreement", agree, scene, taken)
    return kind.show(scene, path, taken, with_layers=with_layers, on_progress=on_progress)


def generate(
    pipeline: CloseUpShotPipeline,
    reference: Tensor,
    conditioning: Conditioning,
    structure: Conditioning | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    path: Cameras | None = None,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """One pass of the video diffusion model (Section III-A): frames [T, 3, H, W] in [0, 1].

    If the checkpoint wants holes filled and the cameras of the `path` are given, texture continues into the holes.
    """
    if path is not None and pipeline.sampling.fill_holes:
        conditioning = continued(conditioning, path, seed)
    draws = torch.Generator().manual_seed(seed)
    guide = None if structure is None else structure.images
    frames = pipeline(
        reference, conditioning, guide, steps=steps, guidance=guidance, generator=draws, on_progress=on_progress
    )
    if not bool(torch.isfinite(frames).all()):
        precision = str(pipeline.unet.dtype).removeprefix("torch.")
        raise InputError(f"the model gave values that are not numbers in {precision}; try --dtype float32")
    return frames


def fuse(made: CloseUp, on_progress: OnProgress | None = None) -> FusedCloud:
    """The global point cloud: pixels of frames and photographs with which enough others agree (Eq. 6)."""
    return fuse_views(*made.with_references(), scale=made.scene.scale, on_progress=on_progress)


def render_cloud(coarse: CloseUp, on_progress: OnProgress | None = None) -> Conditioning:
    """The global cloud of coarse frames, rendered from the path's cameras: structure guidance I_g (Section III-D)."""
    cloud = fuse(coarse, on_progress)
    return render_points(cloud.points, cloud.colors, coarse.cameras.to(cloud.points.device))
