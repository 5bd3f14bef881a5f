"""Algorithm 1 for one target, independent of its backend: tensor operations, or compiled kernels on the CPU."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from cus.conditioning.options import WIDE_SPACING, WarpOptions
from cus.conditioning.references import Spacing


class _View(Protocol):
    """A reference with two disjoint masks of its points."""

    @property
    def reliable(self) -> Any: ...

    @property
    def unreliable(self) -> Any: ...


class _Canvas(Protocol):
    @property
    def complete(self) -> bool: ...


View = TypeVar("View", bound=_View, contravariant=True)
Canvas = TypeVar("Canvas", bound=_Canvas)


class WarpOps(Protocol[View, Canvas]):
    """The steps of the warp into one target. Painting fills holes and never changes filled pixels."""

    def blank(self) -> Canvas:
        """A canvas for a single view, all holes."""
        ...

    def limits(self, views: Sequence[View], tolerance: float) -> Any:
        """D_dilate + tau_D of Eq. 5: the largest depth each pixel accepts."""
        ...

    def spacing(self, view: View) -> Spacing:
        """The spacing of the view's reliable pixels in the target."""
        ...

    def paint(
        self, canvas: Canvas, view: View, chosen: Any, scales: Sequence[int], average: bool, limits: Any | None
    ) -> None:
        """Fill holes with the chosen points of a view, at each of the ascending scales in turn.

        At scale 1 a pixel shows its nearest point or, with `average`, the mean of the points on the nearest surface.
        """
        ...

    def nearer(self, first: Canvas, second: Canvas) -> Canvas:
        """Keep the nearer surface at each pixel, the first's if they are equal. Both canvases are consumed."""
        ...


def warp_target(ops: WarpOps[View, Canvas], merged: Canvas, views: Sequence[View], options: WarpOptions) -> Canvas:
    """Warp references into one target (Algorithm 1).

    Args:
        ops: the steps for this target.
        merged: the target's canvas, all holes; it is painted on.
        views: references ordered by the distance of their cameras from the target's.
        options: resolutions, suppression, merging.
    """
    limits = ops.limits(views, options.tolerance) if math.isfinite(options.tolerance) else None
    for view in views:
        # The nearest reference goes first and the others only fill holes; merging by depth needs a canvas for each.
        canvas = merged if options.merge == "nearest" else ops.blank()
        if canvas.complete:
            break
        spacing = ops.spacing(view)
        scales, average = options.levels(spacing.largest), spacing.typical < WIDE_SPACING
        for chosen, nearest in ((view.reliable, limits), (view.unreliable, None)):
            if not canvas.complete:
                ops.paint(canvas, view, chosen, scales, average, nearest)
        if options.merge == "depth":
            merged = ops.nearer(merged, canvas)
    return merged
