"""What a run of `cus-eval` is asked to do; YAML files under `configs/eval/` hold the same names."""

import difflib
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from cus.conditioning.kinds import KINDS as CONDITIONING_KINDS
from cus.conditioning.options import check_scales
from cus.errors import InputError
from cus.estimators.choice import choose
from cus.evaluation.protocol import PROTOCOL_CHOICES, Protocols, Rules
from cus.inference.fitting import FitOptions
from cus.splats.fit_config import StrategyName

# Kinds of rows, and what each is called in tables.
KINDS = {
    "nearest": "Nearest reference, warped",
    "warp": "Hierarchical warp",
    "points": "Point render",
    "fused": "Fused warp",
    "references_splat": "3DGS of the references",
    "frames": "Generated frame",
    "splat": "3DGS of the generated frames",
}
CLASSICAL = ("nearest", "warp", "points", "fused", "references_splat")


@dataclass
class RowSettings:
    """One method of a table. What a kind does not use is ignored.

    Attributes:
        kind: "nearest" (the nearest reference seen through its depth, bicubic), "warp" (forward warp), "points"
            (ViewCrafter's point render), "fused" (the fused warp), "references_splat" (3DGS of the photographs alone),
            "frames" (the model), "splat" (3DGS of the model's frames and the photographs).
        name: in records and file names; by default the kind.
        label: in tables; by default by kind.
        blur: a second row shows the same under its best Gaussian blur, which the truth chooses.
        scales: resolutions of the forward warp as divisors, e.g. [1] or [1, 4]; None: as many as the spacing asks for.
        photo_size: longest side in pixels of the photographs that the fused warp takes colours from and that crops
            supervise fits with; None: as many as the references have. Depth is always that of the references.
        suppress_background: whether leaked background is removed (Eq. 5).
        inpaint: whether holes of the warp, or of the point render, are filled from their surroundings (push and pull).
        conditioning: what the model is shown, "hierarchical", "points" or "fused"; "auto": what it does best with.
        shrink_references: whether point renders are as sparse as ViewCrafter's own, see `render_scene_points`.
        model: "mini", a folder, or a Hub id; None: the evaluation's.
        structure: whether a second pass is guided by the global cloud; None: as the model says.
        steps: sampling steps; None: as the model says.
        guidance: classifier-free guidance scale; None: as the model says.
        image_confidence: Eq. 10's W_image in the fit.
        pixel_confidence: Eq. 9's W_pixel in the fit.
        strategy: of the fit: fixed, default or mcmc; None: as `cus-fit` chooses.
        iterations: of the fit; None: the evaluation's.
    """

    kind: str = "warp"
    name: str = ""
    label: str = ""
    blur: bool = False
    scales: list[int] | None = None
    photo_size: int | None = None
    suppress_background: bool = True
    inpaint: bool = False
    conditioning: str = "auto"
    shrink_references: bool = False
    model: str | None = None
    structure: bool | None = None
    steps: int | None = None
    guidance: float | None = None
    image_confidence: bool = True
    pixel_confidence: bool = True
    strategy: str | None = None
    iterations: int | None = None

    def check(self) -> None:
        """Fill in name and label; refuse what cannot be. Raises InputError."""
        if self.kind not in KINDS:
            near = difflib.get_close_matches(self.kind, KINDS, n=1, cutoff=0)
            raise InputError(f"there is no kind of row {self.kind!r}; did you mean {near[0]!r}?")
        self.name, self.label = self.name or self.kind, self.label or KINDS[self.kind]
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", self.name):
            raise InputError(f"the row name {self.name!r} must do as a file name: letters, digits, . _ + -")
        if self.name in ("target", "truth"):
            raise InputError(f"the row name {self.name!r} is the truth's; choose another")
        if self.scales is not None:
            try:
                check_scales(self.scales)
            except ValueError as error:
                raise InputError(f"row {self.name}: {error}") from error
        if self.conditioning not in ("auto", *CONDITIONING_KINDS):
            known = ", ".join(("auto", *CONDITIONING_KINDS))
            raise InputError(f"row {self.name}: conditioning must be one of {known}, got {self.conditioning!r}")
        if self.strategy is not None and self.strategy not in get_args(StrategyName):
            known = ", ".join(get_args(StrategyName))
            raise InputError(f"row {self.name}: strategy must be one of {known}, got {self.strategy!r}")
        FitOptions(iterations=self.iterations).check()
        if self.photo_size is not None and not 64 <= self.photo_size <= 16384:
            raise InputError(f"row {self.name}: photo_size must be 64 to 16384 pixels, got {self.photo_size}")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise InputError(f"row {self.name}: steps must be 1 to 1000, got {self.steps}")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise InputError(f"row {self.name}: guidance must be 0 to 100, got {self.guidance:g}")

    @property
    def classical(self) -> bool:
        """Whether no network takes part."""
        return self.kind in CLASSICAL


def default_rows() -> list[RowSettings]:
    """Classical rows, each under its best blur, too, then the model's."""
    return [
        RowSettings("nearest", blur=True),
        RowSettings("warp", "warp-high", "Forward warp, high resolution", True, scales=[1]),
        RowSettings("warp", "warp-low", "Forward warp, low resolution", True, scales=[4]),
        RowSettings("warp", "hierarchical", "Hierarchical warp", True),
        RowSettings("fused", blur=True),
        RowSettings("warp", "inpainted", "Hierarchical warp, push-pull inpainting", True, inpaint=True),
        RowSettings("references_splat", blur=True),
        RowSettings("frames"),
        RowSettings("splat"),
    ]


@dataclass
class EvalSettings:
    """One evaluation.

    Attributes:
        title: of the tables.
        protocol: "closeup", "regular" or "both"; with both, `axes` should name protocol.
        model: "mini", a folder written by `save_pretrained`, or a Hub id.
        rows: methods, in the table's order.
        baseline: name of the row that differences are to; "" is none.
        axes: what splits the table's columns: level, motion, zoom, place, protocol, scene.
        metrics: names; None takes every one that can be had here.
        rules: of the choice of cases where no split file is given, see `Rules`; what is not named is the default.
        scenes: names of the scenes to take; None takes all.
        size: longest side of references, frames and truth in pixels; 0 takes the split file's, else the model's.
        poses: "given" (the data set's), or "estimated" (intrinsics given, the references' poses estimated and aligned,
            the target's found in their scene (`resected`); the errors stand in the table).
        estimator: of depth, and of poses where they are not given; see `estimate_scene`.
        splat_iterations: of every fit; None takes the backend's default.
        frames: frames of a path; None takes the model's.
        seed: of every random draw, the bootstrap's included.
        device: a torch device, or "auto".
        dtype: "auto", "float32", "bfloat16" or "float16": the precision of the network.
    """

    title: str = "Close-up benchmark"
    protocol: str = "closeup"
    model: str = "mini"
    rows: list[RowSettings] = field(default_factory=default_rows)
    baseline: str = "hierarchical"
    axes: list[str] = field(default_factory=lambda: ["level"])
    metrics: list[str] | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    scenes: list[str] | None = None
    size: int = 0
    poses: str = "given"
    estimator: str = "auto"
    splat_iterations: int | None = None
    frames: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def check(self) -> None:
        """Refuse what cannot be done, before anything slow starts. Raises InputError."""
        for name, value, known in (
            ("protocol", self.protocol, PROTOCOL_CHOICES),
            ("poses", self.poses, ("given", "estimated")),
            ("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16")),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        choose(self.estimator)
        if not self.rows:
            raise InputError("there is no row to evaluate; name some under rows")
        for row in self.rows:
            row.check()
        names = self.row_names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"two rows are called {twice[0]!r}; give one another name")
        if self.baseline and self.baseline not in names:
            raise InputError(f"the baseline {self.baseline!r} is no row; there are {', '.join(names)}")
        unknown = [axis for axis in self.axes if axis not in ("level", "motion", "zoom", "place", "protocol", "scene")]
        if unknown:
            raise InputError(f"there is no axis {unknown[0]!r}; choose of level, motion, zoom, place, protocol, scene")
        if self.size and not 64 <= self.size <= 8192:
            raise InputError(f"size must be 64 to 8192 pixels, got {self.size}")
        if self.frames is not None and not 1 <= self.frames <= 1000:
            raise InputError(f"frames must be 1 to 1000, got {self.frames}")
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

    def made_protocol(self) -> Protocols:
        """The protocol or both. Raises InputError for one that there is not."""
        for choice in PROTOCOL_CHOICES:
            if choice == self.protocol:
                return choice
        raise InputError(f"protocol must be one of {', '.join(PROTOCOL_CHOICES)}, got {self.protocol!r}")

    @property
    def row_names(self) -> list[str]:
        """Of all rows, blurred ones after their own."""
        return [name for row in self.rows for name in ((row.name, blurred_name(row.name)) if row.blur else (row.name,))]

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


def blurred_name(name: str) -> str:
    """Of the row that shows another one under its best blur."""
    return f"{name}+blur"
