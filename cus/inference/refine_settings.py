"""User settings of a refinement."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cus.limits import limited
from cus.options import fractions, option, parsed

Method = Literal["pseudo-labels"]


@dataclass(frozen=True)
class RefineSettings:
    """How to refine a Gaussian scene.

    Attributes:
        method: pseudo-labels: photographs warped into virtual close-ups supervise the scene
        target: point to approach, in fractions of the first photograph's width and height; half of the virtual
            close-ups are on the way there (default: 0.5,0.5, without additional close-ups there)
        factor: how many times closer the nearest close-ups are than the photographs; the paper uses 8
        iterations: optimisation steps
        size: longest side of the images in pixels
        seed: seed of every random draw
    """

    method: Annotated[Method, option()] = "pseudo-labels"
    target: Annotated[tuple[float, float] | None, parsed("U,V", fractions), option()] = None
    factor: Annotated[float, option("FACTOR")] = limited(9.0, low=2, high=100)
    iterations: Annotated[int, option("N")] = limited(1000, low=1, high=1_000_000)
    size: Annotated[int, option("PIXELS")] = limited(512, low=64, high=8192)
    seed: Annotated[int, option("N")] = limited(0, low=0, high=2**63 - 1)
