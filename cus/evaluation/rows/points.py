"""ViewCrafter's point render, without a network."""

from dataclasses import dataclass

from cus.conditioning import Conditioning
from cus.conditioning.kinds.points import Points
from cus.evaluation.rows.conditioning import ConditioningRow
from cus.evaluation.work import CaseWork


@dataclass(frozen=True, kw_only=True)
class PointRender(ConditioningRow):
    """What ViewCrafter shows its network.

    Attributes:
        shrink_references: whether point renders are as sparse as ViewCrafter's own, see `render_scene_points`.
    """

    kind: str = "points"
    label: str = "Point render"
    shrink_references: bool = False

    def warped(self, case: CaseWork) -> Conditioning:  # noqa: D102
        return case.warped(Points(self.shrink_references))
