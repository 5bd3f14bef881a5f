"""Other warps of a clip's references, stored with the fused one so that models of both kinds learn from the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, hierarchical_warp, render_scene_points
from cus.datasets.clips import Clip, Warp
from cus.errors import InputError
from cus.scene import SceneEstimate

# Only the low or only the high resolution are baselines of Table III; points are ViewCrafter's own renders.
OTHER_WARPS: dict[str, Callable[[SceneEstimate, Cameras], Conditioning]] = {
    "hierarchical": partial(hierarchical_warp, suppress_background=False),
    "low": partial(hierarchical_warp, suppress_background=False, scales=(4,)),
    "high": partial(hierarchical_warp, suppress_background=False, scales=(1,)),
    "points": render_scene_points,
}


@dataclass(frozen=True)
class References:
    """The photographs of a scene as used in inference.

    Attributes:
        estimate: scene estimate as returned by the estimator.
        agreed: the estimate with depths that agree (`agree`).
        photographs: views at a larger size, or None.
    """

    estimate: SceneEstimate
    agreed: SceneEstimate
    photographs: list[Tensor] | None


def other_warps(names: Sequence[str], references: References, cameras: Cameras) -> dict[str, Warp]:
    """Warps by name, including leaks through sparse surfaces: overly clean conditions teach too little (Section III-C).

    Args:
        names: keys of `OTHER_WARPS`.
        references: warped with the original estimate, not the agreed one, as in inference.
        cameras: T target cameras.

    Raises:
        InputError: the cameras see nothing of the scene.
    """
    warped = {name: OTHER_WARPS[name](references.estimate, cameras) for name in names}
    return {name: Warp(found.images, found.masks) for name, found in warped.items()}


def shown_by(clip: Clip, name: str) -> Conditioning:
    """The conditioning, with depths, that a model sees of a clip by one of its other warps; "" is its own.

    Raises:
        InputError: the clip has no such warp, or no geometry.
    """
    if clip.geometry is None:
        raise InputError(
            "a clip holds no cameras and depths for its point cloud: build it again with data/build_clips.py"
        )
    if not name:
        return clip.shown
    warped = clip.conditioned_on(name)
    # Only depths of the own conditioning are stored; recomputing those of the others is cheaper than disk space.
    again = OTHER_WARPS[name](clip.geometry.estimate(clip.references), clip.geometry.path)
    return Conditioning(warped.conditioning, warped.masks, again.depths * warped.masks)
