"""Other warps of a clip's references, stored beside the fused one so that models of both learn from the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import Conditioning, hierarchical_warp, render_scene_points
from cus.datasets.clips import Clip, Warp
from cus.errors import InputError
from cus.scene import SceneEstimate

# The low and the high resolution alone are the baselines of Table III; points are ViewCrafter's own.
OTHER_WARPS: dict[str, Callable[[SceneEstimate, Cameras], Conditioning]] = {
    "hierarchical": partial(hierarchical_warp, suppress_background=False),
    "low": partial(hierarchical_warp, suppress_background=False, scales=(4,)),
    "high": partial(hierarchical_warp, suppress_background=False, scales=(1,)),
    "points": render_scene_points,
}


@dataclass(frozen=True)
class References:
    """The photographs of a scene as inference knows them.

    Attributes:
        estimate: as estimated.
        agreed: the same, made to agree.
        photographs: the views at a larger size, or None.
    """

    estimate: SceneEstimate
    agreed: SceneEstimate
    photographs: list[Tensor] | None


def other_warps(names: Sequence[str], references: References, cameras: Cameras) -> dict[str, Warp]:
    """Warps by name, with what leaks through sparse surfaces: too clean conditions teach too little (Section III-C).

    Args:
        names: of `OTHER_WARPS`.
        references: warped as estimated, before they are made to agree: so does inference.
        cameras: T cameras.

    Raises:
        InputError: the cameras see nothing of the scene.
    """
    warped = {name: OTHER_WARPS[name](references.estimate, cameras) for name in names}
    return {name: Warp(found.images, found.masks) for name, found in warped.items()}


def shown_by(clip: Clip, name: str) -> Conditioning:
    """What a model is shown of a clip by one of its other warps, with depths; "" is its own conditioning.

    Raises:
        InputError: the clip has no such warp, or no geometry.
    """
    if clip.geometry is None:
        raise InputError(
            "a clip holds no cameras and depths, of which its point cloud is fused: build it again, with "
            "data/build_clips.py"
        )
    if not name:
        return clip.shown
    warped = clip.conditioned_on(name)
    # Stored are the depths of the own conditioning alone; those of the others cost less to find again than disk.
    again = OTHER_WARPS[name](clip.geometry.estimate(clip.references), clip.geometry.path)
    return Conditioning(warped.conditioning, warped.masks, again.depths * warped.masks)
