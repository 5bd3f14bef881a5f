"""ViewCrafter's own conditioning images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from cus.cameras import Cameras
from cus.conditioning.conditioning import Conditioning
from cus.conditioning.kinds.kind import ConditioningKind
from cus.conditioning.scene_points import render_scene_points
from cus.scene import SceneEstimate


@dataclass(frozen=True)
class Points(ConditioningKind):
    """Discs rendered at half the resolution and enlarged.

    Attributes:
        shrink_references: make the renders as sparse as ViewCrafter's (`render_scene_points`).
    """

    name: ClassVar[str] = "points"
    sees_whole_frames: ClassVar[bool] = True
    shrink_references: bool = False

    def show(
        self,
        scene: SceneEstimate,
        cameras: Cameras,
        photographs: Sequence[Tensor] | None = None,
        *,
        with_layers: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Conditioning:
        """Render the conditioning with `render_scene_points`."""
        return render_scene_points(scene, cameras, shrink_references=self.shrink_references, on_progress=on_progress)
