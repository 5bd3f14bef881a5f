"""The paper's four stages as one recipe (Section IV-B); train/recipe.py is the command.

    clips ─► latents ─► 1. U-Net ─► its frames' latents ─► 2. decoder with skips
                                            └──────────────────┴─► coarse frames, clouds, structure images
    3. U-Net with structure guidance, from the start again ◄───────────────────────────┘
       └─► its frames' latents ─► 4. decoder, further

A model with a lossless first stage has no decoder to train: then there are only the two U-Nets and the images between.
"""

import gc
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from accelerate import PartialState

from cus.datasets.clips import clip_paths, load_clip, save_clip
from cus.errors import InputError
from cus.files import read_json
from cus.output_folder import OutputFolder
from cus.remote import local_folder
from cus.training import config as configs
from cus.training.processes import LONGEST_WAIT
from cus.training.recipe_jobs import Job, Recipe, checked_jobs
from cus.training.scripts import REMEDY

OnProgress = Callable[[int, int, str], None]
"""Called with (clips and steps done, total, current work)."""
DATA = "clips.json"
STEPS = 2
# A stage of two steps, the first of which warms up.
SHORT = [
    *(f"loop.steps={STEPS}", f"loop.save_every={STEPS}", "loop.keep=1", "loop.log_every=1", "loop.sample_every=0"),
    *("loop.workers=0", "loop.warmup=0", "loop.minutes=0", "loop.trackers=[]", "loop.wandb_project=''"),
]


def run(recipe: Recipe, on_progress: OnProgress, say: Callable[[str], None]) -> Path:
    """Do all unfinished parts in order, in every process.

    Args:
        recipe: settings of the recipe.
        on_progress: callback for progress.
        say: called with a line about each part.

    Returns:
        The folder of the finished model.

    Raises:
        InputError: unusable settings or clips, before anything slow; other settings or clips than those of finished
            parts; a stage that its own settings end early; or failed clips.
        KeyboardInterrupt: after an interrupt, once everything is saved.
    """
    jobs = checked_jobs(recipe)
    first = int(os.environ.get("RANK", "0")) == 0
    folder = OutputFolder(Path(recipe.out), "a recipe's stages", REMEDY)
    if first:
        folder.open(("settings.yaml", DATA, "done-*.json"), inputs=[local_folder(recipe.clips)])
    try:
        check_clips(recipe)
        # Before the first process writes more marks, so that all processes agree.
        done = [is_done(recipe, job) for job in jobs]
        _together()
        if first:
            configs.write(recipe, folder, "settings.yaml", [entry.name for entry in fields(recipe)])
            folder.write(DATA, lambda part: part.write_text(json.dumps(_clips_of(recipe))))
        before, total = 0, sum(job.units for job in jobs)
        for job, finished in zip(jobs, done, strict=True):
            if not finished:
                say(f"{job.name}: {job.words}")

                def tell(count: int, of: int, before: int = before, job: Job = job) -> None:
                    on_progress(before + job.units * count // max(of, 1), total, f"{job.name}: {count} of {of}")

                job.run(tell, say)
                if torch.cuda.is_available():  # memory of a part on the GPU must not hinder the next one
                    gc.collect()
                    torch.cuda.empty_cache()
                _together()
                job.require()
                if first:
                    folder.write(mark_of(job), lambda part, job=job: part.write_text(json.dumps({"units": job.units})))
            before += job.units
        on_progress(total, total, "all parts are done")
    finally:
        if first:
            folder.close()
    return folder.path / jobs[-1].name / "export"


def mark_of(job: Job) -> str:
    """The file that marks a part as done."""
    return f"done-{job.name}.json"


def is_done(recipe: Recipe, job: Job) -> bool:
    """Whether a part is done. Raises InputError if it was done with another number of steps or clips."""
    mark = Path(recipe.out) / mark_of(job)
    if not mark.is_file():
        return False
    units = read_json(mark).get("units")
    if units != job.units:
        raise InputError(
            f"{job.name} was done with {units} {job.unit} but {job.units} are requested, and later parts depend on "
            "it: give another out="
        )
    return True


def check_clips(recipe: Recipe) -> None:
    """Refuse other clips than those used in earlier parts. Raises InputError."""
    path = Path(recipe.out) / DATA
    if path.is_file() and (then := read_json(path)) != (now := _clips_of(recipe)):
        raise InputError(
            f"{recipe.clips} has other clips than those of the parts in {recipe.out} ({now['clips']} now, "
            f"{then.get('clips')} then): give another out="
        )


def _clips_of(recipe: Recipe) -> dict[str, object]:
    names = [path.name for path in clip_paths(local_folder(recipe.clips))]
    return {"clips": len(names), "names": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def _together() -> None:
    """Wait for all processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        here = getattr(torch, "accelerator", torch.cuda).is_available()
        PartialState(cpu=not here, timeout=LONGEST_WAIT).wait_for_everyone()


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
