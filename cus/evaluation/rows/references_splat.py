"""3DGS of the photographs only, as `cus-fit` makes it."""

from dataclasses import dataclass, replace

from torch import Tensor

from cus.evaluation.rows.row import ITERATIONS, PHOTO_SIZE, STRATEGIES, Row
from cus.evaluation.work import CaseWork, References
from cus.inference.photo_fit import fused_photos, photo_views
from cus.limits import limited
from cus.refinement.pseudo_labels import PseudoLabels
from cus.splats import FitResult, fit_views


@dataclass(frozen=True, kw_only=True)
class ReferencesSplat(Row):
    """3DGS of the photographs only.

    Attributes:
        photo_size: longest side in pixels of the photographs whose crops supervise the fit; None: as for the
            references.
        strategy: density control of the fit: fixed, default or mcmc; None: the default of `cus-fit`.
        iterations: number of iterations of the fit; None: the evaluation's.
        pseudo_labels: whether photographs warped into virtual close-ups supervise the fit, too.
    """

    kind: str = "references_splat"
    label: str = "3DGS of the references"
    photo_size: int | None = limited(None, **PHOTO_SIZE)
    strategy: str | None = limited(None, choices=STRATEGIES)
    iterations: int | None = limited(None, **ITERATIONS)
    pseudo_labels: bool = False

    def picture(self, case: CaseWork) -> Tensor:  # noqa: D102
        return case.rendered(self.fit(case.references))

    def fit(self, references: References) -> FitResult:
        """The fitted scene, made once for all cases of the references."""

        def make() -> FitResult:
            options = references.fit_options(self.iterations, self.strategy or "mcmc")
            scene = references.scene
            config = options.config(scene.images.device, scene.cameras.width, scene.cameras.height)
            photographs = references.photographs(self.photo_size)
            views = replace(photo_views(scene, references.valid), photographs=tuple(photographs or ()))
            labels = PseudoLabels.beside(scene, photographs, views, config) if self.pseudo_labels else None
            return fit_views(views, fused_photos(scene), config, options.seed, source=labels)

        return references.once(("splat", self.photo_size, self.iterations, self.strategy, self.pseudo_labels), make)
