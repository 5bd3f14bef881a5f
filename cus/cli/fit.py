"""`cus-fit`: fit a Gaussian scene to a finished run anew, or to posed photographs alone."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cus.cli.command import CommandParser, run_parser
from cus.cli.console import ConsoleProgress, add_output_options

if TYPE_CHECKING:
    from cus.inference.fitting import FitOptions

EXAMPLES = """\
examples:
  cus-fit out/door
  cus-fit out/door --strategy mcmc --iterations 2000 --exposure --out out/door-mcmc
  cus-fit out/door --no-pixel-confidence --no-image-confidence --out out/vanilla
  cus-fit photos/fountain --hold-out 0006.jpg --out out/fountain
  cus-fit colmap/garden --images colmap/garden/images_4 --size 768 --out out/garden
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser(
        "cus-fit",
        description="Fit a 3D Gaussian scene: to a run of cus-infer anew, from its recorded frames, depths and point "
        "cloud, or to posed photographs alone: a folder or file of cameras in a layout of nerfstudio, "
        "instant-ngp, Blender, COLMAP, LLFF, DL3DV or RealEstate10K. Where masks/ lies "
        "beside images/, what a mask has black is ignored.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="output folder of cus-infer, or posed photographs")
    _add_fit(parser.add_argument_group("fit"))
    _add_confidences(parser.add_argument_group("runs of cus-infer"))
    _add_photographs(parser.add_argument_group("posed photographs"))
    _add_output(parser.add_argument_group("output"))
    return parser


def _add_fit(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--iterations", type=int, metavar="N", help="optimisation steps (default: 1000; torch: 300)")
    group.add_argument(
        "--strategy",
        choices=("fixed", "default", "mcmc"),
        help="density control: fixed keeps the cloud's Gaussians, default clones and splits (3DGS), mcmc relocates "
        "(3DGS-MCMC) (default: fixed for runs, mcmc for photographs)",
    )
    group.add_argument("--max-gaussians", type=int, metavar="N", help="the most there may be (default: by backend)")
    group.add_argument(
        "--sh-degree", type=int, choices=range(4), metavar="D", help="of the colours, 0 to 3 (default: by backend)"
    )
    group.add_argument(
        "--exposure",
        action=argparse.BooleanOptionalAction,
        help="learn a colour transform an image; those of the photographs hold (default: off)",
    )
    group.add_argument(
        "--depth-weight", type=float, metavar="W", help="weight of the relative error in disparity (default: 0)"
    )
    group.add_argument(
        "--refine-cameras",
        action="store_true",
        default=None,
        help="move the cameras a little, the first photograph's excepted; they are kept in refined_cameras.json",
    )
    group.add_argument(
        "--antialiased",
        action=argparse.BooleanOptionalAction,
        help="compensate opacities for the size of a pixel, so that walking in holds (default: on)",
    )
    group.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="longest side of the images in pixels (default: a run's frames as they are, up to what the backend can "
        "afford; photographs: 512)",
    )
    group.add_argument(
        "--crops",
        type=int,
        metavar="N",
        help="crops of each photograph at its own resolution for every time that an image is shown whole; 0: "
        "photographs are fitted at the size of the images alone (default: 1)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of every random draw (default: %(default)s)"
    )
    group.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)"
    )


def _add_confidences(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--no-image-confidence", action="store_true", help="frames far from the photographs count as much as others"
    )
    group.add_argument(
        "--no-pixel-confidence", action="store_true", help="pixels that no view confirms count as much as others"
    )


def _add_photographs(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="folder of the photographs (default: as the cameras' file has it, else DIR/images, images_2, images_4, "
        "images_8 or input)",
    )
    group.add_argument(
        "--hold-out",
        nargs="+",
        default=[],
        metavar="NAME",
        help="photographs that the fit does not see; PSNR and SSIM of their views are printed and kept",
    )


def _add_output(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write (default: a run's own folder, whose scene is replaced; photographs: out)",
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="go on with a fit of the same options that was interrupted"
    )
    existing.add_argument("--overwrite", action="store_true", help="replace an earlier result in --out")
    add_output_options(group)


def options_from(arguments: argparse.Namespace) -> "FitOptions":
    """How to fit, as the command line says."""
    from cus.inference.fitting import FitOptions

    same = ("iterations", "strategy", "max_gaussians", "sh_degree", "exposure", "depth_weight", "refine_cameras")
    values = {name: getattr(arguments, name) for name in (*same, "antialiased", "size", "crops", "seed")}
    return FitOptions(
        **values,
        image_confidence=not arguments.no_image_confidence,
        pixel_confidence=not arguments.no_pixel_confidence,
    )


def fit(arguments: argparse.Namespace) -> None:
    """Fit with parsed options. Raises InputError and KeyboardInterrupt; what was there stays."""
    with ConsoleProgress.of(arguments) as progress:
        with progress.loading():
            from cus.errors import InputError
            from cus.inference.photo_fit import is_posed
            from cus.inference.refit import is_run

        folder = arguments.folder
        if not folder.exists():
            raise InputError(f"no such folder: {folder}; name the output of cus-infer or a folder of posed photographs")
        options = options_from(arguments)
        options.check()
        try:
            if is_run(folder):
                _fit_run(arguments, options, progress)
            elif is_posed(folder):
                _fit_photographs(arguments, options, progress)
            else:
                raise InputError(
                    f"{folder} holds neither a run of cus-infer (run.json) nor posed photographs (transforms.json, a "
                    "COLMAP model in it or in sparse/0, poses_bounds.npy, or RealEstate10K's ID.txt)"
                )
        except KeyboardInterrupt as error:
            error.add_note("earlier results are as they were; the same command with --resume goes on with this fit")
            raise


def _fit_run(arguments: argparse.Namespace, options: "FitOptions", progress: ConsoleProgress) -> None:
    import time

    from cus.errors import InputError
    from cus.inference.folder import RunFolder
    from cus.inference.refit import read_run, refit
    from cus.inference.settings import torch_device

    if arguments.hold_out or arguments.images:
        raise InputError(f"--hold-out and --images are for posed photographs; {arguments.folder} is a run of cus-infer")
    run = read_run(arguments.folder, torch_device(arguments.device))
    started = time.perf_counter()
    out = refit(
        run,
        options,
        progress.start("Gaussian scene", False),
        out=arguments.out,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    progress.finish("Gaussian scene", time.perf_counter() - started)
    for note in run.results.notes:
        progress.note(note)
    progress.done(str(out), out=out, files=RunFolder(out).files())


def _fit_photographs(arguments: argparse.Namespace, options: "FitOptions", progress: ConsoleProgress) -> None:
    from cus.inference.folder import RunFolder
    from cus.inference.photo_fit import DEFAULT_SIZE, fit_photos, read_posed
    from cus.inference.settings import torch_device

    device = torch_device(arguments.device)
    size = arguments.size or DEFAULT_SIZE
    scene = read_posed(arguments.folder, arguments.images, tuple(arguments.hold_out), size)
    for note in scene.posed.notes:
        progress.note(note)
    folder = RunFolder(arguments.out or Path("out"))
    # Neither photographs nor cameras may be among what is replaced.
    inputs = [*scene.posed.paths, arguments.folder / "transforms.json", arguments.folder / "sparse"]
    folder.prepare(resume=arguments.resume, overwrite=arguments.overwrite, inputs=inputs)
    try:
        summary = fit_photos(scene, options, folder, progress, device=device, resume=arguments.resume)
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
    """Entry point; returns the exit status, see `run_command`."""
    advice = "try a smaller --size or --max-gaussians"
    return run_parser(build_parser, fit, argv, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
