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
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from accelerate import PartialState

from cus.datasets.clips import clip_paths
from cus.errors import InputError
from cus.files import read_json
from cus.output_folder import OutputFolder
from cus.remote import local_folder
from cus.training import config as configs
from cus.training.processes import LONGEST_WAIT
from cus.training.recipe_jobs import Job, checked_jobs
from cus.training.recipe_settings import Recipe
from cus.training.scripts import REMEDY

OnProgress = Callable[[int, int, str], None]
"""Called with (clips and steps done, total, current work)."""
DATA = "clips.json"


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
