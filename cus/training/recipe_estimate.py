"""Estimates the cost of a recipe from one clip and two steps of each stage, whose results are discarded."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cus.datasets.clips import clip_paths, load_clip, save_clip
from cus.errors import InputError
from cus.remote import local_folder
from cus.training.recipe import OnProgress, check_clips, is_done
from cus.training.recipe_jobs import Job, checked_jobs
from cus.training.recipe_settings import Recipe

STEPS = 2
# A stage of two steps, the first of which warms up.
SHORT = [
    *(f"loop.steps={STEPS}", f"loop.save_every={STEPS}", "loop.keep=1", "loop.log_every=1", "loop.sample_every=0"),
    *("loop.workers=0", "loop.warmup=0", "loop.minutes=0", "loop.trackers=[]", "loop.wandb_project=''"),
]


@dataclass(frozen=True)
class Measured:
    """Measurements of a part.

    Attributes:
        seconds: seconds per step or clip.
        each: bytes of a clip's file, or of a checkpoint.
        once: bytes that are needed once: the export.
    """

    seconds: float
    each: int
    once: int


def estimate(recipe: Recipe, on_progress: OnProgress, say: Callable[[str], None]) -> None:
    """Print the cost of the unfinished parts; everything computed for it is deleted.

    Raises:
        InputError: anything the recipe would be refused for, or more than one process.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("the estimate is made in one process: start it with python, and processes= for how many it is")
    jobs = checked_jobs(recipe)
    check_clips(recipe)
    done = [is_done(recipe, job) for job in jobs]
    measured = _measured(recipe, jobs, on_progress)
    rows = [_row(job, found, known) for job, found, known in zip(jobs, measured, done, strict=True)]
    left = [(job, found) for job, found, known in zip(jobs, measured, done, strict=True) if not known]
    hours = sum(job.units * found.seconds for job, found in left) / 3600
    size = sum(_bytes(job, found) for job, found in left)
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say(f"{hours:.2f} hours of one process, {hours / recipe.processes:.2f} of {recipe.processes} at best")
    free = shutil.disk_usage(_existing(Path(recipe.out))).free
    say(f"{size / 1e9:.2f} GB of disk; {free / 1e9:.0f} GB are free at {_existing(Path(recipe.out))}")
    on_progress(1, 1, "measured")


def _row(job: Job, found: Measured, done: bool) -> tuple[str, str, str, str, str]:
    if done:
        return (job.name, job.words, f"{job.units} {job.unit}", "done", "")
    hours = job.units * found.seconds / 3600
    per = f"{found.seconds:.2f} s each: {hours:.2f} hours"
    return (job.name, job.words, f"{job.units} {job.unit}", per, f"{_bytes(job, found) / 1e9:.3f} GB")


def _bytes(job: Job, found: Measured) -> int:
    kept = job.settings.loop.keep if job.unit == "steps" else job.units
    return found.each * kept + found.once


def _existing(path: Path) -> Path:
    """A folder, or its nearest existing parent."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def _measured(recipe: Recipe, jobs: list[Job], on_progress: OnProgress) -> list[Measured]:
    """Run all parts with one clip, in a folder next to the recipe's, because a stage's checkpoint is large."""
    with tempfile.TemporaryDirectory(prefix=".cus-part-estimate-", dir=_existing(Path(recipe.out).parent)) as folder:
        clip = load_clip(clip_paths(local_folder(recipe.clips))[0])
        for name in ("clips", "held_out"):
            (Path(folder) / name).mkdir()
            save_clip(Path(folder) / name / "clip.safetensors", clip)
        small = replace(
            recipe,
            out=str(Path(folder) / "out"),
            clips=str(Path(folder) / "clips"),
            held_out=str(Path(folder) / "held_out") if recipe.held_out else "",
            unet_settings=[*recipe.unet_settings, *SHORT],
            guided_settings=[*recipe.guided_settings, *SHORT],
            decoder_settings=[*recipe.decoder_settings, *SHORT],
        )
        found = []
        for number, job in enumerate(checked_jobs(small)):
            on_progress(number, len(jobs), f"measuring {job.name}")
            found.append(_measure(job))
        return found


def _measure(job: Job) -> Measured:
    """Measure a part with one clip or two steps."""
    times: list[float] = []
    job.run(lambda done, total: times.append(time.perf_counter()), lambda words: None)
    job.require()
    out = Path(job.settings.out)
    if job.unit == "clips":
        return Measured(times[-1] - times[0], _size(out.glob("*.safetensors")), 0)
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in logged if "seconds" in line]
    return Measured(seconds[-1], _size((out / "checkpoints").rglob("*")), _size((out / "export").rglob("*")))


def _size(paths) -> int:  # noqa: ANN001  (what glob gives)
    return sum(path.stat().st_size for path in paths if path.is_file())
