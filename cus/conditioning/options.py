"""How the hierarchical warp goes about a target: resolutions, suppression, merging."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Merge = Literal["nearest", "depth"]
LARGEST_SCALE = 64
# Points closer together than this, in target pixels, are averaged; about one a pixel is best left as it is.
WIDE_SPACING = 0.75


@dataclass(frozen=True)
class WarpOptions:
    """What holds for all targets of a warp.

    Attributes:
        scales: divisors of the resolution, ascending; None chooses them by the spacing of the projected points.
        tolerance: tau_D in scene units, how far behind a dilated foreground a point may lie; infinity takes all.
        merge: which reference counts where several have something to show.
    """

    scales: tuple[int, ...] | None
    tolerance: float
    merge: Merge

    def levels(self, spacing: float) -> tuple[int, ...]:
        """The scales for points so many target pixels apart."""
        return self.scales or scales_for_spacing(spacing)


def check_scales(scales: Sequence[int]) -> tuple[int, ...]:
    """The scales as a tuple. Raises ValueError unless they are ascending positive whole numbers."""
    checked = tuple(int(scale) for scale in scales)
    if not checked or checked[0] < 1 or list(checked) != sorted(set(checked)) or checked != tuple(scales):
        raise ValueError(f"scales must be ascending positive whole numbers such as (1, 4), got {tuple(scales)}")
    return checked


def scales_for_spacing(spacing: float) -> tuple[int, ...]:
    """1, 2, 4, ... up to the first scale whose cells are no smaller than the spacing of the points, in pixels.

    A hundredth smaller is no matter: by rounding alone the spacing of a view warped onto itself is a little above 1.
    """
    scales = [1]
    while scales[-1] < min(0.99 * spacing, LARGEST_SCALE):
        scales.append(scales[-1] * 2)
    return tuple(scales)
