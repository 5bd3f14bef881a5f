"""Frames that the model generates from the references."""

from dataclasses import dataclass, fields

from torch import Tensor

from cus.closeup import CloseUp, close_up
from cus.conditioning.kinds import KINDS, ConditioningKind, conditioning_kind
from cus.errors import InputError
from cus.evaluation.rows.conditioning import scales_of
from cus.evaluation.rows.row import PHOTO_SIZE, Row
from cus.evaluation.work import CaseWork
from cus.limits import limited

# Fields that are options of the conditioning images; each kind has some of them.
_OF_IMAGES = ("suppress_background", "scales", "shrink_references", "photo_size")


@dataclass(frozen=True, kw_only=True)
class Frames(Row):
    """The last frame that a model generates on the way from the nearest reference to the target.

    Attributes:
        model: "mini", a folder, or a Hub id; None: the evaluation's.
        lora: LoRA for the model: a file, a folder or a Hub id; None: no LoRA.
        conditioning: kind of the conditioning images, "hierarchical", "points" or "fused"; "auto": the model's best.
        suppress_background: for hierarchical and fused images: whether to remove leaked background (Eq. 5).
        scales: for hierarchical images: divisors of the resolution, e.g. [1] or [1, 4]; None: by the spacing of
            the points.
        shrink_references: for points: whether to make them as sparse as ViewCrafter's (`render_scene_points`).
        photo_size: for fused images: longest side in pixels of the photographs that provide the colours; None: as for
            the references.
        structure: whether to add a second pass guided by the global cloud; None: the model's default.
        steps: number of sampling steps; None: the model's default.
        guidance: classifier-free guidance scale; None: the model's default.
    """

    kind: str = "frames"
    label: str = "Generated frame"
    model: str | None = None
    lora: str | None = None
    conditioning: str = limited("auto", choices=("auto", *KINDS))
    suppress_background: bool = True
    scales: list[int] | None = None
    shrink_references: bool = False
    photo_size: int | None = limited(None, **PHOTO_SIZE)
    structure: bool | None = None
    steps: int | None = limited(None, low=1, high=1000)
    guidance: float | None = limited(None, low=0, high=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        scales_of(self.name, self.scales)
        if self.conditioning != "auto":
            self.images(self.conditioning)

    def images(self, own: str) -> ConditioningKind:
        """The kind of conditioning images for the model.

        Args:
            own: the model's best kind.

        Raises:
            InputError: an unknown kind, or one that lacks an option given in the row.
        """
        name = own if self.conditioning == "auto" else self.conditioning
        kind = conditioning_kind(
            name,
            suppress_background=self.suppress_background,
            scales=scales_of(self.name, self.scales),
            shrink_references=self.shrink_references,
        )
        known = self.options_of(kind)
        for option in _OF_IMAGES:
            if option not in known and getattr(self, option) != getattr(type(self), option):
                raise InputError(f"row {self.name}: {name} images have no {option}, only {', '.join(known)}")
        return kind

    def options_of(self, kind: ConditioningKind) -> list[str]:
        """The fields that apply to a kind of conditioning images."""
        return [field.name for field in fields(kind)] + (["photo_size"] if kind.takes_photographs else [])

    def picture(self, case: CaseWork) -> Tensor:  # noqa: D102
        return self.close_up(case).frames[-1]

    def close_up(self, case: CaseWork) -> CloseUp:
        """The frames, made once for all rows that ask for the same; two passes share the first with one."""
        names = (self.model or case.defaults.model, self.lora)
        own = case.models[names].sampling
        kind = self.images(own.conditioning)
        passes = 1 + (own.second_pass if self.structure is None else self.structure)
        photo_size = self.photo_size if kind.takes_photographs else None
        key = (names, kind, photo_size, self.steps, self.guidance)

        def make() -> CloseUp:
            return close_up(
                case.scene,
                case.path(case.defaults.frames or own.frames),
                case.models[names],
                passes=passes,
                kind=kind,
                photographs=case.references.photographs(photo_size),
                reference=case.nearest,
                steps=self.steps,
                guidance=self.guidance,
                seed=case.defaults.seed,
                each=case.each(photo_size, passes, *key),
            )

        return case.once(("close-up", passes, *key), make)
