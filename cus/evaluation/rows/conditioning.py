"""Rows that show conditioning images directly, without a network."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.conditioning import Conditioning
from cus.conditioning.kinds.fused import Fused
from cus.conditioning.kinds.hierarchical import Hierarchical
from cus.conditioning.kinds.points import Points
from cus.conditioning.options import check_scales
from cus.errors import InputError
from cus.estimators.filling import continue_smoothly
from cus.evaluation.rows.row import PHOTO_SIZE, Row
from cus.evaluation.work import CaseWork
from cus.limits import limited


@dataclass(frozen=True, kw_only=True)
class ConditioningRow(Row):
    """Conditioning images of one kind, shown directly.

    Attributes:
        inpaint: whether holes are filled from their surroundings (push and pull).
    """

    inpaint: bool = False

    @abstractmethod
    def warped(self, case: CaseWork) -> Conditioning:
        """The conditioning of the target."""

    def picture(self, case: CaseWork) -> Tensor:  # noqa: D102
        warped = self.warped(case)
        image, mask = warped.images[0], warped.masks[0]
        return push_pull(image, mask) if self.inpaint else image


def scales_of(row: str, scales: Sequence[int] | None) -> tuple[int, ...] | None:
    """The scales of the row named `row`. Raises InputError unless they are ascending positive whole numbers."""
    try:
        return None if scales is None else check_scales(scales)
    except ValueError as error:
        raise InputError(f"row {row}: {error}") from error


def push_pull(image: Tensor, mask: Tensor) -> Tensor:
    """[3, h, w] with the pixels outside the mask [h, w] filled from a pyramid of means of those inside."""
    if not bool(mask.any()):
        return image
    return torch.stack([continue_smoothly(channel, mask) for channel in image]).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Warp(ConditioningRow):
    """The hierarchical warp (Algorithm 1).

    Attributes:
        suppress_background: whether to remove leaked background (Eq. 5).
        scales: divisors of the resolution, e.g. [1] or [1, 4]; None: as many as the spacing of the points needs.
    """

    kind: str = "warp"
    label: str = "Hierarchical warp"
    suppress_background: bool = True
    scales: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        scales_of(self.name, self.scales)

    def warped(self, case: CaseWork) -> Conditioning:  # noqa: D102
        return case.warped(Hierarchical(self.suppress_background, scales_of(self.name, self.scales)))


@dataclass(frozen=True, kw_only=True)
class FusedWarp(ConditioningRow):
    """The fused warp.

    Attributes:
        photo_size: longest side in pixels of the photographs that provide the colours; None: as for the references.
            Depths are always those of the references.
        suppress_background: whether to remove leaked background (Eq. 5).
    """

    kind: str = "fused"
    label: str = "Fused warp"
    photo_size: int | None = limited(None, **PHOTO_SIZE)
    suppress_background: bool = True

    def warped(self, case: CaseWork) -> Conditioning:  # noqa: D102
        return case.warped(Fused(self.suppress_background), self.photo_size)


@dataclass(frozen=True, kw_only=True)
class PointRender(ConditioningRow):
    """The conditioning images of ViewCrafter, shown directly.

    Attributes:
        shrink_references: whether to make the renders as sparse as ViewCrafter's (`render_scene_points`).
    """

    kind: str = "points"
    label: str = "Point render"
    shrink_references: bool = False

    def warped(self, case: CaseWork) -> Conditioning:  # noqa: D102
        return case.warped(Points(self.shrink_references))
