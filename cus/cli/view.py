"""`cus-view`: look at a Gaussian scene in the browser, or record a walk into it."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cus.cli.command import CommandParser, run_parser
from cus.cli.console import ConsoleProgress, add_output_options

if TYPE_CHECKING:
    from cus.viewer import PathRequest, ViewScene

EXAMPLES = """\
examples:
  cus-view out                                                 look at a run: open the address that is printed
  cus-view scene.ply --cameras transforms.json --port 8081
  cus-view out --record walk.mp4 --factor 9 --measure          walk in to a ninth of the distance; no browser
  cus-view out --record zoom.mp4 --path zoom --factor 4 --target 0.5,0.4 --size 1280
"""
NAMED_COLORS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


def _numbers(text: str, count: int, example: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise argparse.ArgumentTypeError(f"expected {count} numbers like {example}, got {text!r}")
    return numbers


def _target(text: str) -> tuple[float, float]:
    u, v = _numbers(text, 2, "0.5,0.4")
    return u, v


def _color(text: str) -> tuple[float, float, float]:
    if text in NAMED_COLORS:
        return NAMED_COLORS[text]
    red, green, blue = _numbers(text, 3, "0.2,0.2,0.25")
    return red, green, blue


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser(
        "cus-view",
        description="Look at a 3D Gaussian scene in the browser, or record a camera path through it.",
        epilog=EXAMPLES,
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="an output folder, or a file of 3D Gaussians")
    parser.add_argument(
        "--cameras",
        type=Path,
        metavar="FILE",
        help="cameras of the photographs: a transforms.json, a COLMAP model or a scene's folder "
        "(default: the folder's own)",
    )
    _add_server(parser.add_argument_group("browser"))
    _add_record(parser.add_argument_group("recording without a browser"))
    add_output_options(parser)
    return parser


def _add_server(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s, this machine only)",
    )
    group.add_argument(
        "--port", type=int, default=8080, metavar="N", help="port; 0 takes any free one (default: %(default)s)"
    )
    group.add_argument(
        "--allow-origin",
        nargs="+",
        default=[],
        metavar="URL",
        help="pages of other sites that may connect, such as https://hub.example.org where a proxy serves the page"
        " (default: only the page itself)",
    )
    group.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="open the page in the default browser (default: only print its address)",
    )
    group.add_argument(
        "--max-gaussians",
        type=int,
        metavar="N",
        help="show only the N most visible Gaussians in the browser; recordings use all (default: all)",
    )


def _add_record(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--record", type=Path, metavar="FILE", help="render a path into this mp4 and exit")
    group.add_argument(
        "--overwrite", action="store_true", help="replace FILE, and measures that an earlier recording left beside it"
    )
    group.add_argument(
        "--path",
        dest="kind",
        choices=("walk", "zoom", "orbit", "run"),
        default="walk",
        help="walk: from the first photograph straight towards the target; zoom: lengthen the lens; orbit: swing about"
        " the target; run: the path of the run's frames (default: %(default)s)",
    )
    group.add_argument(
        "--factor",
        type=float,
        metavar="FACTOR",
        help="walk: distance at the start over that at the end; zoom and orbit: magnification (default: 3; orbit 1)",
    )
    group.add_argument(
        "--target",
        type=_target,
        metavar="U,V",
        help="point to go to, in fractions of the first photograph's width and height; 0,0 is its top-left corner"
        " (default: 0.5,0.5)",
    )
    group.add_argument(
        "--frames", type=int, metavar="N", help="number of frames (default: 49; run: as many as the run has)"
    )
    group.add_argument(
        "--size",
        type=int,
        default=960,
        metavar="PIXELS",
        help="longest side of the video, in pixels (default: %(default)s)",
    )
    group.add_argument("--fps", type=int, default=24, metavar="N", help="frames a second (default: %(default)s)")
    group.add_argument(
        "--background",
        type=_color,
        default="black",
        metavar="COLOR",
        help="black, white, or R,G,B in 0 to 1 (default: %(default)s)",
    )
    group.add_argument(
        "--measure",
        action="store_true",
        help="state holes, popping and needles of every frame, as a table and in a JSON file beside the video",
    )


def _request(arguments: argparse.Namespace) -> "PathRequest":
    from cus.viewer import PathRequest

    default = 1.0 if arguments.kind == "orbit" else 3.0
    factor = default if arguments.factor is None else arguments.factor
    return PathRequest(arguments.kind, factor, arguments.target, arguments.frames)


def record_path(scene: "ViewScene", arguments: argparse.Namespace, progress: ConsoleProgress) -> None:
    """Render the path that the options ask for. Raises InputError."""
    from cus.viewer import Recording, build_path, record

    recording = Recording(arguments.size, arguments.fps, arguments.background, arguments.measure)
    path = build_path(scene, _request(arguments))
    report = progress.start("Recording", False)
    started = time.monotonic()
    steadiness = record(scene, path, arguments.record, recording, report)
    progress.finish("Recording", time.monotonic() - started)
    if steadiness is not None and not arguments.json:
        print(steadiness.table())
    progress.done(f"{len(path)} frames in {arguments.record}", path=arguments.record, frames=len(path))


def view(arguments: argparse.Namespace) -> None:
    """Run with parsed options. Raises InputError, and KeyboardInterrupt when the server is stopped by the keyboard."""
    from cus.errors import InputError
    from cus.viewer import Recording, load_scene
    from cus.viewer.recording import check_output

    if arguments.record is not None:
        inputs = [path for path in (arguments.path, arguments.cameras) if path is not None]
        check_output(arguments.record, measure=arguments.measure, overwrite=arguments.overwrite, inputs=inputs)
        Recording(arguments.size, arguments.fps, arguments.background).check(arguments.frames or 1)
    elif arguments.measure:
        raise InputError("--measure belongs to --record FILE: it measures the frames of a recording")
    else:
        from cus.viewer.server import check_server

        check_server(arguments.host, arguments.port, arguments.max_gaussians, arguments.allow_origin)
    with ConsoleProgress.of(arguments) as progress:
        with progress.loading():
            scene = load_scene(arguments.path, arguments.cameras)
        for note in scene.notes:
            progress.note(note)
        if arguments.record is not None:
            _request(arguments).check(scene)
            record_path(scene, arguments, progress)
            return
    serve(scene, arguments)


def serve(scene: "ViewScene", arguments: argparse.Namespace) -> None:
    """Serve the page until the keyboard interrupts."""
    from cus.viewer.server import Viewer

    with Viewer(scene, arguments.host, arguments.port, arguments.max_gaussians, arguments.allow_origin) as viewer:
        print(f"{len(scene.gaussians)} Gaussians: open {viewer.address} (Ctrl-C ends)", flush=True)
        if arguments.open:
            import webbrowser

            webbrowser.open(viewer.address)
        viewer.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    advice = "try a smaller --size or --max-gaussians"
    return run_parser(build_parser, view, argv, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
