"""What a run of `cus-eval` is asked to do; YAML files under `configs/eval/` hold the same names."""

import difflib
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from cus.choices import Precision
from cus.errors import InputError
from cus.estimators.choice import choose
from cus.evaluation.choices import LARGEST_SIZE, SMALLEST_SIZE, EvalChoices
from cus.evaluation.protocol import Rules
from cus.evaluation.rows import Frames, FusedWarp, Nearest, ReferencesSplat, Row, Splat, Warp, row_of
from cus.evaluation.work import Defaults
from cus.inference.fit_options import FitOptions
from cus.limits import check_limits, limited

# What may split the columns of a table.
AXES = ("level", "motion", "zoom", "place", "protocol", "scene")


def default_rows() -> list[Row]:
    """Classical rows, each under its best blur, too, then the model's."""
    return [
        Nearest(blur=True),
        Warp(name="warp-high", label="Forward warp, high resolution", blur=True, scales=[1]),
        Warp(name="warp-low", label="Forward warp, low resolution", blur=True, scales=[4]),
        Warp(name="hierarchical", blur=True),
        FusedWarp(blur=True),
        Warp(name="inpainted", label="Hierarchical warp, push-pull inpainting", blur=True, inpaint=True),
        ReferencesSplat(blur=True),
        Frames(),
        Splat(),
    ]


@dataclass
class EvalSettings(EvalChoices):
    """One evaluation.

    Attributes:
        title: of the tables.
        rows: methods, in the table's order: a `Row` each, or its entry in a config file (`row_of`).
        baseline: name of the row that differences are to; "" is none.
        axes: what splits the table's columns, of `AXES`.
        rules: of the choice of cases where no split file is given, see `Rules`; what is not named is the default.
        estimator: of depth, and of poses where they are not given; see `estimate_scene`.
        splat_iterations: of every fit; None takes the backend's default.
        frames: frames of a path; None takes the model's.
        dtype: "auto", "float32", "bfloat16" or "float16": the precision of the network.
    """

    title: str = "Close-up benchmark"
    rows: list[Any] = field(default_factory=default_rows)
    baseline: str = "hierarchical"
    axes: list[str] = limited(default_factory=lambda: ["level"], choices=AXES)
    rules: dict[str, Any] = field(default_factory=dict)
    estimator: str = "auto"
    splat_iterations: int | None = None
    frames: int | None = limited(None, low=1, high=1000)
    dtype: str = limited("auto", choices=get_args(Precision))

    def __post_init__(self) -> None:
        """Make rows of entries. Raises InputError."""
        self.rows = [row if isinstance(row, Row) else row_of(row) for row in self.rows]

    def check(self) -> None:
        """Refuse what cannot be done, before anything slow starts. Raises InputError."""
        check_limits(self)
        choose(self.estimator)
        if not self.rows:
            raise InputError("there is no row to evaluate; name some under rows")
        names = self.row_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"two rows are called {twice[0]!r}; give one another name")
        if self.baseline and self.baseline not in names:
            raise InputError(f"the baseline {self.baseline!r} is no row; there are {', '.join(names)}")
        if self.size and not SMALLEST_SIZE <= self.size <= LARGEST_SIZE:
            raise InputError(f"size must be {SMALLEST_SIZE} to {LARGEST_SIZE} pixels, got {self.size}")
        FitOptions(iterations=self.splat_iterations, seed=self.seed).check()
        self.made_rules()

    def made_rules(self) -> Rules:
        """The rules of the choice of cases. Raises InputError for an unknown or impossible one."""
        known = [field.name for field in fields(Rules)]
        for name in self.rules:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
                raise InputError(f"there is no rule {name!r}; did you mean {near[0]!r}?")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.rules.items()}
        for name, value in values.items():
            _check_rule(name, value, getattr(Rules(), name))
        try:
            return Rules(**values)
        except (TypeError, ValueError) as error:
            raise InputError(f"the rules {values} cannot be: {error}") from error

    @property
    def row_names(self) -> list[str]:
        """Of all rows, blurred ones after their own."""
        return [name for row in self.rows for name in row.names]

    @property
    def defaults(self) -> Defaults:
        """What holds for rows that do not say otherwise."""
        return Defaults(self.model, self.frames, self.splat_iterations, self.seed)

    def summary(self) -> dict[str, Any]:
        """Plain values, to be recorded."""
        return asdict(self)


def _check_rule(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the rule has. Raises InputError."""
    whole, many = name in ("triples", "photographs"), isinstance(default, tuple)
    if whole and value is None:
        return
    types = str if name == "centers" else int if whole else (int, float)
    parts = value if many else (value,)
    fits = isinstance(parts, tuple) and all(isinstance(part, types) and not isinstance(part, bool) for part in parts)
    if name in ("easy", "hard", "between", "dolly"):
        fits = fits and len(parts) == 2
    if not fits:
        expected = "a whole number, or null for all" if whole else f"such as {list(default) if many else default}"
        raise InputError(f"the rule {name!r} must be {expected}; got {value!r}")
