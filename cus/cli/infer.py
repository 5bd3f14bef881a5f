"""`cus-infer`: photographs in; close-up frames, point cloud, 3D Gaussian scene and report out."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cus.cli.command import run_command
from cus.cli.failures import DONE, UNTRUSTED
from cus.cli.reading import Common, Earlier
from cus.inference.settings import InferSettings, ModelSettings, OutputSettings, PathSettings, PhotoSettings
from cus.options import Flag

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.inference import Run, Verdict

STYLES = {"good": "green", "fair": "yellow", "poor": "red"}
EXAMPLES = """\
examples:
  cus-infer --views a.jpg b.jpg
  cus-infer --views a.jpg b.jpg c.jpg --out out/door --trajectory zoom --zoom 4 --target 0.5,0.4 --frames 16 --seed 0
  cus-infer --views clip.mp4 --max-views 6
  cus-infer --views a.jpg --trajectory orbit --estimator da3
  cus-infer --views a.jpg b.jpg --trajectory dolly --zoom 2.5 --target 0.3,0.6
  cus-infer --views a.jpg b.jpg --cameras transforms.json --conditioning-only
  cus-infer --views a.jpg b.jpg --model models/viewcrafter --memory low --estimator vggt
"""


@dataclass(frozen=True)
class InferOptions:
    """Turn a few photographs of a scene, or just one, into close-ups, a point cloud and a 3D Gaussian scene.

    Attributes:
        photographs: the input photographs
        path: the camera path
        model: the model and its computation
        output: the outputs and their folder
        quick: stop after frames, point cloud and report; the same as --no-splat
        restart: what to do with an earlier run
        common: options of every command
    """

    photographs: PhotoSettings
    path: PathSettings = PathSettings()
    model: ModelSettings = ModelSettings()
    output: OutputSettings = OutputSettings()
    quick: Flag = False
    restart: Earlier = Earlier()
    common: Common = Common()

    @property
    def settings(self) -> InferSettings:
        """The settings of the run."""
        groups = (self.photographs, self.path, self.model, self.output)
        settings = InferSettings(**{name: value for group in groups for name, value in vars(group).items()})
        return replace(settings, splat=settings.splat and not self.quick)


def infer(options: InferOptions, progress: "ConsoleProgress") -> int:
    """Run; returns the exit status, which says whether to trust the result.

    Raises:
        InputError, KeyboardInterrupt: raised after the folder has recorded what exists.
    """
    settings, restart = options.settings, options.restart
    with progress:
        with progress.loading():
            from cus.cli.consent import offer_network
            from cus.inference import Run

            settings.check()  # before anyone is asked anything
            offer_network(settings.estimator, progress)
            run = Run(settings, progress, resume=restart.resume, overwrite=restart.overwrite, started=progress.started)
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
            error.add_note("the same command with --resume continues")
            raise
        for note in run.results.notes:
            progress.note(note)
        if options.quick:
            progress.say(f"Without a Gaussian scene, as --quick asks: cus-fit {run.folder.path} adds it.")
        verdict = run.results.verdict
        assert verdict is not None, "a finished run has one"
        status = DONE if verdict.trusted or settings.force else UNTRUSTED
        _done(run, verdict, status, progress)
        return status


def _done(run: "Run", verdict: "Verdict", status: int, progress: "ConsoleProgress") -> None:
    """Report what exists, its size, and its quality."""
    from cus.cli.console import describe_size
    from cus.inference.outputs import sizes

    folder = run.folder
    for finding in verdict.findings:
        progress.say(f" {finding.grade} ({finding.told})", f"{finding.name}:", STYLES[finding.grade])
    state, rest = sizes(folder.path)
    sizes = f"{describe_size(rest)}, and {describe_size(state)} in state/, for --resume and cus-fit"
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
    """Entry point; returns the exit status of `run_command`."""
    advice = "try --memory low, a smaller --size or --photo-size, or fewer --frames"
    return run_command("cus-infer", InferOptions, infer, argv, epilog=EXAMPLES, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
