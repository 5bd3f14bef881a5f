"""The paper's warps of a clip's references, stored beside the fused one so that models of both learn from the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning import hierarchical_warp
from cus.datasets.clips import Warp
from cus.scene import SceneEstimate

# Resolutions as divisors, see `hierarchical_warp`; the low and the high one alone are the baselines of Table III.
OTHER_WARPS: dict[str, tuple[int, ...] | None] = {"hierarchical": None, "low": (4,), "high": (1,)}


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
    warped = {name: hierarchical_warp(references.estimate, cameras, False, OTHER_WARPS[name]) for name in names}
    return {name: Warp(found.images, found.masks) for name, found in warped.items()}
