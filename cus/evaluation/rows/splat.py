"""3DGS of the model's frames and the photographs (Eqs. 8 to 10)."""

from dataclasses import dataclass

from torch import Tensor

from cus.conditioning.kinds import ConditioningKind
from cus.evaluation.rows.frames import Frames
from cus.evaluation.rows.row import ITERATIONS, STRATEGIES
from cus.evaluation.work import CaseWork
from cus.inference.fitting import supervision
from cus.limits import limited
from cus.splats import FitResult, fit_views


@dataclass(frozen=True, kw_only=True)
class Splat(Frames):
    """3DGS of the model's frames and the photographs.

    Attributes:
        photo_size: longest side in pixels of the photographs whose crops supervise the fit and that provide the colours
            of fused images; None: as for the references.
        image_confidence: whether to use Eq. 10's W_image in the fit.
        pixel_confidence: whether to use Eq. 9's W_pixel in the fit.
        strategy: density control of the fit: fixed, default or mcmc; None: the default of `cus-fit`.
        iterations: number of iterations of the fit; None: the evaluation's.
    """

    kind: str = "splat"
    label: str = "3DGS of the generated frames"
    image_confidence: bool = True
    pixel_confidence: bool = True
    strategy: str | None = limited(None, choices=STRATEGIES)
    iterations: int | None = limited(None, **ITERATIONS)

    def options_of(self, kind: ConditioningKind) -> list[str]:  # noqa: D102
        return [*super().options_of(kind), "photo_size"]

    def picture(self, case: CaseWork) -> Tensor:  # noqa: D102
        return case.rendered(self.fit(case))

    def fit(self, case: CaseWork) -> FitResult:
        """The fitted scene, made once for all rows with the same settings."""
        made = self.close_up(case)
        confidences = self.image_confidence, self.pixel_confidence
        key = ("splat", id(made), self.photo_size, *confidences, self.strategy, self.iterations)

        def make() -> FitResult:
            options = case.references.fit_options(self.iterations, self.strategy, *confidences)
            config = options.config(case.scene.images.device, made.cameras.width, made.cameras.height)
            photographs = case.references.photographs(self.photo_size)
            views = supervision(made, made.cloud, options, photographs, case.references.valid)
            return fit_views(views, made.cloud, config, options.seed)

        return case.once(key, make)
