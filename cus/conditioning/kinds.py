"""The conditioning images that a checkpoint may know, by name."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.fused.warp import fused_warp
from cus.conditioning.hierarchical import hierarchical_warp
from cus.conditioning.scene_points import render_scene_points
from cus.scene import SceneEstimate

ConditioningKind = Literal["hierarchical", "points", "fused"]
CONDITIONING_KINDS: tuple[ConditioningKind, ...] = get_args(ConditioningKind)


def conditioning_of(
    kind: ConditioningKind,
    scene: SceneEstimate,
    target_cameras: Cameras,
    *,
    suppress_background: bool = True,
    scales: Sequence[int] | None = None,
    shrink_references: bool = False,
    photographs: Sequence[Tensor] | None = None,
    agreed: bool = False,
    with_layers: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Conditioning:
    """What the references show to the target cameras, as the network of a checkpoint wants to see it.

    Args:
        kind: "hierarchical" (`hierarchical_warp`), "points" (`render_scene_points`, ViewCrafter's own) or "fused"
            (`fused_warp`).
        scene: reference images with cameras, depths (0 = none) and confidences.
        target_cameras: T cameras.
        suppress_background: see `hierarchical_warp`; point renders have none of it.
        scales: likewise.
        shrink_references: see `render_scene_points`; the hierarchical warp has none of it.
        photographs: the views at any larger size, for the fused warp; the other kinds know the scene's images only.
        agreed: see `fused_warp`.
        with_layers: likewise.
        on_progress: called with (targets done, T).

    Raises:
        InputError: the targets see nothing of the scene.
        ValueError: an unknown kind, or what the function of the kind refuses.
    """
    if kind == "hierarchical":
        return hierarchical_warp(scene, target_cameras, suppress_background, scales, on_progress=on_progress)
    if kind == "points":
        return render_scene_points(scene, target_cameras, shrink_references=shrink_references, on_progress=on_progress)
    if kind == "fused":
        return fused_warp(
            scene,
            target_cameras,
            photographs,
            suppress_background,
            agreed=agreed,
            with_layers=with_layers,
            on_progress=on_progress,
        )
    raise ValueError(f"kind must be one of {', '.join(CONDITIONING_KINDS)}, got {kind!r}")
