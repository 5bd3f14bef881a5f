"""`cus-check-scene`: whether the cameras of posed photographs fit them, before anything slow is built on them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cus.cli.command import CommandParser, run_command
from cus.cli.console import ConsoleProgress, add_output_options
from cus.cli.failures import DONE, UNTRUSTED

if TYPE_CHECKING:
    from cus.cameras import PosedPhotos
    from cus.datasets.scene_check import SceneCheck
    from cus.datasets.scenes import SceneSource

EXAMPLES = """\
examples:
  cus-check-scene photos/door
  cus-check-scene colmap/garden --images colmap/garden/images_4 --picture garden.png
  cus-check-scene data/DL3DV-10K/1K --pairs 40 --json > check.jsonl

Status 3: a scene whose cameras do not fit its photographs, or that cannot be read.
"""
_NAMED = 5  # photographs that a line lists


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser(
        "cus-check-scene",
        description="Match features of neighbouring photographs and tell how far they lie from each other's epipolar "
        "lines under the given cameras; which photographs are missing, not matched or misplaced; and how much of each "
        "picture another one shows. For a scene or a folder of scenes in any layout that cus-fit reads.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="posed photographs, or a folder of such scenes")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder of one scene's photographs (default: as the layout has it)",
    )
    parser.add_argument("--pairs", type=int, metavar="N", help="compare at most so many pairs a scene (default: all)")
    parser.add_argument(
        "--largest-error",
        type=float,
        default=1.5,
        metavar="PIXELS",
        help="median error from which cameras do not fit, in pixels of photographs of at most 640 along their longest "
        "side (default: %(default)s)",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the cameras of one scene to this PNG")
    parser.add_argument("--overwrite", action="store_true", help="replace the picture where it exists")
    add_output_options(parser)
    return parser


def check(arguments: argparse.Namespace) -> int:
    """Check with parsed options; the exit status. Raises InputError for options that cannot be."""
    with ConsoleProgress.of(arguments) as progress:
        with progress.loading():
            from cus.datasets.scenes import find_scenes
            from cus.errors import InputError
            from cus.files import check_target

        _check_options(arguments)
        sources = find_scenes(arguments.folder)
        if len(sources) > 1 and (arguments.images or arguments.picture):
            raise InputError(f"{arguments.folder} holds {len(sources)} scenes; --images and --picture are for one")
        if arguments.picture:
            check_target(arguments.picture, overwrite=arguments.overwrite)
        scenes = [_one(source, arguments, progress) for source in sources]
        refused = [scene["scene"] for scene in scenes if scene["refusal"]]
        status = UNTRUSTED if refused else DONE
        told = f"the cameras of {len(scenes) - len(refused)} of {len(scenes)} scenes fit"
        progress.done(told, status=status, scenes=scenes)
        return status


def _check_options(arguments: argparse.Namespace) -> None:
    from cus.errors import InputError

    if arguments.pairs is not None and arguments.pairs < 1:
        raise InputError(f"--pairs must be at least 1, got {arguments.pairs}")
    if not arguments.largest_error > 0:
        raise InputError(f"--largest-error must be above 0, got {arguments.largest_error}")
    if arguments.images is not None and not arguments.images.is_dir():
        raise InputError(f"there is no folder of photographs {arguments.images}")


def _one(source: "SceneSource", arguments: argparse.Namespace, progress: ConsoleProgress) -> dict[str, Any]:
    """Check a scene, print what was found; the same for programs."""
    import time

    from cus.datasets.scene_check import check_scene
    from cus.datasets.scenes import missing_photographs, open_source
    from cus.errors import InputError

    started = time.perf_counter()
    progress.say(f"{source.name}:")
    try:
        posed = open_source(source, arguments.images)
        for note in posed.notes:
            progress.note(note)
        missing = [] if arguments.images else missing_photographs(source)
        found = check_scene(posed, arguments.pairs, progress.start(source.name, False))
    except InputError as error:
        progress.alarm(f" {error}", f"{source.name} is not usable:")
        return {"scene": source.name, "refusal": str(error)}
    progress.finish(source.name, time.perf_counter() - started)
    if arguments.picture:
        _draw(posed, found, arguments, progress)
    return _tell(source.name, posed, found, missing, arguments.largest_error, progress)


def _tell(
    name: str,
    posed: "PosedPhotos",
    found: "SceneCheck",
    missing: list[str],
    largest_error: float,
    progress: ConsoleProgress,
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


def _draw(posed: "PosedPhotos", found: "SceneCheck", arguments: argparse.Namespace, progress: ConsoleProgress) -> None:
    from cus.datasets.camera_picture import draw_cameras
    from cus.files import replacing

    errors = {photo.name: photo.error for photo in found.photographs}
    values = [errors.get(name, float("nan")) for name in posed.names]
    picture = draw_cameras(posed.viewmats, values, arguments.largest_error)
    with replacing(arguments.picture) as part:
        picture.save(part, format="PNG")
    progress.say(f"  cameras drawn to {arguments.picture}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(build_parser, check, argv, memory_advice="compare fewer pairs with --pairs")


if __name__ == "__main__":
    sys.exit(main())
