"""User settings of a refinement."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cus.errors import InputError
from cus.inference.refinement.enlarge_settings import EnlargeSettings
from cus.limits import limited
from cus.options import fractions, option, parsed

Method = Literal["pseudo-labels", "progressive", "vsd"]

PATH_SHARE = 0.5
"""Share of the virtual close-ups on the way to the target, unless given."""
STEPS: dict[Method, int] = {"pseudo-labels": 1000, "progressive": 400, "vsd": 500}
"""Optimisation steps by method, unless given."""
FACTORS: dict[Method, float] = {"pseudo-labels": 9.0, "progressive": 9.0, "vsd": 4.0}
"""How many times closer by method, unless given."""


@dataclass(frozen=True)
class RefineSettings:
    """How to refine a Gaussian scene.

    Attributes:
        method: pseudo-labels: photographs warped into virtual close-ups supervise the scene; progressive:
            generated views train it, three times nearer in each round (Close-up-GS); vsd: photographs that a diffusion
            model enlarges supervise it, in rounds (super-resolution)
        target: point to approach, in fractions of the first photograph's width and height; part of the virtual
            close-ups are on the way there (default: 0.5,0.5, without additional close-ups there)
        path_share: share of the virtual close-ups on the way to --target, with pseudo-labels; 1 trains for this path
            alone (test-time training), 0 for close-ups of everything alike (default: 0.5)
        factor: how many times closer the nearest close-ups are than the photographs; with vsd: enlargement of the
            photographs, a whole number (default: 9; vsd: 4)
        iterations: optimisation steps (default: 1000; progressive: 400 in each round; vsd: 500 in each round)
        size: longest side of the images in pixels
        model: with progressive and vsd: mini (ships with the package), a checkpoint folder, or a Hub id; with vsd also
            sd-x4, Stable Diffusion's x4 upscaler, and none, back-projection only
        seed: seed of every random draw
        enlargement: how photographs are enlarged, with --method vsd
    """

    method: Annotated[Method, option()] = "pseudo-labels"
    target: Annotated[tuple[float, float] | None, parsed("U,V", fractions), option()] = None
    path_share: Annotated[float | None, option("SHARE")] = limited(None, low=0, high=1)
    factor: Annotated[float | None, option("FACTOR")] = limited(None, low=2, high=100)
    iterations: Annotated[int | None, option("N")] = limited(None, low=1, high=1_000_000)
    size: Annotated[int, option("PIXELS")] = limited(512, low=64, high=8192)
    model: Annotated[str, option("MODEL")] = "mini"
    seed: Annotated[int, option("N")] = limited(0, low=0, high=2**63 - 1)
    enlargement: EnlargeSettings = EnlargeSettings()

    def __post_init__(self) -> None:
        """Refuse an option that would do nothing. Raises InputError."""
        if self.path_share is not None and (self.target is None or self.method != "pseudo-labels"):
            raise InputError(
                "--path-share is the share of pseudo-labels on the way to --target: give --target and no --method"
            )

    @property
    def times(self) -> float:
        """The factor as given, or the method's own."""
        return self.factor or FACTORS[self.method]

    @property
    def steps(self) -> int:
        """Number of optimisation steps, of each round if there are rounds."""
        return self.iterations or STEPS[self.method]
