"""Clips of posed scenes at scale: many scenes on many processes; data/build_clips.py is their command."""

import hashlib
import json
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from cus.datasets.clips import save_clip
from cus.datasets.scene_clips.make import MadeClip, SceneRecord, scene_clips
from cus.datasets.scene_clips.recipe import SceneRecipe
from cus.datasets.scenes import SceneSource, find_scenes, open_source
from cus.errors import InputError
from cus.files import read_json
from cus.limits import limited
from cus.output_folder import OutputFolder
from cus.remote import Destination
from cus.training import config
from cus.training.scripts import REMEDY

SETTINGS = "settings.yaml"
# Settings that may change when a build is resumed: paths, scenes, and processes.
FREE = ("out", "scenes", "names", "limit", "device", "dry_run", "part", "parts")
# Fractions of a scene's progress.
STEPS = 1000

OnProgress = Callable[[int, int, str], None]
"""Called with (steps done, total steps, current work)."""

FORMAT = "cus-clips-manifest-1"
MANIFEST = "manifest.json"
MARKS = "scenes"
SPLITS = TRAIN, HELD_OUT = "train", "held_out"
PLANNED = (SETTINGS, MANIFEST, f"{MARKS}/*.json", *(f"{split}/*.safetensors" for split in SPLITS))


@dataclass
class SceneClips:
    """Settings of the clips to build.

    Attributes:
        out: output folder: `train/` and `held_out/`, a record of each scene in `scenes/`, and `manifest.json`; or the
            URL of one on remote storage (s3://, hf://, ...), to which finished scenes are moved.
        scenes: posed scenes, or folders of them, in any layout of `cus.datasets.scenes`.
        licence: licence of the photographs, for the manifest.
        names: names of the scenes to use; empty: all.
        limit: maximum number of scenes, the first ones by name; 0: all.
        held_out: names of the scenes whose clips go to `held_out/`.
        held_out_share: fraction of the other scenes that go there, too, chosen by their names.
        seed: seed of every random draw.
        recipe: settings of the clips.
        device: torch device; "auto" is the process's own GPU if there is one.
        dry_run: build nothing; measure a part of one scene, and estimate time and disk space.
        part: index of this process's share, 0 .. parts - 1; only with `parts`.
        parts: number of processes; 0: as started by `accelerate launch`.
    """

    out: str = MISSING
    scenes: list[str] = field(default_factory=list)
    licence: str = MISSING
    names: list[str] = field(default_factory=list)
    limit: int = limited(0, low=0)
    held_out: list[str] = field(default_factory=list)
    held_out_share: float = limited(0.02, low=0, high=1)
    seed: int = limited(0, low=0)
    recipe: SceneRecipe = field(default_factory=SceneRecipe)
    device: str = "auto"
    dry_run: bool = False
    part: int = limited(0, low=0)
    parts: int = limited(0, low=0)


def build(settings: SceneClips, on_progress: OnProgress, say: Callable[[str], None]) -> None:
    """Build the clips of this process's unfinished scenes.

    A scene that fails is listed with the reason, and the others continue; the next run retries it.

    Args:
        settings: settings of the clips.
        on_progress: callback for progress.
        say: called with a line for every scene.

    Raises:
        InputError: invalid settings, no scene, a folder that is not writable, or, with a single process, failure of all
            scenes.
    """
    part, parts = share_of(settings.part, settings.parts)
    device = device_of(settings.device)
    sources = sources_of(settings)
    mine = sources[part::parts]
    place = Destination(settings.out)
    folder = OutputFolder(place.path, "training clips", REMEDY)
    place.check_free(PLANNED, SETTINGS)
    folder.open(PLANNED, inputs=[Path(scene) for scene in settings.scenes], share=f"-{part}-of-{parts}")
    failed = []
    try:
        place.bring(folder, SETTINGS, f"{MARKS}/*.json")
        config.write(settings, folder, SETTINGS, FREE, elsewhere=place.remote is not None)
        place.send(folder.path / SETTINGS, SETTINGS)
        try:
            for number, source in enumerate(mine):
                words = f"{number + 1} of {len(mine)} scenes"

                def tell(stage: str, share: float, at: int = number, words: str = words) -> None:
                    on_progress(int((at + share) * STEPS), len(mine) * STEPS, f"{words}: {stage}")

                tell("reading", 0.0)
                mark = _scene(folder, place, settings, source, device, tell)
                if mark is None:
                    continue
                say(_told(mark))
                failed += [f"{source.name}: {mark['failed']}"] if "failed" in mark else []
        finally:
            about = {"licence": settings.licence, "seed": settings.seed, "recipe": asdict(settings.recipe)}
            write_manifest(folder, place, about)
    finally:
        folder.close()
    # With several processes none may fail because of its scenes: launchers would stop the others, too.
    if mine and parts == 1 and len(failed) == len(mine):
        raise InputError(f"none of {len(mine)} scenes could be used; the first one: {failed[0]}")
    on_progress(STEPS, STEPS, f"{len(mine)} scenes, {len(failed)} of them failed")


def share_of(part: int, parts: int) -> tuple[int, int]:
    """(part, parts) of this process; those of its launcher if `parts` is 0. Raises InputError."""
    if not parts:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if part >= parts:
        raise InputError(f"part must be less than parts ({parts}), got {part}")
    return part, parts


def device_of(name: str) -> torch.device:
    """The device with this name; "auto": among several GPUs, that of this process. Raises InputError."""
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here ({str(error).splitlines()[0]}); try device=cpu") from error
    return device


def sources_of(settings: SceneClips) -> list[SceneSource]:
    """The scenes of all processes by name. Raises InputError for none, duplicate or unknown names, or nothing to do."""
    if not settings.scenes:
        raise InputError("name the scenes: scenes=[folder, ...]")
    if not settings.recipe.pseudo + settings.recipe.photographic:
        raise InputError("recipe.pseudo and recipe.photographic are both 0: there is nothing to build")
    found: dict[str, SceneSource] = {}
    for path in settings.scenes:
        for source in find_scenes(path):
            if _slug(source.name) in found:
                raise InputError(
                    f"two scenes are called {source.name} ({found[_slug(source.name)].path} and {source.path}); give a "
                    "folder above both, so that their names differ"
                )
            found[_slug(source.name)] = source
    known = {source.name for source in found.values()}
    for option in ("names", "held_out"):
        if unknown := [name for name in getattr(settings, option) if name not in known]:
            raise InputError(f"{option}: there is no scene {unknown[0]!r}; there are {', '.join(sorted(known)[:8])}")
    chosen = [source for _, source in sorted(found.items()) if not settings.names or source.name in settings.names]
    return chosen[: settings.limit] if settings.limit else chosen


def split_of(name: str, settings: SceneClips) -> str:
    """`train` or `held_out`, depending only on the scene's name and the settings."""
    drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return HELD_OUT if name in settings.held_out or drawn < settings.held_out_share else TRAIN


def _slug(name: str) -> str:
    """A scene's name for file names; without dots, which end a key in WebDataset's tar files."""
    return re.sub(r"[^\w-]+", "_", name)


def _scene(
    folder: OutputFolder,
    place: Destination,
    settings: SceneClips,
    source: SceneSource,
    device: torch.device,
    tell: Callable[[str, float], None],
) -> dict[str, Any] | None:
    """Make the clips of a scene; returns its record, or None if it was already done."""
    name, slug = source.name, _slug(source.name)
    mark = f"{MARKS}/{slug}.json"
    if folder.is_ours(mark) and "failed" not in read_json(folder.path / mark):
        return None
    split = split_of(name, settings)
    content: dict[str, Any] = {"scene": name, "source": str(source.path), "split": split}
    record = SceneRecord()
    clips = []
    for made in _made(source, settings, record, device, tell, content):
        facts = made.facts
        if made.clip is not None:
            file = f"{split}/{slug}-{facts['segment']:03d}-{len(clips):03d}.safetensors"
            path = folder.claim(file)
            save_clip(path, made.clip)
            facts = {"file": file, "bytes": path.stat().st_size, "sha256": _sha256(path), **facts}
        clips.append(facts)
    content |= {
        "verdicts": [verdict.entry() for verdict in record.verdicts],
        "clips": clips,
        "notes": record.notes,
        "counts": record.counts,
        "seconds": {stage: round(seconds, 2) for stage, seconds in record.seconds.items()},
    }
    # A killed run may have left other clips of the scene.
    kept = {facts["file"] for facts in clips if "file" in facts}
    folder.remove([file for file in folder.below(split) if _is_of(file, split, slug) and file not in kept])
    if earlier := [file for file in place.names() if _is_of(file, split, slug) and file not in kept]:
        raise InputError(f"{settings.out} holds {earlier[0]}, of an unfinished try at this scene; remove it there")
    place.move(folder, sorted(kept))

    def write(part: Path) -> None:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        # Before it is here: what is done here must be done there.
        place.send(part, mark)

    folder.write(mark, write)
    return content


def _is_of(file: str, split: str, slug: str) -> bool:
    return re.fullmatch(rf"{split}/{re.escape(slug)}-\d+-\d+\.safetensors", file) is not None


def _made(
    source: SceneSource,
    settings: SceneClips,
    record: SceneRecord,
    device: torch.device,
    tell: Callable[[str, float], None],
    content: dict[str, Any],
) -> Iterator[MadeClip]:
    """The clips of a scene up to its failure, if any, which is recorded in `content`.

    Catches all errors of the scene, because one of many scenes of unknown origin must not stop the others. Errors in
    writing the clips do not belong to the scene; the caller raises them.
    """
    try:
        posed = open_source(source)
        yield from scene_clips(
            posed, source.name, settings.recipe, record, seed=settings.seed, device=device, on_stage=tell
        )
    except InputError as error:
        content["failed"] = str(error)
    except Exception as error:
        content["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        content["traceback"] = traceback.format_exc()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(mark: dict[str, Any]) -> str:
    """A one-line summary of a scene."""
    if "failed" in mark:
        return f"{mark['scene']}: failed: {mark['failed']}"
    kept = sum("file" in clip for clip in mark["clips"])
    seconds = sum(mark["seconds"].values())
    refused: dict[str, int] = {}
    for clip in (clip for clip in mark["clips"] if "file" not in clip):
        names = [v["name"] for v in clip.get("verdicts", []) if not v["passed"]] or ["not made"]
        for name in names:
            refused[name] = refused.get(name, 0) + 1
    reasons = ", ".join(f"{name} {count}" for name, count in refused.items())
    left_out = f", {len(mark['clips']) - kept} left out ({reasons})" if refused else ""
    unfit = [v for v in mark["verdicts"] if not v["passed"]]
    scene = f"; {unfit[0]['name']} is {unfit[0]['value']}, the bound {unfit[0]['bound']}" if unfit else ""
    return f"{mark['scene']}: {kept} clips{left_out}{scene}; {seconds:.0f} s"


def write_manifest(folder: OutputFolder, place: Destination, about: dict[str, Any]) -> None:
    """Write `manifest.json` from the records of all scenes, of all processes and machines.

    Args:
        folder: open folder of the clips.
        place: where they end up.
        about: additional contents of the manifest.
    """
    marks: set[str] = set()
    place.bring(folder, f"{MARKS}/*.json")
    while (found := {path.name for path in (folder.path / MARKS).glob("*.json")}) != marks:
        # Processes may end at the same time: the last writer must have seen all records.
        marks = found
        content = manifest_of(read_json(folder.path / MARKS / name) for name in sorted(marks))
        text = json.dumps({"format": FORMAT, **about, **content}, indent=1)
        folder.write(MANIFEST, lambda part, text=text: part.write_text(text, encoding="utf-8"))
        place.send(folder.path / MANIFEST, MANIFEST)
        place.bring(folder, f"{MARKS}/*.json")


def manifest_of(marks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Clips with checksums, scenes by split, and failures, from the records of scenes.

    The manifest is shared with the clips; local paths of scenes stay in their records.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    clips, left_out, failures, scenes = [], [], [], {}
    for mark in marks:
        name = mark["scene"]
        if "failed" in mark:
            failures.append({"scene": name, "reason": mark["failed"]})
        else:
            splits[mark["split"]].append(name)
            scenes[name] = {key: mark[key] for key in ("split", "verdicts", "notes", "counts", "seconds")}
        for clip in mark["clips"]:
            entry = {"scene": name, "split": mark["split"], **clip}
            (clips if "file" in clip else left_out).append(entry)
    return {"splits": splits, "scenes": scenes, "clips": clips, "left_out": left_out, "failures": failures}
