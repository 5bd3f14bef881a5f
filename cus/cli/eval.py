"""`cus-eval`: the close-up benchmark on posed photographs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from cus.cli.command import run_command
from cus.cli.reading import Common, Earlier
from cus.errors import InputError
from cus.evaluation.choices import EvalChoices
from cus.options import Flag, option

if TYPE_CHECKING:
    from cus.cli.console import ConsoleProgress
    from cus.evaluation.runner import Outcome
    from cus.evaluation.settings import EvalSettings

EPILOG = """\
method:
  From two photographs, make a close-up of a third that is held out, or the third itself, and compare with its crop at
  full resolution. References are shrunk to the model's size; cameras are exact.

files in --out:
  page.html       pictures side by side with the truth, a slider, error maps, sortable tables
  results.md      the table, with bootstrap intervals and every failure; also results.tex, results.json, per_image.csv
  split.json      the cases, to be run again anywhere with --split
  records.jsonl   one line per picture, written immediately: --resume continues from it
  pictures/       every picture and the truth

any setting of a config file can be given as key=value, e.g. rules.triples=4 rules.zooms=[4] splat_iterations=300

examples:
  cus-eval --data photos/fountain --out eval/fountain
  cus-eval --data DL3DV-Benchmark --model org/name --config configs/eval/table1.yaml --out eval/table1
  cus-eval --data photos/fountain --split eval/fountain/split.json --rows hierarchical frames --out eval/again
  cus-eval --data photos/fountain --out eval/fountain --resume
"""


@dataclass(frozen=True)
class EvalOptions:
    """Score models and classical methods on posed photographs.

    Attributes:
        settings: any setting of a config file, such as rules.triples=4; see below
        data: a scene or a folder of scenes: transforms.json, COLMAP, LLFF, DL3DV, RealEstate10K, ACID or KITTI layout
        split: cases of an earlier run (default: chosen by rules)
        config: settings in YAML, see configs/eval/
        rows: only these rows of the config (default: all)
        out: output folder of the evaluation
        retry: with --resume: also retry failed cases
        evaluation: what to evaluate; these override a config file and key=value
        restart: what to do with an earlier evaluation
        common: options of every command
    """

    data: Annotated[Path, option("DIR")]
    settings: Annotated[tuple[str, ...], Positional, option("[key=value ...]")] = ()
    split: Annotated[Path | None, option("FILE")] = None
    config: Annotated[Path | None, option("FILE")] = None
    rows: Annotated[tuple[str, ...] | None, option("NAME [NAME ...]")] = None
    out: Annotated[Path, option("DIR")] = Path("eval")
    retry: Flag = False
    evaluation: EvalChoices = field(default_factory=EvalChoices)
    restart: Earlier = Earlier()
    common: Common = Common()


def parted(options: EvalOptions) -> EvalOptions:
    """Move key=value that follow a list of names, as in `--rows frames seed=3`, to the settings."""
    found = list(options.settings)

    def names(words: Sequence[str] | None) -> list[str] | None:
        found.extend(word for word in words or () if "=" in word)
        return None if words is None else [word for word in words if "=" not in word]

    rows, scenes, metrics = names(options.rows), names(options.evaluation.scenes), names(options.evaluation.metrics)
    evaluation = replace(options.evaluation, scenes=scenes, metrics=metrics)
    return replace(options, settings=tuple(found), rows=None if rows is None else tuple(rows), evaluation=evaluation)


def _resolved(options: EvalOptions) -> "EvalSettings":
    """The config file, then `key=value`. Raises InputError."""
    from cus.evaluation.settings import EvalSettings
    from cus.training.config import resolve

    return resolve(EvalSettings, options.config, list(parted(options).settings))


def over(options: EvalOptions) -> EvalOptions:
    """The settings that command-line options override. Raises InputError."""
    settings = _resolved(options)
    return EvalOptions(
        options.data, evaluation=EvalChoices(**{f.name: getattr(settings, f.name) for f in fields(EvalChoices)})
    )


def settings_of(options: EvalOptions) -> "EvalSettings":
    """The config file, then `key=value`, then the options. Raises InputError for invalid settings."""
    options = parted(options)
    settings = _resolved(options)
    for name, value in vars(options.evaluation).items():
        setattr(settings, name, value)
    settings.check()
    if options.rows is not None:
        known = [row.name for row in settings.rows]
        unknown = [name for name in options.rows if name not in known]
        if unknown:
            raise InputError(f"there is no row {unknown[0]!r}; there are {', '.join(known)}")
        settings.rows = [row for row in settings.rows if row.name in options.rows]
        if settings.baseline not in settings.row_names:
            settings.baseline = ""
    return settings


def evaluate(options: EvalOptions, progress: "ConsoleProgress") -> None:
    """Run the evaluation. Raises InputError."""
    import time

    from cus.evaluation import runner
    from cus.evaluation.folder import Mode

    settings = settings_of(options)
    if options.split is not None and settings.protocol != _resolved(options).protocol:
        raise InputError("the split file says which cases there are; leave --protocol out")
    mode = Mode(options.restart.resume, options.retry, options.restart.overwrite)
    started = time.perf_counter()
    with progress:
        report = progress.start("Evaluation", False)
        try:
            outcome = runner.evaluate(options.data, options.out, settings, options.split, mode=mode, on_progress=report)
        except KeyboardInterrupt as error:
            error.add_note("scores are kept; the same command with --resume continues")
            raise
        progress.finish("Evaluation", time.perf_counter() - started)
        _tell(outcome, progress)
        page = options.out / "page.html"
        progress.done(str(page), out=options.out, page=page, failures=len(outcome.failures))


def _tell(outcome: "Outcome", progress: "ConsoleProgress") -> None:
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


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of `run_command`."""
    advice = "try a smaller --size"
    return run_command("cus-eval", EvalOptions, evaluate, argv, epilog=EPILOG, memory_advice=advice, over=over)


if __name__ == "__main__":
    sys.exit(main())
