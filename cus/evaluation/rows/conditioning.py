"""Rows that show conditioning images directly, without a network."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cus.conditioning import Conditioning
from cus.conditioning.options import check_scales
from cus.errors import InputError
from cus.estimators.filling import continue_smoothly
from cus.evaluation.rows.row import Row
from cus.evaluation.work import CaseWork


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
