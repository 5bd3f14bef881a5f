"""Split files: the cases of an evaluation, in JSON that anyone with the same data can run again."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from cus.cameras import PosedPhotos
from cus.cameras.transforms_json import read_json
from cus.datasets.scenes import KINDS, Kind, SceneSource, find_scenes, open_source
from cus.errors import InputError, shown
from cus.evaluation.protocol import (
    LEVELS,
    PROTOCOL_CHOICES,
    PROTOCOLS,
    Case,
    Protocols,
    Rules,
    choose_cases,
    index_of,
    protocols_of,
)
from cus.files import replacing

FORMAT = "cus-split-1"
SHOWN = 8  # maximum number of differences in a message
LARGEST_SIZE = 8192  # largest side of pictures in pixels


@dataclass(frozen=True)
class SplitPhoto:
    """A photograph when the split was made, to detect changed data.

    Attributes:
        name: name in the scene (`PosedPhotos.names`).
        width: width in pixels.
        height: height in pixels.
        focal: focal length along x in pixels.
        center: camera centre in the scene's unit.
    """

    name: str
    width: int
    height: int
    focal: float
    center: tuple[float, float, float]


@dataclass(frozen=True)
class SceneSplit:
    """The cases of one scene.

    Attributes:
        source: path of the scene's cameras, relative to the data folder, with forward slashes.
        kind: kind of layout (`cus.datasets.scenes`).
        photographs: photographs used by the cases.
        cases: cases in order.
    """

    source: str
    kind: Kind
    photographs: tuple[SplitPhoto, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Split:
    """An evaluation: scenes and their cases, and the rules that chose them.

    Attributes:
        protocol: protocol of the cases: "closeup", "regular" or "both".
        size: longest side of the model's frames, in pixels.
        rules: rules that chose the cases.
        scenes: name -> its cases.
    """

    protocol: Protocols
    size: int
    rules: Rules
    scenes: dict[str, SceneSplit]

    def __len__(self) -> int:
        return sum(len(scene.cases) for scene in self.scenes.values())

    def source(self, name: str, data_folder: Path | str) -> SceneSource:
        """The location of a scene of the split, for `cus.datasets.scenes.open_source`."""
        scene = self.scenes[name]
        return SceneSource(name, scene.kind, Path(data_folder) / scene.source)


def build_split(
    data_folder: Path | str,
    protocol: Protocols,
    size: int,
    rules: Rules | None = None,
    only: Sequence[str] | None = None,
) -> tuple[Split, dict[str, str]]:
    """Choose the cases of every scene in a folder.

    Args:
        data_folder: folder of a scene or of several scenes (`find_scenes`).
        protocol: protocol of the cases: "closeup", "regular" or "both".
        size: longest side of the model's frames, in pixels.
        rules: rules for choosing cases; by default `Rules()`.
        only: names of the scenes to use; None: all.

    Returns:
        (the split, name -> reason for scenes without cases; with both protocols also "name (protocol)" for those that
        only have cases of the other one). The split may be empty.

    Raises:
        InputError: no scene in the folder, or an unknown name in `only`.
    """
    rules = rules or Rules()
    sources = find_scenes(data_folder)
    if only is not None:
        known = [source.name for source in sources]
        unknown = [name for name in only if name not in known]
        if unknown:
            raise InputError(f"{data_folder} has no scene {', '.join(unknown)}; it has {', '.join(known[:SHOWN])}")
        sources = [source for source in sources if source.name in only]
    scenes, failures = {}, {}
    for source in sources:
        try:
            posed = open_source(source)
            cases = tuple(choose_cases(posed, rules, protocol))
            scenes[source.name] = SceneSplit(
                _relative(source.path, data_folder), source.kind, _used(posed, cases), cases
            )
            for missing in set(protocols_of(protocol)) - {case.protocol for case in cases}:
                failures[f"{source.name} ({missing})"] = "no target that the rules of this protocol allow"
        except InputError as error:
            failures[source.name] = str(error)
    return Split(protocol, size, rules, scenes), failures


def save_split(path: Path | str, split: Split) -> None:
    """Write a split file atomically. Raises InputError if that fails."""
    with replacing(path, parents=True) as part:
        part.write_text(json.dumps({"format": FORMAT, **asdict(split)}, indent=1) + "\n")


def load_split(path: Path | str, data_folder: Path | str | None = None) -> Split:
    """Read a split file and compare it with the data.

    Args:
        path: split file to read.
        data_folder: folder of the scenes' sources; None: compare nothing.

    Raises:
        InputError: a file that is not a split or is damaged (the message names the place), or data that differ from it:
            scenes or photographs that are missing, or of another size, focal length or position.
    """
    path = Path(path)
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} is no split file of this version: its format is {content.get('format')!r}, not {FORMAT!r}"
        )
    split = _parsed(content, path)
    if data_folder is not None:
        found = differences(split, data_folder)
        if found:
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise InputError(f"the data in {data_folder} are not those of {path}: {'; '.join(found[:SHOWN])}{more}")
    return split


def differences(split: Split, data_folder: Path | str) -> list[str]:
    """Differences between a split and the data folder; one line each, empty if everything matches."""
    found = []
    for name, scene in split.scenes.items():
        source = split.source(name, data_folder)
        if not source.path.exists():
            found.append(f"{name}: there is no {source.path}")
            continue
        try:
            posed = open_source(source)
            names = posed.names
        except InputError as error:
            found.append(f"{name}: {error}")
            continue
        here = {photo.name: photo for photo in _photos(posed, [p.name for p in scene.photographs if p.name in names])}
        extent = _extent(scene.photographs)
        for photo in scene.photographs:
            if photo.name not in here:
                found.append(f"{name}: no photograph {photo.name}")
            else:
                found.extend(f"{name}: {photo.name} {line}" for line in _changes(photo, here[photo.name], extent))
    return found


def _changes(then: SplitPhoto, now: SplitPhoto, extent: float) -> list[str]:
    """Differences between a photograph and its entry in the split."""
    lines = []
    if (then.width, then.height) != (now.width, now.height):
        lines.append(f"is {now.width}x{now.height} pixels, {then.width}x{then.height} in the split")
    elif abs(then.focal - now.focal) > 1e-3 * then.focal:
        lines.append(f"has a focal length of {now.focal:.1f} pixels, {then.focal:.1f} in the split")
    if math.dist(then.center, now.center) > 1e-3 * extent:
        lines.append("was taken from another place than the split says (other cameras?)")
    return lines


def _extent(photographs: Sequence[SplitPhoto]) -> float:
    """The largest distance of a camera from the first one."""
    return max((math.dist(photographs[0].center, photo.center) for photo in photographs), default=0.0)


def _used(posed: PosedPhotos, cases: Sequence[Case]) -> tuple[SplitPhoto, ...]:
    named = {name for case in cases for name in (*case.references, case.target)}
    return _photos(posed, [name for name in posed.names if name in named])


def _photos(posed: PosedPhotos, names: Sequence[str]) -> tuple[SplitPhoto, ...]:
    photos = []
    for name in names:
        index = index_of(posed, name)
        viewmat = posed.viewmats[index].double()
        x, y, z = (posed.origin - viewmat[:3, :3].T @ viewmat[:3, 3]).tolist()
        photos.append(SplitPhoto(name, *posed.sizes[index], float(posed.Ks[index, 0, 0]), (x, y, z)))
    return tuple(photos)


def _relative(path: Path, folder: Path | str) -> str:
    # Not resolved: keep links inside the data folder.
    return path.relative_to(folder).as_posix()


def _parsed(content: Mapping[str, Any], path: Path) -> Split:
    """Parse a split from JSON. Raises InputError that names the place of the problem."""
    where = str(path)
    try:
        protocol, size = content["protocol"], content["size"]
        if protocol not in PROTOCOL_CHOICES or not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE:
            raise InputError(
                f"{path}: expected a protocol of {', '.join(PROTOCOL_CHOICES)} and a size of 1 to "
                f"{LARGEST_SIZE} pixels, got {shown(protocol)}, {shown(size)}"
            )
        where = f"{path}, rules"
        rules = parse_rules(content["rules"], where)
        scenes = {}
        for name, scene in content["scenes"].items():
            where = f"{path}, scene {name}"
            _check_inside(name, where)
            _check_inside(scene["source"], where)
            if scene["kind"] not in KINDS:
                raise InputError(f"{where}: expected a kind of {', '.join(KINDS)}, got {scene['kind']}")
            photos = tuple(
                SplitPhoto(p["name"], p["width"], p["height"], float(p["focal"]), _three(p["center"]))
                for p in scene["photographs"]
            )
            cases = []
            for entry in scene["cases"]:
                where = f"{path}, scene {name}, case {entry.get('name')}"
                cases.append(_case(entry, {photo.name for photo in photos}, where))
            if len({case.name for case in cases}) != len(cases):
                raise InputError(f"{path}, scene {name}: case names must be unique")
            scenes[name] = SceneSplit(scene["source"], scene["kind"], photos, tuple(cases))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where}: the split file is damaged ({type(error).__name__}: {error})") from error
    return Split(protocol, size, rules, scenes)


def _case(entry: Mapping[str, Any], photographs: set[str], where: str) -> Case:
    references = tuple(entry["references"])
    u, v = (float(value) for value in entry["center"])
    values: dict[str, Any] = {**entry, "references": references, "center": (u, v), "zoom": float(entry["zoom"])}
    case = Case(**values)
    if not case.name or case.name in (".", "..") or any(mark in case.name for mark in "/\\\0"):
        raise InputError(f"{where}: a case's name names a folder; {case.name!r} cannot")
    unknown = {*references, case.target} - photographs
    if unknown:
        raise InputError(f"{where}: it names {', '.join(sorted(unknown))}, which the scene does not list")
    if case.target in references or len(set(references)) < 2:
        raise InputError(f"{where}: expected different photographs, and a target that is no reference")
    ranges = case.zoom >= 1 and 0 <= u <= 1 and 0 <= v <= 1
    if case.protocol not in PROTOCOLS or case.level not in LEVELS or case.motion not in ("zoom", "dolly") or not ranges:
        raise InputError(f"{where}: protocol, level, motion, zoom or centre is none that there is: {dict(entry)}")
    return case


def parse_rules(entries: Mapping[str, Any], where: str) -> Rules:
    """Rules from plain values (lists for tuples), defaults for the rest. Raises InputError for unknown names."""
    known = [field.name for field in fields(Rules)]
    unknown = [name for name in entries if name not in known]
    if unknown:
        raise InputError(f"{where}: there is no rule {', '.join(unknown)}; there are {', '.join(known)}")
    values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in entries.items()}
    return Rules(**values)


def _check_inside(path: str, where: str) -> None:
    """Refuse a path outside the folder it is relative to: split files may come from other people."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path:
        raise InputError(f"{where}: {path!r} leads out of the data folder; paths in a split are relative to it")


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
