"""3DGS of the photographs, super-resolved."""

from dataclasses import dataclass
from typing import cast, get_args

from torch import Tensor

from cus.evaluation.rows.references_splat import ReferencesSplat
from cus.evaluation.rows.row import ITERATIONS
from cus.evaluation.work import CaseWork, References
from cus.inference.photo_fit import photo_views
from cus.inference.settings import torch_dtype
from cus.limits import limited
from cus.refinement.distillation import DistillOptions, Gradient
from cus.refinement.priors import NONE, CriticOptions, open_prior
from cus.refinement.super_resolution import SuperResolution, super_resolve
from cus.splats import FitResult


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
