"""`cus-refine`: improves a Gaussian scene for closer views, using its photographs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.failures import DONE, UNTRUSTED
from cus.cli.reading import Common, Earlier
from cus.inference.refinement.settings import RefineSettings
from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress

EPILOG = """\
files in --out:
  splat.ply       the refined scene
  report.html     before and after at every factor, side by side along the walk, and a viewer
  close_ups/      the same pictures; walk.mp4 is the walk through the refined scene
  refine.json     settings, measures before and after, the verdict
  transforms.json the photographs with their cameras: input for cus-view and cus-refine

examples:
  cus-refine out/door
  cus-refine out/door --target 0.5,0.4 --factor 9 --out out/door-near
  cus-refine out/door --method progressive --target 0.5,0.4 --factor 9
  cus-refine out/fountain --iterations 2000
  cus-refine scene.ply --data photos/fountain
  cus-refine out/door --method vsd --factor 4
  cus-refine out/door --method vsd --model none --rounds 3 --out out/door-sharp
"""
STYLES = {"good": "green", "fair": "yellow", "poor": "red"}


@dataclass(frozen=True)
class RefineCommand:
    """Refine a 3D Gaussian scene with its photographs, so that it holds up in closer views.

    Attributes:
        scene: output folder of cus-infer, cus-fit or cus-refine, or a file of 3D Gaussians
        data: posed photographs that the scene was made from (default: those recorded in the folder)
        images: folder of these photographs (default: as in the cameras' file)
        out: output folder (default: that of the scene with -refined after its name)
        device: auto, cpu, cuda, cuda:1, ...
        force: exit with status 0 even if the photographs agree on hardly anything, instead of 3 and a warning
        refinement: how to refine the scene
        restart: what to do with an earlier result
        common: options of every command
    """

    scene: Annotated[Path, Positional, option("PATH")]
    data: Annotated[Path | None, option("DIR")] = None
    images: Annotated[Path | None, option("FOLDER")] = None
    out: Annotated[Path | None, option("FOLDER")] = None
    device: Annotated[str, option("DEVICE")] = "auto"
    force: Flag = False
    refinement: RefineSettings = RefineSettings()
    restart: Earlier = Earlier()
    common: Common = Common()


def refine_command(options: RefineCommand, progress: "ConsoleProgress") -> int:
    """Run the refinement; returns the exit status. Errors and interrupts leave earlier results unchanged."""
    with progress:
        with progress.loading():
            from cus.errors import InputError
            from cus.inference.folder import RunFolder
            from cus.inference.refinement.run import refine
            from cus.inference.refinement.subject import read_subject
            from cus.inference.settings import torch_device

            device = torch_device(options.device)
            if options.images is not None and options.data is None:
                raise InputError("--images is the folder of the photographs of --data; name both")
            subject = read_subject(options.scene, options.data, options.images)
        place = options.scene.resolve()
        out = options.out or place.with_name(f"{place.stem if place.is_file() else place.name}-refined")
        if place.is_dir() and (out.resolve() == place or place in out.resolve().parents):
            raise InputError(f"{out} is the scene's own folder, or in it; name a folder next to it with --out")
        folder = RunFolder(out)
        inputs = [subject.splat, *subject.posed.paths]
        folder.prepare(resume=options.restart.resume, overwrite=options.restart.overwrite, inputs=inputs)
        try:
            made = refine(subject, options.refinement, folder, progress, device=device, resume=options.restart.resume)
        except KeyboardInterrupt as error:
            error.add_note(f"the scene is unchanged; the same command with --resume continues, in {out}")
            raise
        finally:
            folder.close()
        for note in made.summary["notes"]:
            progress.note(note)
        verdict = made.verdict
        for finding in verdict.findings:
            progress.say(f" {finding.grade} ({finding.told})", f"{finding.name}:", STYLES[finding.grade])
        status = DONE if verdict.trusted or options.force else UNTRUSTED
        facts = {name: made.summary[name] for name in ("gaussians", "before", "after")}
        files = RunFolder(out).files()
        report = out / "report.html"
        progress.done(str(out), status=status, verdict=verdict.to_json(), out=out, report=report, files=files, **facts)
        progress.say(f"Open {report} in a browser.")
        if status == UNTRUSTED:
            progress.alarm(f"{verdict.headline}: {verdict.advice[0]}. --force takes it.", "Not to be trusted: ")
        return status


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    advice = "try a smaller --size"
    return run_command("cus-refine", RefineCommand, refine_command, argv, epilog=EPILOG, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
