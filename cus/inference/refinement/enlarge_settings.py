"""User settings of super-resolution."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cus.limits import limited
from cus.options import option


@dataclass(frozen=True)
class EnlargeSettings:
    """How photographs are enlarged, with --method vsd.

    Attributes:
        lora: LoRA for a model of this project: a file, a folder, a training run, or a Hub id
        gradient: vsd: variational score distillation; sds and rsd: score distillation, plain and renoised (default:
            vsd; sds for models without noise, such as mini, whose estimate has no spread that a critic could learn)
        rounds: rounds of enlargement and fit
        steps: distillation steps for each photograph and round
        critic_every: distillation steps for each training step of the critic, a LoRA of the model
        selective: only enlarge what no photograph resolves; elsewhere the photograph that does supervises
    """

    lora: Annotated[str | None, option("LORA")] = None
    gradient: Annotated[Literal["vsd", "sds", "rsd"] | None, option()] = None
    rounds: Annotated[int, option("N")] = limited(2, low=1, high=100)
    steps: Annotated[int, option("N")] = limited(12, low=1, high=100_000)
    critic_every: Annotated[int, option("N")] = limited(3, low=1, high=100_000)
    selective: Annotated[bool, option()] = True
