"""`cus-export`: a run, or a file of Gaussians, for viewers and other trainers."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cus.cli.command import CommandParser, run_command
from cus.cli.console import ConsoleProgress, add_output_options
from cus.errors import InputError
from cus.files import check_target

if TYPE_CHECKING:
    from cus.splats import Gaussians

FORMATS = ("colmap", "nerfstudio", "ply", "spz", "splat")
EXAMPLES = """\
formats:
  colmap      sparse/0 (cameras, images, points3D, .bin) and images/: pinhole cameras, photographs and frames, points
  nerfstudio  transforms.json, images/ and points.ply
  ply         3DGS in the INRIA layout, exact
  spz         3DGS compressed, a quarter of the PLY or less; read by most viewers
  splat       3DGS with 32 bytes a Gaussian, without view dependence; read by many viewers in browsers

examples:
  cus-export out --format spz
  cus-export out --format colmap --cameras frames --out scene
  cus-export splat.ply --format spz
  cus-export scene.spz --format ply --out scene.ply
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser(
        "cus-export",
        description="Write the output of cus-infer, or a file of 3D Gaussians, in a format of other programs.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "source", type=Path, metavar="DIR|FILE", help="output folder of cus-infer, or a .ply, .spz or .splat file"
    )
    parser.add_argument("--format", required=True, metavar="FORMAT", help=f"one of {', '.join(FORMATS)}; see below")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="what to write (default: DIR/colmap, DIR/nerfstudio, DIR/splat.FORMAT, or FILE with the format's suffix)",
    )
    parser.add_argument(
        "--cameras",
        metavar="WHICH",
        help="pictures of a COLMAP model or nerfstudio folder: all, photos or frames (default: all)",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help="where the photographs lie (default: where the run found them)",
    )
    parser.add_argument(
        "--antialiased",
        action=argparse.BooleanOptionalAction,
        help="mark the Gaussians as fitted for antialiased rendering (default: as the file says; yes for a run)",
    )
    parser.add_argument(
        "--spz-version",
        type=int,
        metavar="N",
        help="2, which every reader of SPZ knows, or 3, with finer rotations (default: 2)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote")
    add_output_options(parser)
    return parser


def export(arguments: argparse.Namespace) -> None:
    """Run with parsed options. Raises InputError."""
    if arguments.format not in FORMATS:
        raise InputError(f"unknown format {arguments.format!r}; choose one of {', '.join(FORMATS)}")
    if not arguments.source.exists():
        raise InputError(f"no such file or folder: {arguments.source}")
    if arguments.format in ("colmap", "nerfstudio"):
        _export_folder(arguments)
    else:
        _export_splat(arguments)


def _export_folder(arguments: argparse.Namespace) -> None:
    source, file_format = arguments.source, arguments.format
    if source.is_file():
        raise InputError(f"{file_format} needs cameras and pictures: name the output folder of a run, not {source}")
    if arguments.antialiased is not None or arguments.spz_version is not None:
        raise InputError(f"--antialiased and --spz-version are for files of Gaussians, not for {file_format}")
    cameras = arguments.cameras or "all"
    if cameras not in ("all", "photos", "frames"):
        raise InputError(f"unknown --cameras {cameras!r}; choose all, photos or frames")
    from cus.inference.exports import export_run

    with ConsoleProgress.of(arguments) as progress:
        report = progress.start("Pictures", False)
        made = export_run(
            source,
            arguments.out or source / file_format,
            file_format,
            cameras=cameras,
            photo_folder=arguments.photos,
            overwrite=arguments.overwrite,
            on_progress=report,
        )
        if made.off_centre:
            progress.note(
                f"pictures whose principal point is off their middle: {made.off_centre}. INRIA's trainer takes the "
                "middle all the same; gsplat's and nerfstudio's read it"
            )
        progress.done(
            f"{made.photos} photographs, {made.frames} frames and {made.points:,} points: {made.path}",
            path=made.path,
            photos=made.photos,
            frames=made.frames,
            points=made.points,
        )


def _export_splat(arguments: argparse.Namespace) -> None:
    source, suffix = arguments.source, f".{arguments.format}"
    if arguments.cameras is not None or arguments.photos is not None:
        raise InputError(f"--cameras and --photos are for colmap and nerfstudio, not for {arguments.format}")
    if arguments.spz_version is not None and (suffix != ".spz" or arguments.spz_version not in (2, 3)):
        raise InputError(
            f"--spz-version is 2 or 3, for --format spz; got {arguments.spz_version} for {arguments.format}"
        )
    from cus.inference.exports import check_stage
    from cus.splats import read_splats, save_splats
    from cus.splats.files import splat_suffix
    from cus.splats.spz import save_spz

    is_run = source.is_dir()
    if is_run:
        check_stage(source, "splat", ["splat.ply"])
    file = source / "splat.ply" if is_run else source
    splat_suffix(file)
    out = arguments.out or file.with_suffix(suffix)
    if out.suffix.lower() != suffix:
        raise InputError(f"--out {out} must end in {suffix} for --format {arguments.format}")
    check_target(out, overwrite=arguments.overwrite, inputs=[file])
    stored = read_splats(file)
    gaussians = stored.gaussians
    antialiased = arguments.antialiased
    if antialiased is None:
        # Every run fits for antialiased rendering, also those whose files do not say so yet.
        antialiased = is_run or stored.antialiased
    if suffix == ".spz":
        save_spz(out, gaussians, antialiased=antialiased, version=arguments.spz_version or 2)
    else:
        save_splats(out, gaussians, antialiased=antialiased)
    with ConsoleProgress.of(arguments) as progress:
        before, after = file.stat().st_size, out.stat().st_size
        for note in [*stored.notes, *_losses(gaussians, out)]:
            progress.note(note)
        size = f"{after / 2**20:.2f} MiB ({file.name}: {before / 2**20:.2f} MiB)"
        progress.done(f"{len(gaussians):,} Gaussians, {size}: {out}", path=out, gaussians=len(gaussians), bytes=after)


def _losses(gaussians: "Gaussians", out: Path) -> list[str]:
    """What the format cannot hold."""
    from cus.splats.spz import spz_clamped

    lines: list[str] = []
    if out.suffix.lower() == ".spz":
        lines += [
            f"{count:,} Gaussians have a {field} outside what SPZ can hold" if field != "position"
            else f"{count:,} Gaussians are smaller than the rounding of their position; far points widen it"
            for field, count in spz_clamped(gaussians).items()
        ]  # fmt: skip
    if out.suffix.lower() == ".splat" and gaussians.sh_degree:
        lines.append(".splat holds no view dependence; the harmonics above degree 0 are left out")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(build_parser, export, argv)


if __name__ == "__main__":
    sys.exit(main())
