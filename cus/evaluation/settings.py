"""Settings of a `cus-eval` run; YAML files in `configs/eval/` use the same names."""

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

# Axes that can divide the columns of a table.
AXES = ("level", "motion", "zoom", "place", "protocol", "scene")


def default_rows() -> list[Row]:
    """Classical rows, also with their best blur, then the model's."""
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
    """Settings of one evaluation.

    Attributes:
        title: title of the tables.
        rows: methods in the table's order, each a `Row` or its entry in a config file (`row_of`).
        baseline: name of the row to which differences are taken; "": none.
        axes: axes that divide the table's columns, from `AXES`.
        rules: rules for choosing cases if no split file is given (`Rules`); rules not named keep their defaults.
        estimator: estimator of depths, and of poses unless they are given (`estimate_scene`).
        splat_iterations: number of iterations of every fit; None: the backend's default.
        frames: number of frames of a path; None: the model's.
        dtype: precision of the network: "auto", "float32", "bfloat16" or "float16".
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
        """Convert entries to rows. Raises InputError."""
        self.rows = [row if isinstance(row, Row) else row_of(row) for row in self.rows]

    def check(self) -> None:
        """Refuse invalid settings before anything slow starts. Raises InputError."""
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
        """The rules for choosing cases. Raises InputError for an unknown or invalid one."""
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
        """Names of all rows, blurred twins after their originals."""
        return [name for row in self.rows for name in row.names]

    @property
    def defaults(self) -> Defaults:
        """Defaults for rows that do not override them."""
        return Defaults(self.model, self.frames, self.splat_iterations, self.seed)

    def summary(self) -> dict[str, Any]:
        """The settings as plain values for records."""
        return asdict(self)


def _check_rule(name: str, value: Any, default: Any) -> None:
    """Refuse a value of another type than the rule's. Raises InputError."""
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
