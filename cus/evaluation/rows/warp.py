"""The paper's hierarchical warp, without a network."""

from dataclasses import dataclass

from cus.conditioning import Conditioning
from cus.conditioning.kinds.hierarchical import Hierarchical
from cus.evaluation.rows.conditioning import ConditioningRow, scales_of
from cus.evaluation.work import CaseWork


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
