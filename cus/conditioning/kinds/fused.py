"""Conditioning images from every photograph at its own resolution (ours, the default)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.fused.warp import fused_warp
from cus.conditioning.kinds.kind import ConditioningKind
from cus.scene import SceneEstimate


@dataclass(frozen=True)
class Fused(ConditioningKind):
    """The photographs sampled backwards through one fused depth map of each target.

    Attributes:
        suppress_background: remove background that leaks through sparse foreground (Eq. 5).
    """

    name: ClassVar[str] = "fused"
    takes_photographs: ClassVar[bool] = True
    wants_agreement: ClassVar[bool] = True
    suppress_background: bool = True

    def show(
        self,
        scene: SceneEstimate,
        cameras: Cameras,
        photographs: Sequence[Tensor] | None = None,
        *,
        with_layers: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Conditioning:
        """Render the conditioning with `fused_warp`."""
        return fused_warp(
            scene,
            cameras,
            photographs,
            self.suppress_background,
            agreed=True,
            with_layers=with_layers,
            on_progress=on_progress,
        )
