"""Fit the Gaussian scene of a finished run anew, from what its stages recorded."""

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos, load_transforms
from cus.cameras.large_pictures import large_pictures
from cus.cameras.photos import Photo
from cus.cameras.transforms_json import read_json
from cus.closeup import CloseUp, given
from cus.errors import InputError
from cus.files import PART, explained
from cus.inference import machine, outputs
from cus.inference.close_up_view import seen_in
from cus.inference.fitting import FitOptions, Splat, fit
from cus.inference.folder import REFINED, RunFolder, State
from cus.inference.labels import STAGES
from cus.inference.photographs import LARGEST_PHOTOGRAPH, Batch, Inputs
from cus.inference.progress import OnProgress
from cus.inference.recorded import cloud_from, conditioning_from, scene_from
from cus.inference.results import Results
from cus.inference.run_record import read_record, recorded_settings
from cus.inference.settings import InferSettings, fingerprint
from cus.splats import FitConfig

_NEEDED = ("scene", "conditioning", "frames", "cloud")
# What a fit replaces, the record of it first: what is cut off between two of them is made again by --resume.
_MADE = ("state/splat.safetensors", "splat.ply", "splat.mp4", "report.html", "run.json")

# The settings of a fit that run.json and the report show, beside the confidences.
_REPORTED = (
    "iterations",
    "strategy",
    "max_gaussians",
    "max_pixels",
    "crops",
    "sh_degree",
    "exposure",
    "depth_weight",
    "refine_cameras",
    "antialiased",
)


@dataclass(frozen=True)
class RecordedRun:
    """A run of `cus-infer` as its folder holds it.

    Attributes:
        path: the folder.
        settings: of the run.
        summary: its `run.json`.
        results: what the report shows of all stages but the Gaussian scene.
        made: the frames, and what they were made from.
        posed: the photographs' files with their cameras.
    """

    path: Path
    settings: InferSettings
    summary: dict[str, Any]
    results: Results
    made: CloseUp
    posed: PosedPhotos


def is_run(path: Path) -> bool:
    """Whether a folder is the output of `cus-infer`."""
    return (path / "run.json").is_file()


def read_run(path: Path, device: torch.device | str = "cpu") -> RecordedRun:
    """Read what a run has recorded. Raises InputError where a stage that the fit needs is missing or damaged."""
    summary = read_record(path)
    keys = summary["stages"]
    states = {name: _recorded(path, name, device, keys.get(name)) for name in _NEEDED}
    settings = recorded_settings(summary, path)
    scene = scene_from(states["scene"])
    targets = load_transforms(path)
    width, height = targets.sizes[0]
    cameras = Cameras(targets.viewmats, targets.Ks, width, height)
    frames = states["frames"].tensors["frames"]
    if tuple(frames.shape) != (len(cameras), 3, height, width):
        raise InputError(
            f"{path}: transforms.json is for {len(cameras)} frames of {width}x{height}, but the recorded ones are "
            f"{len(frames)} of {frames.shape[-1]}x{frames.shape[-2]}; run cus-infer once more with --resume"
        )
    posed = load_transforms(path, "photos")
    photos = tuple(
        Photo(p, *size, None, upright) for p, size, upright in zip(posed.paths, posed.sizes, posed.upright, strict=True)
    )
    scales = (scene.cameras.Ks.cpu() / posed.Ks)[:, (0, 1), (0, 1)]
    sizes = (torch.tensor(posed.sizes) * scales).round()
    # Runs of earlier versions did not record which pixels count; padding is black.
    valid = states["scene"].tensors.get("valid", scene.images.sum(dim=1) > 0).bool()
    batch = Batch(PhotoSet(scene.images, valid, scales), None, scene.cameras.Ks[:, 0, 0], sizes, posed.origin)
    cloud, verdict, crop = cloud_from(states["cloud"]), *seen_in(states["conditioning"])
    conditioning = conditioning_from(states["conditioning"])
    results = Results(
        Inputs(photos, None),
        batch,
        scene=scene,
        cameras=cameras,
        conditioning=conditioning,
        frames=frames,
        verdict=verdict,
        plain_crop=crop,
        loading=summary["loading_seconds"],
        seconds=dict(summary["seconds"]),
        reused=[name for name in summary["reused"] if name != "splat"],
    )
    made = CloseUp(scene, cameras, conditioning, frames, each=given(cloud=cloud))
    return RecordedRun(path, settings, summary, results, made, posed)


def refit(
    run: RecordedRun,
    options: FitOptions,
    on_progress: OnProgress,
    *,
    out: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Path:
    """Fit the run's Gaussian scene anew and replace `splat.ply`, `splat.mp4`, `report.html` and `run.json`.

    All of them are made before the first is replaced.

    Args:
        run: what was recorded.
        options: how to fit.
        on_progress: called with (steps done, all steps, PSNR and number of Gaussians in words).
        out: another folder, which becomes a copy of the run with the new scene; None: the run's own.
        resume: go on with a fit of the same options that was cut off.
        overwrite: replace an earlier run in `out`.

    Returns:
        The folder that holds the new scene.

    Raises:
        InputError: options that cannot be, a folder that cannot be written or holds an earlier run, a full disk.
    """
    results, made, valid = run.results, run.made, run.results.batch.set.valid
    config = options.config(made.frames.device, made.cameras.width, made.cameras.height)
    folder = _target(run, out, resume=resume, overwrite=overwrite)
    try:
        made_from = [_digest(run.path), repr(config), repr(options)]
        checkpoint = folder.checkpoint("refit", fingerprint(made_from), keep=resume)
        started = time.perf_counter()
        photographs, unread = recorded_photographs(run) if config.crops else (None, [])
        splat = results.splat = fit(made, made.cloud, options, on_progress, checkpoint, photographs, valid)
        results.antialiased = config.antialiased
        results.seconds["splat"] = time.perf_counter() - started
        # Earlier words on a scene that is no more.
        notes = [note for note in run.summary["notes"] if not note.startswith(f"{STAGES['splat']}:")]
        results.notes = [*notes, *splat.notes, *unread]
        settings = replace(run.settings, out=folder.path, splat_iterations=config.iterations)
        if folder.path.resolve() != run.path.resolve():
            _copy(run.path, folder)
        summary = _summary(run, options, config, folder)
        _replace_all(folder, settings, run, splat, summary, fingerprint(made_from))
        folder.discard(checkpoint)
        if folder.path.resolve() != run.path.resolve():
            folder.drop_earlier(states=True)
        folder.rewrite()
    finally:
        folder.close()
    return folder.path


def recorded_photographs(run: RecordedRun) -> tuple[list[Tensor] | None, list[str]]:
    """The run's photographs at their own resolution, or None and a note where they cannot be read any more."""
    posed, part = run.posed, run.results.batch.set
    height, width = part.images.shape[-2:]
    try:
        for index, size in enumerate(posed.sizes):
            photo = posed.photo(index)
            if (photo.width, photo.height) != size:
                found, then = f"{photo.width}x{photo.height}", f"{size[0]}x{size[1]}"
                raise InputError(f"{photo.path} is {found} pixels, but the run used one of {then}")
        pictures = (posed.straight_picture(index).pixels for index in range(len(posed)))
        return large_pictures(pictures, part.scales, width, height, LARGEST_PHOTOGRAPH), []
    except InputError as error:
        reason = str(error).partition(";")[0]
        return None, [f"{STAGES['splat']}: fitted to the photographs as the run recorded them alone, because {reason}"]


def _summary(run: RecordedRun, options: FitOptions, config: FitConfig, folder: RunFolder) -> dict[str, Any]:
    """The run's `run.json` with the new fit in place of the earlier one."""
    results = run.results
    used = {name: getattr(config, name) for name in _REPORTED}
    used |= {"image_confidence": options.image_confidence, "pixel_confidence": options.pixel_confidence}
    used |= {"pseudo_labels": options.pseudo_labels}
    fit_settings = {f"splat_{name}": value for name, value in used.items()} | {"splat_seed": options.seed}
    return run.summary | {
        "settings": run.summary["settings"] | fit_settings | {"out": str(folder.path), "splat": True},
        "notes": results.notes,
        "reused": results.reused,
        "missing": [name for name in run.summary["missing"] if name != STAGES["splat"]],
        "seconds": {name: round(value, 2) for name, value in results.seconds.items()},
        "total_seconds": round(results.loading + sum(results.seconds.values()), 2),
        "peak_memory_bytes": machine.peak_memory(),
        "versions": machine.versions(),
    }


def _replace_all(
    folder: RunFolder, settings: InferSettings, run: RecordedRun, splat: Splat, summary: dict[str, Any], key: str
) -> None:
    """Make everything new beside what is there, then put it in place."""
    part = RunFolder(folder.path / f"{PART}refit")
    try:
        shutil.rmtree(part.path, ignore_errors=True)
        with explained(part.path, folder.remedy):
            part.path.mkdir()
        part.save("splat", key, splat.state())
        outputs.write_splat(part, splat, settings.fps, run.results.antialiased)
        if splat.viewmats is not None:
            _write_refined(part, run, splat.viewmats, folder.path)
        present = [*folder.files(), *(name for name in ("splat.mp4", "splat.ply") if name not in folder.files())]
        summary["files"] = present
        outputs.write_report(part, settings, run.results, summary)
        part.write_json("run.json", summary)
        # Cameras last, so that a folder never speaks of some that its scene was not fitted with.
        for name in (*_MADE, *((REFINED,) if splat.viewmats is not None else ())):
            target = folder.claim(name)
            with explained(target, folder.remedy):
                os.replace(part.path / name, target)
        if splat.viewmats is None:
            folder.remove([REFINED])
    finally:
        shutil.rmtree(part.path, ignore_errors=True)


def _write_refined(part: RunFolder, run: RecordedRun, viewmats: Tensor, out: Path) -> None:
    """The cameras of frames and photographs as the fit has moved them, at the frames' size."""
    photos = run.results.inputs.photos
    names = [os.path.relpath(photo.path.resolve(), out.resolve()) for photo in photos]
    cameras = replace(run.made.with_references()[2], viewmats=viewmats)
    outputs.write_refined(part, cameras, names, all(photo.upright for photo in photos), run.results.batch.origin)


def _target(run: RecordedRun, out: Path | None, *, resume: bool, overwrite: bool) -> RunFolder:
    """The folder to fit in, locked: the run's own, or another one, which becomes a copy of it."""
    if out is None or out.resolve() == run.path.resolve():
        folder = RunFolder(run.path)
        folder.prepare(resume=True, overwrite=False)
        return folder
    if run.path.resolve() in out.resolve().parents:
        raise InputError(f"{out} lies inside the run {run.path}; name a folder beside it with --out")
    folder = RunFolder(out)
    photos = [photo.path for photo in run.results.inputs.photos]
    folder.prepare(resume=resume, overwrite=overwrite, inputs=[run.path, *photos])
    return folder


def _copy(source: Path, folder: RunFolder) -> None:
    """Copy what the run has made, without what the fit makes anew; what else lies in its folder stays there."""
    made = RunFolder(source)
    for name in made.made:
        if made.is_ours(name) and not name.endswith(("/", ".checkpoint")) and name not in (*_MADE, REFINED):
            folder.write(name, lambda part, name=name: shutil.copyfile(source / name, part))
    _repoint_photos(source, folder)


def _repoint_photos(source: Path, folder: RunFolder) -> None:
    """Paths of photographs are relative to the folder: make them right for the copy."""
    content = read_json(source / "transforms.json")
    for photo in content.get("photos", []):
        photo["file_path"] = os.path.relpath((source / photo["file_path"]).resolve(), folder.path.resolve())
    folder.write_json("transforms.json", content)


def _recorded(path: Path, stage: str, device: torch.device | str, key: str | None) -> State:
    """What a stage left, of the run that `run.json` speaks of: `key` is what it was made from, None where unknown."""
    folder = RunFolder(path)
    state = folder.recorded(stage)
    if state is None or (key is not None and folder.fingerprint_of(stage) != key):
        raise InputError(
            f"{path} has no finished stage '{STAGES[stage]}' (state/{stage}.safetensors); run cus-infer once more with "
            "the same options and --resume, without --conditioning-only"
        )
    return State({name: tensor.to(device) for name, tensor in state.tensors.items()}, state.notes)


def _digest(path: Path) -> list[str]:
    """The fingerprints of the stages that the fit starts from."""
    return [RunFolder(path).fingerprint_of(stage) or "" for stage in _NEEDED]
