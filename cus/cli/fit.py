"""`cus-fit`: refits the Gaussian scene of a finished run, or fits one to posed photographs only."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.reading import Common, Earlier
from cus.inference.fit_options import FitOptions
from cus.options import option

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress

EPILOG = """\
posed photographs:
  A folder or file of cameras in a layout of nerfstudio, instant-ngp, Blender, COLMAP, LLFF, DL3DV, RealEstate10K or
  KITTI.
  If masks/ lies next to images/, pixels that are black in a mask are ignored.

examples:
  cus-fit out/door
  cus-fit out/door --strategy mcmc --iterations 2000 --exposure --out out/door-mcmc
  cus-fit out/door --no-pixel-confidence --no-image-confidence --out out/vanilla
  cus-fit photos/fountain --hold-out 0006.jpg --out out/fountain
  cus-fit photos/small --super-resolve 4 --out out/small
  cus-fit colmap/garden --images colmap/garden/images_4 --size 768 --out out/garden
"""


@dataclass(frozen=True)
class Photographs:
    """For posed photographs only.

    Attributes:
        images: folder of the photographs (default: as in the cameras' file, else DIR/images, images_2, images_4,
            images_8 or input)
        hold_out: photographs to hold out of the fit; PSNR and SSIM of their views are printed and saved
    """

    images: Annotated[Path | None, option("FOLDER")] = None
    hold_out: Annotated[tuple[str, ...], option("NAME [NAME ...]")] = ()


@dataclass(frozen=True)
class FitCommand:
    """Refit the 3D Gaussian scene of a run of cus-infer, or fit one to posed photographs only.

    Attributes:
        folder: output folder of cus-infer, or posed photographs
        out: output folder (default: a run's own folder, whose scene is replaced; photographs: out)
        device: auto, cpu, cuda, cuda:1, ...
        fit: how to fit the scene
        photographs: for posed photographs only
        restart: what to do with an earlier result
        common: options of every command
    """

    folder: Annotated[Path, Positional, option("DIR")]
    out: Annotated[Path | None, option("FOLDER")] = None
    device: Annotated[str, option("DEVICE")] = "auto"
    fit: FitOptions = FitOptions()
    photographs: Photographs = Photographs()
    restart: Earlier = Earlier()
    common: Common = Common()


def fit(options: FitCommand, progress: "ConsoleProgress") -> None:
    """Run the fit. Raises InputError and KeyboardInterrupt, which leave earlier results unchanged."""
    with progress:
        with progress.loading():
            from cus.errors import InputError
            from cus.inference.photo_fit import is_posed
            from cus.inference.refit import is_run

        folder = options.folder
        if not folder.exists():
            raise InputError(f"no such folder: {folder}; name the output of cus-infer or a folder of posed photographs")
        try:
            if is_run(folder):
                _fit_run(options, progress)
            elif is_posed(folder):
                _fit_photographs(options, progress)
            else:
                raise InputError(
                    f"{folder} holds neither a run of cus-infer (run.json) nor posed photographs (transforms.json, a "
                    "COLMAP model in it or in sparse/0, poses_bounds.npy, or RealEstate10K's ID.txt)"
                )
        except KeyboardInterrupt as error:
            error.add_note("earlier results are unchanged; the same command with --resume continues this fit")
            raise


def _fit_run(options: FitCommand, progress: "ConsoleProgress") -> None:
    import time

    from cus.errors import InputError
    from cus.inference.folder import RunFolder
    from cus.inference.refit import read_run, refit
    from cus.inference.settings import torch_device

    if options.photographs.hold_out or options.photographs.images:
        raise InputError(f"--hold-out and --images are for posed photographs; {options.folder} is a run of cus-infer")
    if options.fit.super_resolve:
        raise InputError(
            f"--super-resolve is for posed photographs; {options.folder} is a run of cus-infer, for which there is "
            f"cus-refine {options.folder} --method vsd --factor {options.fit.super_resolve}"
        )
    run = read_run(options.folder, torch_device(options.device))
    started = time.perf_counter()
    out = refit(
        run,
        options.fit,
        progress.start("Gaussian scene", False),
        out=options.out,
        resume=options.restart.resume,
        overwrite=options.restart.overwrite,
    )
    progress.finish("Gaussian scene", time.perf_counter() - started)
    for note in run.results.notes:
        progress.note(note)
    progress.done(str(out), out=out, files=RunFolder(out).files())


def _fit_photographs(options: FitCommand, progress: "ConsoleProgress") -> None:
    from cus.inference.folder import RunFolder
    from cus.inference.photo_fit import DEFAULT_SIZE, fit_photos, read_posed
    from cus.inference.settings import torch_device

    device = torch_device(options.device)
    size = options.fit.size or DEFAULT_SIZE
    scene = read_posed(options.folder, options.photographs.images, options.photographs.hold_out, size)
    for note in scene.posed.notes:
        progress.note(note)
    folder = RunFolder(options.out or Path("out"))
    # Neither photographs nor cameras may be among the files to replace.
    inputs = [*scene.posed.paths, options.folder / "transforms.json", options.folder / "sparse"]
    folder.prepare(resume=options.restart.resume, overwrite=options.restart.overwrite, inputs=inputs)
    try:
        summary = fit_photos(scene, options.fit, folder, progress, device=device, resume=options.restart.resume)
    finally:
        folder.close()
    mean = sum(score["psnr"] for score in summary["training"]) / len(summary["training"])
    progress.say(
        f"{summary['gaussians']:,} Gaussians; PSNR at the {len(summary['training'])} photographs fitted: {mean:.2f} dB"
    )
    for score in summary["held_out"]:
        progress.say(f"held out {score['name']}: PSNR {score['psnr']:.2f} dB, SSIM {score['ssim']:.3f}")
    scores = {name: summary[name] for name in ("gaussians", "training", "held_out")}
    progress.done(str(folder.path), out=folder.path, files=folder.files(), **scores)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    advice = "try a smaller --size or --max-gaussians"
    return run_command("cus-fit", FitCommand, fit, argv, epilog=EPILOG, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
