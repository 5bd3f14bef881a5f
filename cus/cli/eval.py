"""`cus-eval`: the close-up benchmark on posed photographs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cus.cli.command import CommandParser, run_parser
from cus.cli.console import ConsoleProgress, add_output_options

if TYPE_CHECKING:
    from cus.evaluation.runner import Outcome
    from cus.evaluation.settings import EvalSettings

DESCRIPTION = """\
Score models and classical methods on posed photographs: from two of them, make (a close-up of) a third that is held
out, and compare with its crop at full resolution. References are shrunk to the model's size; cameras are exact.
"""
EPILOG = """\
what is written to --out:
  page.html       pictures side by side with the truth, a slider, error maps, sortable tables
  results.md      the table, with bootstrap intervals and every failure; also results.tex, results.json, per_image.csv
  split.json      the cases, to be run again anywhere with --split
  records.jsonl   one line a picture, written as it happens: --resume goes on from it
  pictures/       every picture and the truth

any setting of a config file may be given as key=value, e.g. rules.triples=4 rules.zooms=[4] splat_iterations=300

examples:
  cus-eval --data photos/fountain --out eval/fountain
  cus-eval --data DL3DV-Benchmark --model org/name --config configs/eval/table1.yaml --out eval/table1
  cus-eval --data photos/fountain --split eval/fountain/split.json --rows hierarchical frames --out eval/again
  cus-eval --data photos/fountain --out eval/fountain --resume
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options, with units and defaults."""
    parser = CommandParser("cus-eval", description=DESCRIPTION, epilog=EPILOG)
    _add_what(parser.add_argument_group("what"))
    _add_how(parser.add_argument_group("how"))
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("eval"), metavar="DIR", help="folder (default: %(default)s)")
    again = output.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an evaluation that was cut off")
    again.add_argument("--overwrite", action="store_true", help="replace an earlier evaluation in --out")
    output.add_argument("--retry", action="store_true", help="with --resume: also try again what failed")
    add_output_options(output)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="any other setting, see below")
    return parser


def _add_what(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="a scene or a folder of scenes: transforms.json, COLMAP, LLFF, DL3DV, RealEstate10K or ACID layout",
    )
    group.add_argument("--split", type=Path, metavar="FILE", help="cases of an earlier run (default: chosen by rules)")
    group.add_argument(
        "--protocol",
        choices=("closeup", "regular", "both"),
        help="closeup: crops x4 and x5 and photographs from nearer by; regular: whole photographs (default: closeup)",
    )
    group.add_argument("--scenes", nargs="+", metavar="NAME", help="only these (default: all)")


def _add_how(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML, see configs/eval/")
    group.add_argument("--model", metavar="MODEL", help="mini, a folder, or a Hub id (default: mini)")
    group.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows of the config (default: all)")
    group.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="psnr psnr_cc ssim gmsd haarpsi st_lpips lpips lpips_vgg dino niqe metaiqa (default: all that can be had)",
    )
    group.add_argument("--size", type=int, metavar="PIXELS", help="longest side of all pictures (default: the model's)")
    group.add_argument(
        "--poses",
        choices=("given", "estimated"),
        help="estimated: by the estimator, the target's by features; errors stand in the table (default: given)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of every random draw (default: 0)")
    group.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ... (default: auto)")


def settings_of(arguments: argparse.Namespace) -> "EvalSettings":
    """The config file, then `key=value`, then the options. Raises InputError for what cannot be."""
    from cus.errors import InputError
    from cus.evaluation.settings import EvalSettings
    from cus.training.config import resolve

    _separate(arguments)
    if arguments.size == 0:
        # In a config file it is the default.
        raise InputError("--size must be 64 to 8192 pixels, got 0; leave it out for the model's")
    settings = resolve(EvalSettings, arguments.config, arguments.settings)
    for name in ("protocol", "model", "metrics", "size", "poses", "seed", "device", "scenes"):
        value = getattr(arguments, name)
        if value is not None:
            setattr(settings, name, value)
    settings.check()
    if arguments.rows is not None:
        known = [row.name for row in settings.rows]
        unknown = [name for name in arguments.rows if name not in known]
        if unknown:
            raise InputError(f"there is no row {unknown[0]!r}; there are {', '.join(known)}")
        settings.rows = [row for row in settings.rows if row.name in arguments.rows]
        if settings.baseline not in settings.row_names:
            settings.baseline = ""
    return settings


def _separate(arguments: argparse.Namespace) -> None:
    """Settings after an option that takes a list of names, as in `--rows frames seed=3`, are settings all the same."""
    for option in ("scenes", "rows", "metrics"):
        words = getattr(arguments, option)
        if words is not None and any("=" in word for word in words):
            setattr(arguments, option, [word for word in words if "=" not in word])
            arguments.settings = [*arguments.settings, *(word for word in words if "=" in word)]


def _run(arguments: argparse.Namespace) -> None:
    import time

    from cus.errors import InputError
    from cus.evaluation.folder import Mode
    from cus.evaluation.runner import evaluate

    settings = settings_of(arguments)
    if arguments.split is not None and arguments.protocol is not None:
        raise InputError("the split file says which cases there are; leave --protocol out")
    mode = Mode(arguments.resume, arguments.retry, arguments.overwrite)
    started = time.perf_counter()
    with ConsoleProgress.of(arguments) as progress:
        try:
            outcome = evaluate(
                arguments.data,
                arguments.out,
                settings,
                arguments.split,
                mode=mode,
                on_progress=progress.start("Evaluation", False),
            )
        except KeyboardInterrupt as error:
            error.add_note("what is scored is kept; the same command with --resume goes on")
            raise
        progress.finish("Evaluation", time.perf_counter() - started)
        _tell(outcome, progress)
        page = arguments.out / "page.html"
        progress.done(str(page), out=arguments.out, page=page, failures=len(outcome.failures))


def _tell(outcome: "Outcome", progress: ConsoleProgress) -> None:
    for metric, reason in outcome.unavailable.items():
        progress.note(f"without {metric}: {reason}")
    for scene, reason in outcome.without_cases.items():
        progress.say(f" in {scene}: {reason}", "no case", "yellow")
    for record in outcome.failures:
        where = f"{record.scene} {record.case}, {record.row_label}"
        progress.say(f" {where}: {record.error}", "failed", "red")
    markdown = next((file for file in outcome.files if file.name == "results.md"), None)
    if markdown is not None:
        progress.say(markdown.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    advice = "try a smaller --size"
    return run_parser(build_parser, _run, arguments, memory_advice=advice)


if __name__ == "__main__":
    sys.exit(main())
