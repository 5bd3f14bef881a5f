"""Chooses references and targets: the close-up and the regular protocol, by stated rules.

The paper (Section IV-B) enlarges the focal length by 4 to 5 or moves in by 50 to 60 % of the depth, uses two references
per scene, and calls a scene easy or hard by the spacing of its references, without stating the threshold. Here targets
are held-out photographs: a zoom is a full-resolution crop of one, a dolly is one that was really taken closer. Spacing
is the angle between the references as seen from the scene, which needs no unit. `Rules` holds every number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from cus.cameras import PosedPhotos
from cus.errors import InputError
from cus.evaluation.choices import Protocols
from cus.evaluation.geometry import RoughGeometry, angles_at, project, rough_geometry

Protocol = Literal["closeup", "regular"]
Level = Literal["easy", "hard"]
Motion = Literal["zoom", "dolly"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
# Choices for an evaluation: one protocol, or both in one table.
PROTOCOL_CHOICES: tuple[Protocols, ...] = get_args(Protocols)
LEVELS: tuple[Level, ...] = get_args(Level)
CENTERS = {
    "centre": (0.5, 0.5),
    "upper-left": (0.3, 0.3),
    "upper-right": (0.7, 0.3),
    "lower-left": (0.3, 0.7),
    "lower-right": (0.7, 0.7),
}
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """One task: from two photographs of a scene, make (a part of) a third.

    Attributes:
        name: unique name in its scene, e.g. "0005+0007-0006-x4-centre".
        references: names of the given photographs (`PosedPhotos.names`).
        target: name of the held-out photograph.
        protocol: "closeup" or "regular".
        level: "easy" or "hard", by the spacing of the references.
        zoom: factor by which the crop is smaller than the target photograph, in width and height; 1: all of it.
        center: centre of the crop (u, v) in fractions of the target's width and height.
        motion: "zoom": the target is between the references; "dolly": it is closer to the scene.
    """

    name: str
    references: tuple[str, ...]
    target: str
    protocol: Protocol
    level: Level
    zoom: float
    center: tuple[float, float]
    motion: Motion


@dataclass(frozen=True)
class Rules:
    """The numbers that choose cases. Angles are in degrees, overlaps and positions fractions.

    Attributes:
        zooms: magnifications of close-ups; each gives one case per triple and crop centre.
        centers: names of crop centres in `CENTERS`; a crop that would extend outside is moved inside.
        easy: smallest and largest angle between two references as seen from their common points.
        hard: the same for hard pairs; above its smallest angle, a pair is no longer easy.
        pair_overlap: minimum fraction of each reference's picture that lies within the other's.
        overlap: minimum fraction of the target's picture (of the crop, for a close-up) that lies within each
            reference's.
        between: range of the target's position along the line between the references, 0 at the first, 1 at the second.
        aside: maximum distance from that line, in baselines.
        dolly: range of the fraction of the references' distance to the scene that a dolly target has moved closer: the
            paper's 50 to 60 %, widened to allow for rough depths.
        dolly_turn: maximum angle between a dolly target and the nearer reference, seen from the scene.
        triples: maximum number of (references, target) per level and motion, evenly spaced; None: all.
        photographs: maximum number of photographs used per scene, evenly spaced over its list; None: all.
    """

    zooms: tuple[float, ...] = (4.0, 5.0)
    centers: tuple[str, ...] = tuple(CENTERS)
    easy: tuple[float, float] = (4.0, 28.0)
    hard: tuple[float, float] = (28.0, 50.0)
    pair_overlap: float = 0.5
    overlap: float = 0.7
    between: tuple[float, float] = (0.1, 0.9)
    aside: float = 0.5
    dolly: tuple[float, float] = (0.45, 0.65)
    dolly_turn: float = 25.0
    triples: int | None = None
    photographs: int | None = 60

    def __post_init__(self) -> None:
        unknown = [name for name in self.centers if name not in CENTERS]
        if unknown or not self.centers:
            raise InputError(f"crop centres are {', '.join(CENTERS)}; got {', '.join(unknown) or 'none'}")
        if not self.zooms or min(self.zooms) < 1:
            raise InputError(f"zooms must be at least 1, got {self.zooms}")
        for name in ("easy", "hard", "between", "dolly"):
            low, high = getattr(self, name)
            if not low <= high:
                raise InputError(f"the rule '{name}' runs from its least to its largest value, got {low} to {high}")
        for name in ("triples", "photographs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"the rule '{name}' must be at least 1, or none for all, got {value}")


@dataclass(frozen=True)
class Triple:
    """Indices of two references and a target."""

    a: int
    b: int
    target: int
    level: Level
    motion: Motion


def index_of(posed: PosedPhotos, name: str) -> int:
    """The index of a photograph in the scene. Raises InputError for an unknown name."""
    names = posed.names
    if name not in names:
        raise InputError(
            f"the scene has no photograph {name}; it has {', '.join(names[:6])}{', ...' * (len(names) > 6)}"
        )
    return names.index(name)


def choose_cases(
    posed: PosedPhotos, rules: Rules, protocol: Protocols = "closeup", geometry: RoughGeometry | None = None
) -> list[Case]:
    """The cases of a scene, deterministic for the same photographs and rules, in the order of the scene's file.

    A valid pair of references sees enough of each other's picture (`pair_overlap`) at an angle of `easy` or `hard`. A
    target between them (`between`, `aside`) of which each sees `overlap` completes a triple; for close-ups, so does a
    target that has moved closer by `dolly`. Each triple gives one whole photograph (regular), or those of its crops
    (close-up) of which each reference sees `overlap`, or one whole photograph (dolly).

    Args:
        posed: photographs of the scene, at least three.
        rules: numbers that decide which cases are valid.
        protocol: "closeup", "regular", or "both": the cases of one, then of the other.
        geometry: rough geometry of exactly these photographs; None: computed by `rough_geometry`.

    Raises:
        InputError: fewer than three photographs, no overlap at all, or no valid triple; the message names the rule that
            left none.
    """
    protocols = protocols_of(protocol)
    if len(posed) < 3:
        raise InputError(
            f"{_place(posed)} has {len(posed)} photograph(s) with cameras; two references and a target make three"
        )
    names = posed.names
    if geometry is None:
        chosen = thinned(list(range(len(posed))), rules.photographs)
        posed, names = posed.select(chosen), [names[i] for i in chosen]
        geometry = rough_geometry(posed)
    if len(geometry) != len(posed):
        raise ValueError(f"the geometry is of {len(geometry)} photographs, the scene has {len(posed)}")
    table = _Table.of(geometry)
    pairs = legal_pairs(table, rules)
    if not pairs:
        raise InputError(
            f"{_place(posed)}: no two photographs make a pair of references: each must see {rules.pair_overlap:.0%} of "
            f"the other's picture from {rules.easy[0]:g} to {rules.hard[1]:g} degrees"
        )
    titles = short_names(names)
    cases = [
        case
        for one in protocols
        for triple in legal_triples(table, pairs, rules, one)
        for case in _cases_of(triple, names, titles, geometry, rules, one)
    ]
    if not cases:
        raise InputError(
            f"{_place(posed)}: {len(pairs)} pairs of references, but no third photograph stands between them and shows "
            f"what each sees {rules.overlap:.0%} of; lower the rules 'overlap' or 'between' for this scene"
        )
    return cases


def protocols_of(protocol: str) -> tuple[Protocol, ...]:
    """The protocols that a choice stands for. Raises InputError for an unknown one."""
    if protocol not in PROTOCOL_CHOICES:
        raise InputError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOL_CHOICES)}")
    return PROTOCOLS if protocol == "both" else tuple(one for one in PROTOCOLS if one == protocol)


def thinned(items: list[T], most: int | None) -> list[T]:
    """At most `most` items, evenly spaced, including the first and last."""
    if most is None or len(items) <= most:
        return items
    if most == 1:
        return [items[len(items) // 2]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


@dataclass(frozen=True)
class _Table:
    """Pairwise measures [V, V]; row: photograph of the points; column: photograph that sees them.

    Attributes:
        overlap: fraction of the row's grid points that fall into the column's picture.
        angle: median angle in degrees between the two cameras seen from those points; NaN without common points.
        nearer: median fraction of the column's depth by which the row's camera is closer; negative if farther.
    """

    overlap: Tensor
    angle: Tensor
    nearer: Tensor
    centers: Tensor

    @staticmethod
    def of(geometry: RoughGeometry) -> "_Table":
        count = len(geometry)
        overlap, angle, nearer = (torch.zeros(count, count, dtype=torch.float64) for _ in range(3))
        known, centers = geometry.known, geometry.centers
        for row in range(count):
            if not known[row]:
                angle[row] = nearer[row] = float("nan")
                continue
            points = geometry.points(row)
            own = project(geometry.cameras[row], points)[1]
            for column in range(count):
                seen = geometry.sees(column, points) & bool(known[column])
                overlap[row, column] = seen.double().mean()
                angle[row, column] = angles_at(points[seen], centers[row], centers[column]).nanmedian()
                depths = project(geometry.cameras[column], points[seen])[1]
                nearer[row, column] = (1 - own[seen] / depths).nanmedian()
        return _Table(overlap, angle, nearer, centers)


def legal_pairs(table: _Table, rules: Rules) -> list[tuple[int, int, Level]]:
    """Pairs a < b that are valid references, with their level."""
    overlap = torch.minimum(table.overlap, table.overlap.T)
    angle = (table.angle + table.angle.T) / 2
    pairs: list[tuple[int, int, Level]] = []
    for a, b in torch.combinations(torch.arange(len(angle)), 2).tolist():
        value = float(angle[a, b])
        if not (overlap[a, b] >= rules.pair_overlap):
            continue
        if rules.easy[0] <= value <= rules.easy[1]:
            pairs.append((a, b, "easy"))
        elif rules.hard[0] <= value <= rules.hard[1]:
            pairs.append((a, b, "hard"))
    return pairs


def legal_triples(table: _Table, pairs: list[tuple[int, int, Level]], rules: Rules, protocol: Protocol) -> list[Triple]:
    """All valid targets of each pair of references, thinned to `rules.triples` per level and motion."""
    groups: dict[tuple[Level, Motion], list[Triple]] = {}
    for a, b, level in pairs:
        seen = torch.minimum(table.overlap[:, a], table.overlap[:, b]) >= rules.overlap
        inside = _between(table.centers, a, b, rules)
        nearer = (table.nearer[:, a] + table.nearer[:, b]) / 2
        turn = torch.minimum(table.angle[:, a], table.angle[:, b])
        closer = (nearer >= rules.dolly[0]) & (nearer <= rules.dolly[1]) & (turn <= rules.dolly_turn)
        for target in seen.nonzero().flatten().tolist():
            if target in (a, b):
                continue
            if protocol == "closeup" and closer[target]:
                groups.setdefault((level, "dolly"), []).append(Triple(a, b, target, level, "dolly"))
            elif inside[target]:
                groups.setdefault((level, "zoom"), []).append(Triple(a, b, target, level, "zoom"))
    return [triple for key in sorted(groups) for triple in thinned(groups[key], rules.triples)]


def _between(centers: Tensor, a: int, b: int, rules: Rules) -> Tensor:
    """[V] bool: cameras close to the line from camera a to camera b."""
    baseline = centers[b] - centers[a]
    length = baseline.norm().clamp(min=1e-12)
    offset = centers - centers[a]
    along = (offset @ baseline) / length**2
    aside = (offset - along[:, None] * baseline).norm(dim=1) / length
    return (along >= rules.between[0]) & (along <= rules.between[1]) & (aside <= rules.aside)


def window_of(center: tuple[float, float], zoom: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a crop as fractions of the photograph, moved inside if it would extend outside."""
    half = 0.5 / zoom
    u, v = (min(max(value, half), 1 - half) for value in center)
    return u - half, v - half, u + half, v + half


def _cases_of(
    triple: Triple, names: list[str], titles: list[str], geometry: RoughGeometry, rules: Rules, protocol: Protocol
) -> list[Case]:
    """The crops of a triple of which both references see enough."""
    references, target = (names[triple.a], names[triple.b]), names[triple.target]
    title = f"{titles[triple.a]}+{titles[triple.b]}-{titles[triple.target]}"
    if protocol == "regular" or triple.motion == "dolly":
        title += "-dolly" if triple.motion == "dolly" else ""
        return [Case(title, references, target, protocol, triple.level, 1.0, (0.5, 0.5), triple.motion)]
    cases = []
    for zoom in rules.zooms:
        for place in rules.centers:
            window = window_of(CENTERS[place], zoom)
            points = geometry.points(triple.target, window)
            if min(float(geometry.sees(view, points).double().mean()) for view in (triple.a, triple.b)) < rules.overlap:
                continue
            center = (window[0] + window[2]) / 2, (window[1] + window[3]) / 2
            name = f"{title}-x{zoom:g}-{place}"
            cases.append(Case(name, references, target, protocol, triple.level, float(zoom), center, "zoom"))
    return cases


def short_names(names: Sequence[str]) -> list[str]:
    """Photographs' names without extensions, usable in file names; with extensions, or numbers, if not unique."""
    flat = [name.replace("/", "_").replace("\\", "_") for name in names]
    for candidates in ([Path(name).stem for name in flat], flat):
        if len(set(candidates)) == len(names):
            return candidates
    return [f"{index:04d}" for index in range(len(names))]


def _place(posed: PosedPhotos) -> str:
    return str(posed.paths[0].parent) if len(posed) else "the scene"
