"""`cus-export`: a run, or a file of Gaussians, for viewers and other trainers."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.reading import Common
from cus.errors import InputError
from cus.files import check_target
from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.splats import Gaussians

EXAMPLES = """\
formats:
  colmap      sparse/0 (cameras, images, points3D, .bin) and images/: pinhole cameras, photographs and frames, points
  nerfstudio  transforms.json, images/ and points.ply
  ply         3DGS in the INRIA layout, exact
  spz         3DGS compressed, a quarter of the PLY or less; read by most viewers
  splat       3DGS with 32 bytes per Gaussian, without view dependence; read by many browser viewers

examples:
  cus-export out --format spz
  cus-export out --format colmap --cameras frames --out scene
  cus-export splat.ply --format spz
  cus-export scene.spz --format ply --out scene.ply
"""


@dataclass(frozen=True)
class ExportOptions:
    """Convert the output of cus-infer, or a file of 3D Gaussians, to a format of other programs.

    Attributes:
        source: output folder of cus-infer, or a .ply, .spz or .splat file
        format: see below
        out: what to write (default: DIR/colmap, DIR/nerfstudio, DIR/splat.FORMAT, or FILE with the format's suffix)
        cameras: pictures of a COLMAP model or nerfstudio folder (default: all)
        photos: folder of the photographs (default: as recorded by the run)
        antialiased: mark the Gaussians as fitted for antialiased rendering (default: as the file says; yes for a run)
        spz_version: 2, which every SPZ reader supports, or 3, with finer rotations (default: 2)
        overwrite: replace what an earlier export wrote
        common: options of every command
    """

    source: Annotated[Path, Positional, option("DIR|FILE")]
    format: Annotated[Literal["colmap", "nerfstudio", "ply", "spz", "splat"], option()]
    out: Annotated[Path | None, option("PATH")] = None
    cameras: Annotated[Literal["all", "photos", "frames"] | None, option()] = None
    photos: Annotated[Path | None, option("FOLDER")] = None
    antialiased: Annotated[bool | None, option()] = None
    spz_version: Annotated[Literal[2, 3] | None, option()] = None
    overwrite: Flag = False
    common: Common = Common()


def export(options: ExportOptions, progress: "ConsoleProgress") -> None:
    """Write the requested format. Raises InputError."""
    if not options.source.exists():
        raise InputError(f"no such file or folder: {options.source}")
    with progress:
        if options.format == "colmap" or options.format == "nerfstudio":
            _export_folder(options, options.format, progress)
        else:
            _export_splat(options, progress)


def _export_folder(
    options: ExportOptions, layout: Literal["colmap", "nerfstudio"], progress: "ConsoleProgress"
) -> None:
    source = options.source
    if source.is_file():
        raise InputError(f"{layout} needs cameras and pictures: name the output folder of a run, not {source}")
    if options.antialiased is not None or options.spz_version is not None:
        raise InputError(f"--antialiased and --spz-version are for files of Gaussians, not for {layout}")
    from cus.inference.exports import export_run

    made = export_run(
        source,
        options.out or source / layout,
        layout,
        cameras=options.cameras or "all",
        photo_folder=options.photos,
        overwrite=options.overwrite,
        on_progress=progress.start("Pictures", False),
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


def _export_splat(options: ExportOptions, progress: "ConsoleProgress") -> None:
    source, suffix = options.source, f".{options.format}"
    if options.cameras is not None or options.photos is not None:
        raise InputError(f"--cameras and --photos are for colmap and nerfstudio, not for {options.format}")
    if options.spz_version is not None and suffix != ".spz":
        raise InputError(f"--spz-version is for --format spz, not for {options.format}")
    from cus.inference.exports import check_stage
    from cus.splats import read_splats, save_splats
    from cus.splats.files import splat_suffix
    from cus.splats.spz import save_spz

    is_run = source.is_dir()
    if is_run:
        check_stage(source, "splat", ["splat.ply"])
    file = source / "splat.ply" if is_run else source
    splat_suffix(file)
    out = options.out or file.with_suffix(suffix)
    if out.suffix.lower() != suffix:
        raise InputError(f"--out {out} must end in {suffix} for --format {options.format}")
    check_target(out, overwrite=options.overwrite, inputs=[file])
    stored = read_splats(file)
    gaussians = stored.gaussians
    antialiased = options.antialiased
    if antialiased is None:
        # Every run fits for antialiased rendering, even if an older file does not say so.
        antialiased = is_run or stored.antialiased
    if suffix == ".spz":
        save_spz(out, gaussians, antialiased=antialiased, version=options.spz_version or 2)
    else:
        save_splats(out, gaussians, antialiased=antialiased)
    before, after = file.stat().st_size, out.stat().st_size
    for note in [*stored.notes, *_losses(gaussians, out)]:
        progress.note(note)
    size = f"{after / 2**20:.2f} MiB ({file.name}: {before / 2**20:.2f} MiB)"
    count = len(gaussians if suffix == ".ply" else gaussians.baked())
    progress.done(f"{count:,} Gaussians, {size}: {out}", path=out, gaussians=count, bytes=after)


def _losses(gaussians: "Gaussians", out: Path) -> list[str]:
    """What the format cannot store."""
    from cus.splats.spz import spz_clamped

    lines: list[str] = []
    if gaussians.rates is not None and out.suffix.lower() != ".ply":
        lines.append(f"{out.suffix} holds no levels of detail: the finest one is written, for every distance")
        gaussians = gaussians.baked()
    elif gaussians.rates is not None:
        lines.append(
            "the levels of detail are in the fields rate_low and rate_high; a program that does not know them shows "
            "all levels at once: export it as spz or splat for such a program"
        )
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
    """Entry point; returns the exit status of `run_command`."""
    return run_command("cus-export", ExportOptions, export, argv, epilog=EXAMPLES)


if __name__ == "__main__":
    sys.exit(main())
