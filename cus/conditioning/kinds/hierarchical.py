"""The paper's own conditioning images (Section III-B, Algorithm 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.hierarchical import hierarchical_warp
from cus.conditioning.kinds.kind import ConditioningKind
from cus.scene import SceneEstimate


@dataclass(frozen=True)
class Hierarchical(ConditioningKind):
    """Points splatted at several resolutions, the finer over the coarser.

    Attributes:
        suppress_background: remove background that leaks through sparse foreground (Eq. 5).
        scales: divisors of the resolution, ascending; None: as many as the spacing of the points needs.
    """

    name: ClassVar[str] = "hierarchical"
    suppress_background: bool = True
    scales: tuple[int, ...] | None = None

    def show(
        self,
        scene: SceneEstimate,
        cameras: Cameras,
        photographs: Sequence[Tensor] | None = None,
        *,
        with_layers: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Conditioning:
        """Render the conditioning with `hierarchical_warp`."""
        return hierarchical_warp(scene, cameras, self.suppress_background, self.scales, on_progress=on_progress)
