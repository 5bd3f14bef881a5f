"""ViewCrafter's point render, without a network."""

from dataclasses import dataclass

from cus.conditioning import Conditioning
from cus.conditioning.kinds.points import Points
from cus.evaluation.rows.conditioning import ConditioningRow
from cus.evaluation.work import CaseWork


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
