"""`cus-infer`: photographs in; close-up frames, point cloud, 3D Gaussian scene and report out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cus.cli.command import CommandParser, run_parser
from cus.cli.console import ConsoleProgress, add_output_options, describe_size
from cus.cli.failures import DONE, UNTRUSTED

if TYPE_CHECKING:
    from cus.inference import InferSettings, Run, Verdict

STYLES = {"good": "green", "fair": "yellow", "poor": "red"}
EXAMPLES = """\
examples:
  cus-infer --views a.jpg b.jpg
  cus-infer --views a.jpg b.jpg c.jpg --out out/door --trajectory zoom --zoom 4 --target 0.5,0.4 --frames 16 --seed 0
  cus-infer --views clip.mp4 --max-views 6
  cus-infer --views a.jpg b.jpg --trajectory dolly --zoom 2.5 --target 0.3,0.6
  cus-infer --views a.jpg b.jpg --cameras transforms.json --conditioning-only
  cus-infer --views a.jpg b.jpg --model models/viewcrafter --memory low --estimator vggt
"""


def _target(text: str) -> tuple[float, float]:
    parts = text.split(",")
    try:
        u, v = (float(part) for part in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two numbers like 0.5,0.4, got {text!r}") from None
    return u, v


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser(
        "cus-infer",
        description="Turn two or more photographs of a scene into close-ups, a point cloud and a 3D Gaussian scene.",
        epilog=EXAMPLES,
    )
    _add_inputs(parser.add_argument_group("photographs"))
    _add_path(parser.add_argument_group("camera path"))
    _add_model(parser.add_argument_group("model"))
    _add_output(parser.add_argument_group("output"))
    return parser


def _add_inputs(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--views",
        nargs="+",
        type=Path,
        required=True,
        metavar="PHOTO",
        help="two or more photographs; the path starts at the first. A folder, a quoted pattern like 'shots/*.jpg' or a"
        " video stands for its sharpest pictures, spread over names or time; videos leave theirs in FOLDER/photos",
    )
    group.add_argument(
        "--max-views",
        type=int,
        metavar="N",
        help="how many photographs at most (default: 8 of folders, patterns and videos, all files that are named)",
    )
    group.add_argument(
        "--cameras",
        type=Path,
        metavar="FILE",
        help="known cameras of the views: a transforms.json, a COLMAP model, or the folder of a scene; their "
        "world and scale are kept (default: estimate them)",
    )
    group.add_argument(
        "--focal-35mm",
        type=float,
        metavar="MM",
        help="focal length as 35 mm equivalent, in mm (default: EXIF, else a guess that the report names)",
    )
    group.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="horizontal field of view of the photographs, in degrees, instead of --focal-35mm",
    )
    group.add_argument(
        "--photo-size",
        type=int,
        default=1024,
        metavar="PIXELS",
        help="longest side at which the photographs are used, in pixels (default: %(default)s)",
    )
    group.add_argument(
        "--estimator",
        default="auto",
        metavar="NAME",
        help="what estimates cameras and depth: stereo, da3 (Depth Anything 3), vggt, dust3r, or auto: vggt where it is"
        " installed and its weights are on this machine, else da3 where its weights are, else stereo; da3:base is"
        " larger than da3; vggt:WEIGHTS or da3:WEIGHTS names other weights, a Hub id such as"
        " facebook/VGGT-1B-Commercial, a folder or a file (default: %(default)s)",
    )
    group.add_argument(
        "--all-views",
        action="store_true",
        help="refuse photographs of which one cannot be placed; without it, such a one is left out with a note, as long"
        " as two remain",
    )


def _add_path(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--trajectory",
        default="zoom",
        metavar="PATH",
        help="zoom, dolly, interpolate, orbit, or a JSON file with cameras (transforms.json or a nerfstudio "
        "camera path) (default: %(default)s)",
    )
    group.add_argument(
        "--zoom",
        type=float,
        metavar="FACTOR",
        help="magnification at the end of the path (default: zoom 4, dolly 2.2, interpolate and orbit 1)",
    )
    group.add_argument(
        "--target",
        type=_target,
        metavar="U,V",
        help="point closed in on, in fractions of the first photograph's width and height; 0,0 is its top-left"
        " corner (default: 0.5,0.5)",
    )
    group.add_argument(
        "--frames", type=int, metavar="N", help="number of frames (default: the model's, 16 for mini; of a file: all)"
    )


def _add_model(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--model",
        default="mini",
        metavar="MODEL",
        help="mini (ships with the package), a checkpoint folder, or a Hub id: org/name, org/name@revision"
        " (default: %(default)s)",
    )
    group.add_argument(
        "--variant",
        metavar="NAME",
        help="weights of the checkpoint in another precision, such as fp16 (default: the standard ones)",
    )
    group.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="longest side of the frames, in pixels (default: the model's, 512 for mini)",
    )
    group.add_argument("--steps", type=int, metavar="N", help="sampling steps a pass (default: the model's)")
    group.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="classifier-free guidance scale; 1 is off and twice as fast (default: the model's)",
    )
    group.add_argument(
        "--structure",
        action=argparse.BooleanOptionalAction,
        help="a second pass, guided by the global point cloud of the first (default: the model's, off for mini)",
    )
    group.add_argument(
        "--conditioning",
        default="auto",
        metavar="KIND",
        help="conditioning images: hierarchical, points (ViewCrafter's own renders), fused (every photograph at its own"
        " resolution), or auto: what the model does best with (default: %(default)s)",
    )
    group.add_argument(
        "--no-suppression",
        action="store_true",
        help="keep background points that leak through sparse foregrounds of hierarchical conditioning",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of every random draw (default: %(default)s)"
    )
    group.add_argument(
        "--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)"
    )
    group.add_argument(
        "--dtype",
        default="auto",
        metavar="TYPE",
        help="precision of the network: auto, float32, bfloat16, float16 (default: %(default)s, bfloat16 where"
        " the device computes in it)",
    )
    group.add_argument(
        "--memory",
        default="auto",
        metavar="PLAN",
        help="how the network uses memory: auto (the fastest plan that fits), low (one frame and one branch of the"
        " guidance at a time, networks wait in the main memory) or high (all at once) (default: %(default)s); the need"
        " is checked before anything starts",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the U-Net with torch.compile: pays off over many steps"
    )
    group.add_argument(
        "--attention",
        default="sdpa",
        metavar="NAME",
        help="sdpa (PyTorch's own) or xformers, where that is installed (default: %(default)s)",
    )


def _add_output(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--out",
        type=Path,
        default=Path("out"),
        metavar="FOLDER",
        help="folder that the run fills (default: %(default)s)",
    )
    group.add_argument("--conditioning-only", action="store_true", help="stop after depth and conditioning images")
    group.add_argument(
        "--quick",
        action="store_true",
        help="stop when frames, point cloud and report are there: no Gaussian scene, which takes most of the time on a"
        " CPU; cus-fit FOLDER adds it afterwards",
    )
    group.add_argument("--no-splat", action="store_true", help="the same as --quick")
    group.add_argument(
        "--splat-iterations",
        type=int,
        metavar="N",
        help="optimisation steps of the Gaussian scene (default: by backend)",
    )
    group.add_argument(
        "--fps", type=int, default=8, metavar="N", help="frames a second of the videos (default: %(default)s)"
    )
    group.add_argument(
        "--force",
        action="store_true",
        help="end with status 0 also where the geometry was not found, instead of 3 and a warning; the report notes it",
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume", action="store_true", help="reuse what an earlier run with the same inputs has finished in --out"
    )
    existing.add_argument("--overwrite", action="store_true", help="replace an earlier run in --out")
    add_output_options(group)


def settings_from(arguments: argparse.Namespace) -> "InferSettings":
    """The run that the options ask for."""
    from dataclasses import fields

    from cus.inference import InferSettings

    known = {field.name for field in fields(InferSettings)}
    options: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name in known}
    # Switches say what to leave out, settings what to do; the rest have the same names.
    options["suppress_background"] = not arguments.no_suppression
    options["splat"] = not (arguments.no_splat or arguments.quick)
    options["views"] = tuple(arguments.views)
    return InferSettings(**options)


def infer(arguments: argparse.Namespace) -> int:
    """Run with parsed options; the exit status, which says whether to trust what was made.

    Raises:
        InputError, KeyboardInterrupt: after the folder says what is there.
    """
    with ConsoleProgress.of(arguments) as progress:
        with progress.loading():
            from cus.inference import Run

            settings = settings_from(arguments)
            run = Run(
                settings, progress, resume=arguments.resume, overwrite=arguments.overwrite, started=progress.started
            )
        if run.memory is not None:
            progress.say(run.memory.describe())
        report = run.folder.path / "report.html"

        def frames_are_there() -> None:
            progress.say(f"The frames are there: open {report}. The Gaussian scene follows.")

        def warn(verdict: "Verdict") -> None:
            if not (verdict.trusted or settings.force or settings.conditioning_only):
                progress.alarm(f"{verdict.headline}. The run goes on; Ctrl-C ends it.", "warning: ")

        try:
            run.execute(frames_are_there if settings.splat else None, warn)
        except KeyboardInterrupt as error:
            finished = len(run.planned()) - len(run.missing())
            error.add_note(f"{finished} of {len(run.planned())} stages are finished and kept in {run.folder.path}")
            error.add_note("the same command with --resume goes on")
            raise
        for note in run.results.notes:
            progress.note(note)
        if arguments.quick:
            progress.say(f"Without a Gaussian scene, as --quick asks: cus-fit {run.folder.path} adds it.")
        verdict = run.results.verdict
        assert verdict is not None, "a finished run has one"
        status = DONE if verdict.trusted or settings.force else UNTRUSTED
        _done(run, verdict, status, progress)
        return status


def _done(run: "Run", verdict: "Verdict", status: int, progress: ConsoleProgress) -> None:
    """What is there, how much of it, and what it is worth."""
    from cus.inference.outputs import sizes

    folder = run.folder
    for finding in verdict.findings:
        progress.say(f" {finding.grade} ({finding.told})", f"{finding.name}:", STYLES[finding.grade])
    state, rest = sizes(folder.path)
    sizes = f"{describe_size(rest)}, and {describe_size(state)} in state/, which --resume and cus-fit go on from"
    progress.done(
        f"{folder.path} ({sizes})",
        status=status,
        verdict=verdict.to_json(),
        out=folder.path,
        report=folder.path / "report.html",
        files=folder.files(),
        bytes=rest,
        state_bytes=state,
        stages={name: round(seconds, 3) for name, seconds in run.results.seconds.items()},
    )
    progress.say(f"Open {folder.path / 'report.html'} in a browser.")
    if status == UNTRUSTED:
        progress.alarm(f"{verdict.headline}: {verdict.advice[0]}. --force takes it as it is.", "Not to be trusted: ")
    elif verdict.grade != "good":
        progress.say(f": {'; '.join(verdict.advice)}.", "To do better", STYLES[verdict.grade])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    advice = "try --memory low, a smaller --size or --photo-size, or fewer --frames"
    return run_parser(build_parser, infer, argv, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
