"""The fused warp, without a network."""

from dataclasses import dataclass

from cus.conditioning import Conditioning
from cus.conditioning.kinds.fused import Fused
from cus.evaluation.rows.conditioning import ConditioningRow
from cus.evaluation.rows.row import PHOTO_SIZE
from cus.evaluation.work import CaseWork
from cus.limits import limited


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
