"""Rows that fit a Gaussian scene: to the model's frames, to the photographs alone, or to super-resolved photographs."""

from dataclasses import dataclass, replace
from typing import cast, get_args

from torch import Tensor

from cus.conditioning.kinds import ConditioningKind
from cus.evaluation.rows.frames import Frames
from cus.evaluation.rows.row import ITERATIONS, PHOTO_SIZE, STRATEGIES, Row
from cus.evaluation.work import CaseWork, References
from cus.inference.fitting import supervision
from cus.inference.photo_fit import fused_photos, photo_views
from cus.inference.settings import torch_dtype
from cus.limits import limited
from cus.refinement.distillation import DistillOptions, Gradient
from cus.refinement.priors import NONE, CriticOptions, open_prior
from cus.refinement.pseudo_labels import PseudoLabels
from cus.refinement.super_resolution import SuperResolution, super_resolve
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


@dataclass(frozen=True, kw_only=True)
class SuperResolved(ReferencesSplat):
    """3DGS of the photographs, whose fit continues with enlarged photographs.

    Attributes:
        factor: enlargement of the photographs.
        prior: "none", "mini", "sd-x4", a folder, or a Hub id.
        lora: LoRA for a prior of ours: a file, a folder or a Hub id; None: no LoRA.
        gradient: sds, rsd or vsd.
        steps: steps of the distillation per round.
        rate: step size, as a fraction of the way to the prior's estimate.
        critic_every: steps for each training step of the critic.
        critic_rate: learning rate of the critic.
        rounds: rounds of enlargement and fit.
        refine_iterations: steps of the fit per round; None: as the first fit has.
        projected: whether enlarged photographs, shrunk again, must equal the photographs.
        selective: whether only what no photograph resolves is enlarged.
    """

    kind: str = "super_resolved"
    label: str = "3DGS, super-resolved"
    factor: int = limited(4, low=2, high=16)
    prior: str = NONE
    lora: str | None = None
    gradient: str = limited("vsd", choices=get_args(Gradient))
    steps: int = limited(12, low=1, high=10_000)
    rate: float = limited(1.0, above=0, high=10)
    critic_every: int = limited(3, low=1, high=10_000)
    critic_rate: float = limited(3e-3, above=0, high=1)
    rounds: int = limited(2, low=1, high=100)
    refine_iterations: int | None = limited(None, **ITERATIONS)
    projected: bool = True
    selective: bool = False

    def fit(self, references: References) -> FitResult:  # noqa: D102
        first = super().fit(references)

        def make() -> FitResult:
            scene, seed = references.scene, references.defaults.seed
            options = references.fit_options(self.refine_iterations or self.iterations, self.strategy or "mcmc")
            config = options.config(scene.images.device, scene.cameras.width, scene.cameras.height)
            gradient = cast(Gradient, self.gradient)
            distillation = DistillOptions(gradient, self.steps, self.rate, critic_every=self.critic_every)
            chosen = SuperResolution(
                self.factor,
                self.rounds,
                config.iterations,
                projected=self.projected,
                labels=self.pseudo_labels,
                selective=self.selective,
                distillation=distillation,
            )
            models = references.models
            dtype = torch_dtype(models.dtype, models.device)
            critic = CriticOptions(rate=self.critic_rate, seed=seed)
            prior = open_prior(self.prior, self.factor, models.device, dtype, critic, self.lora)
            views = photo_views(scene, references.valid)
            made = super_resolve(scene, views, first.gaussians, config, chosen, prior, seed)
            return FitResult(made.gaussians, first.cameras, first.exposures, first.status)

        return references.once(("super-resolved", self), make)

    def picture(self, case: CaseWork) -> Tensor:  # noqa: D102
        return case.rendered(self.fit(case.references))
