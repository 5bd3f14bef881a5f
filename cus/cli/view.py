"""`cus-view`: shows a Gaussian scene in the browser, or records a path through it."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.reading import Common
from cus.errors import InputError
from cus.options import Flag, option
from cus.viewer.requests import PathRequest, Recording

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.viewer.scene import ViewScene

EXAMPLES = """\
examples:
  cus-view out                                                 look at a run: open the address that is printed
  cus-view scene.ply --cameras transforms.json --port 8081
  cus-view out --record walk.mp4 --factor 9 --measure          walk in to a ninth of the distance; no browser
  cus-view out --record zoom.mp4 --path zoom --factor 4 --target 0.5,0.4 --size 1280
"""


@dataclass(frozen=True)
class Browser:
    """The page that shows the scene.

    Attributes:
        host: address to listen on; 0.0.0.0 allows other machines, 127.0.0.1 only this one
        port: port; 0 takes any free one
        allow_origin: other sites whose pages may connect, such as https://hub.example.org for a proxy (default: only
            the page itself)
        open: open the page in the default browser, instead of only printing its address
        max_gaussians: show only the N most visible Gaussians in the browser; recordings use all (default: all)
    """

    host: Annotated[str, option("ADDRESS")] = "127.0.0.1"
    port: Annotated[int, option("N")] = 8080
    allow_origin: Annotated[tuple[str, ...], option("URL [URL ...]")] = ()
    open: Annotated[bool, option()] = False
    max_gaussians: Annotated[int | None, option("N")] = None


@dataclass(frozen=True)
class ViewOptions:
    """Look at a 3D Gaussian scene in the browser, or record a camera path through it.

    Attributes:
        scene: an output folder, or a file of 3D Gaussians
        cameras: cameras of the photographs: a transforms.json, a COLMAP model or a scene's folder (default: the
            folder's own)
        browser: the page that shows the scene
        record: render a path into this mp4 and exit, without a browser
        overwrite: replace the mp4, and the measures of an earlier recording next to it
        path: the path to record
        recording: how to record it
        common: options of every command
    """

    scene: Annotated[Path, Positional, option("PATH")]
    cameras: Annotated[Path | None, option("FILE")] = None
    browser: Browser = Browser()
    record: Annotated[Path | None, option("FILE")] = None
    overwrite: Flag = False
    path: PathRequest = PathRequest()
    recording: Recording = Recording()
    common: Common = Common()


def view(options: ViewOptions, progress: "ConsoleProgress") -> None:
    """Show the scene, or record it. Raises InputError, and KeyboardInterrupt when Ctrl-C stops the server."""
    _check(options)
    from cus.viewer.scene import load_scene

    with progress:
        with progress.loading():
            scene = load_scene(options.scene, options.cameras)
        for note in scene.notes:
            progress.note(note)
        if options.record is not None:
            record_path(scene, options.record, options, progress)
            return
    serve(scene, options.browser)


def _check(options: ViewOptions) -> None:
    """Refuse invalid options before anything is loaded. Raises InputError."""
    if options.record is not None:
        from cus.viewer.recording import check_output

        inputs = [path for path in (options.scene, options.cameras) if path is not None]
        measure = options.recording.measure
        check_output(options.record, measure=measure, overwrite=options.overwrite, inputs=inputs)
        options.recording.check(options.path.frames or 1)
    elif options.recording.measure:
        raise InputError("--measure belongs to --record FILE: it measures the frames of a recording")
    else:
        from cus.viewer.server import check_server

        browser = options.browser
        check_server(browser.host, browser.port, browser.max_gaussians, browser.allow_origin)


def record_path(scene: "ViewScene", file: Path, options: ViewOptions, progress: "ConsoleProgress") -> None:
    """Render the path given by the options. Raises InputError."""
    from cus.viewer import build_path, record

    path = build_path(scene, options.path)
    report = progress.start("Recording", False)
    started = time.monotonic()
    steadiness = record(scene, path, file, options.recording, report)
    progress.finish("Recording", time.monotonic() - started)
    if steadiness is not None and not options.common.json:
        print(steadiness.table())
    progress.done(f"{len(path)} frames in {file}", path=file, frames=len(path))


def serve(scene: "ViewScene", options: Browser) -> None:
    """Serve the page until Ctrl-C."""
    from cus.viewer.server import Viewer

    with Viewer(scene, options.host, options.port, options.max_gaussians, options.allow_origin) as viewer:
        print(f"{len(scene.gaussians)} Gaussians: open {viewer.address} (Ctrl-C ends)", flush=True)
        if options.open:
            import webbrowser

            webbrowser.open(viewer.address)
        viewer.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    advice = "try a smaller --size or --max-gaussians"
    return run_command("cus-view", ViewOptions, view, argv, epilog=EXAMPLES, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
