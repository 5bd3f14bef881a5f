"""`cus-check-scene`: checks that cameras fit their posed photographs, before anything slow depends on them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.failures import DONE, UNTRUSTED
from cus.cli.reading import Common
from cus.limits import limited
from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.cameras import PosedPhotos
    from cus.cli.console import ConsoleProgress
    from cus.datasets.scene_check import SceneCheck
    from cus.datasets.scenes import SceneSource

EPILOG = """\
output:
  How far matched features of neighbouring photographs lie from each other's epipolar lines under the given cameras,
  which photographs are missing, not matched or misplaced, and how much of each picture another one shows. Any layout
  that cus-fit reads.

examples:
  cus-check-scene photos/door
  cus-check-scene colmap/garden --images colmap/garden/images_4 --picture garden.png
  cus-check-scene data/DL3DV-10K/1K --pairs 40 --json > check.jsonl

Status 3: a scene whose cameras do not fit its photographs, or that cannot be read.
"""
_NAMED = 5  # maximum number of photographs named in a line


@dataclass(frozen=True)
class CheckOptions:
    """Check whether the cameras of posed photographs fit them, for a scene or a folder of scenes.

    Attributes:
        folder: posed photographs, or a folder of such scenes
        images: folder of one scene's photographs (default: as in the layout)
        pairs: compare at most this many pairs per scene (default: all)
        largest_error: largest median error of cameras that fit, in pixels of photographs of at most 640 along their
            longest side
        picture: draw the cameras of one scene to this PNG
        overwrite: replace an existing picture
        common: options of every command
    """

    folder: Annotated[Path, Positional, option("DIR")]
    images: Annotated[Path | None, option("FOLDER")] = None
    pairs: Annotated[int | None, option("N")] = limited(None, low=1)
    largest_error: Annotated[float, option("PIXELS")] = limited(1.5, above=0)
    picture: Annotated[Path | None, option("FILE")] = None
    overwrite: Flag = False
    common: Common = Common()


def check(options: CheckOptions, progress: "ConsoleProgress") -> int:
    """Check the scenes; returns the exit status. Raises InputError for invalid options."""
    with progress:
        with progress.loading():
            from cus.datasets.scenes import find_scenes
            from cus.errors import InputError
            from cus.files import check_target

        if options.images is not None and not options.images.is_dir():
            raise InputError(f"there is no folder of photographs {options.images}")
        sources = find_scenes(options.folder)
        if len(sources) > 1 and (options.images or options.picture):
            raise InputError(f"{options.folder} holds {len(sources)} scenes; --images and --picture are for one")
        if options.picture:
            check_target(options.picture, overwrite=options.overwrite)
        scenes = [_one(source, options, progress) for source in sources]
        refused = [scene["scene"] for scene in scenes if scene["refusal"]]
        status = UNTRUSTED if refused else DONE
        told = f"the cameras of {len(scenes) - len(refused)} of {len(scenes)} scenes fit"
        progress.done(told, status=status, scenes=scenes)
        return status


def _one(source: "SceneSource", options: CheckOptions, progress: "ConsoleProgress") -> dict[str, Any]:
    """Check a scene and print the result; also returns it for JSON."""
    import time

    from cus.datasets.scene_check import check_scene
    from cus.datasets.scenes import missing_photographs, open_source
    from cus.errors import InputError

    started = time.perf_counter()
    progress.say(f"{source.name}:")
    try:
        posed = open_source(source, options.images)
        for note in posed.notes:
            progress.note(note)
        missing = [] if options.images else missing_photographs(source)
        found = check_scene(posed, options.pairs, progress.start(source.name, False))
    except InputError as error:
        progress.alarm(f" {error}", f"{source.name} is not usable:")
        return {"scene": source.name, "refusal": str(error)}
    progress.finish(source.name, time.perf_counter() - started)
    if options.picture:
        _draw(posed, found, options.picture, options.largest_error, progress)
    return _tell(source.name, posed, found, missing, options.largest_error, progress)


def _tell(
    name: str,
    posed: "PosedPhotos",
    found: "SceneCheck",
    missing: list[str],
    largest_error: float,
    progress: "ConsoleProgress",
) -> dict[str, Any]:
    matched = [photo for photo in found.photographs if photo.matches]
    own = sorted(photo.error * photo.scale for photo in matched)
    in_files = f", {own[len(own) // 2]:.2f} in pixels of the files" if own else ""
    misplaced = found.misplaced(largest_error)
    progress.say(f"  photographs     {len(posed)} of {posed.sizes[0][0]}x{posed.sizes[0][1]} pixels")
    progress.say(f"  epipolar error  {found.error:.2f} pixels of photographs of at most 640{in_files}")
    progress.say(f"  matched         {found.pairs[0]} of {found.pairs[1]} pairs of neighbours")
    progress.say(f"  coverage        {found.coverage:.0%} of a picture is matched in another, on average")
    for label, names in (("missing", missing), ("not matched", found.unmatched), ("misplaced", misplaced)):
        if names:
            progress.say(f"  {label:<15} {len(names)}: {', '.join(names[:_NAMED])}{', ...' if names[_NAMED:] else ''}")
    refusal = found.refusal(largest_error)
    if refusal:
        progress.alarm(f" {refusal}", f"{name} is not usable:")
    return {
        "scene": name,
        "photographs": len(posed),
        "error": None if found.error != found.error else round(found.error, 4),
        "pairs": found.pairs,
        "coverage": round(found.coverage, 4),
        "missing": missing,
        "unmatched": found.unmatched,
        "misplaced": misplaced,
        "refusal": refusal,
    }


def _draw(
    posed: "PosedPhotos", found: "SceneCheck", file: Path, largest_error: float, progress: "ConsoleProgress"
) -> None:
    from cus.datasets.scene_check import draw_cameras
    from cus.files import replacing

    errors = {photo.name: photo.error for photo in found.photographs}
    values = [errors.get(name, float("nan")) for name in posed.names]
    picture = draw_cameras(posed.viewmats, values, largest_error)
    with replacing(file) as part:
        picture.save(part, format="PNG")
    progress.say(f"  cameras drawn to {file}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    advice = "compare fewer pairs with --pairs"
    return run_command("cus-check-scene", CheckOptions, check, argv, epilog=EPILOG, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
