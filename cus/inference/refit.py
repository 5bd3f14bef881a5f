"""Refits the Gaussian scene of a finished run from the recorded results of its stages."""

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos, load_transforms
from cus.cameras.photos import Photo, large_pictures
from cus.cameras.transforms_json import read_json
from cus.closeup import CloseUp, given
from cus.errors import InputError
from cus.files import PART, explained
from cus.inference import outputs
from cus.inference.fitting import FitOptions, Splat, fit
from cus.inference.folder import REFINED, RunFolder, State
from cus.inference.photographs import LARGEST_PHOTOGRAPH, Batch, Inputs
from cus.inference.progress import STAGES, OnProgress
from cus.inference.recorded import cloud_from, conditioning_from, scene_from
from cus.inference.run_record import read_record, recorded_settings
from cus.inference.settings import InferSettings, fingerprint
from cus.inference.stages import Results
from cus.inference.verdict import seen_in
from cus.runtime import peak_memory, versions
from cus.splats import FitConfig

_NEEDED = ("scene", "conditioning", "frames", "cloud")
# Files that a fit replaces, starting with its record: after an interruption, --resume makes them again.
_MADE = ("state/splat.safetensors", "splat.ply", "splat.mp4", "report.html", "run.json")

# Settings of a fit shown in run.json and the report, besides the confidences.
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
    """A run of `cus-infer` read from its folder.

    Attributes:
        path: folder of the run.
        settings: settings of the run.
        summary: content of `run.json`.
        results: results that the report shows, except for the Gaussian scene.
        made: frames with their inputs.
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
    """Read what a run has recorded. Raises InputError if a stage that the fit needs is missing or damaged."""
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
    # Runs of earlier versions did not record valid pixels; padding is black.
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
    """Refit the run's Gaussian scene and replace `splat.ply`, `splat.mp4`, `report.html` and `run.json`.

    All of them are written before the first is replaced.

    Args:
        run: recorded run.
        options: options of the fit.
        on_progress: called with (steps done, total steps, text with PSNR and number of Gaussians).
        out: another folder, which becomes a copy of the run with the new scene; None: the run's own.
        resume: whether to continue an interrupted fit with the same options.
        overwrite: whether to replace an earlier run in `out`.

    Returns:
        The folder with the new scene.

    Raises:
        InputError: invalid options, a folder that is not writable or holds an earlier run, or a full disk.
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
        # Notes about the replaced scene.
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
    """The run's photographs at full resolution, or None and a note if they can no longer be read."""
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
    """The run's `run.json` with the new fit instead of the earlier one."""
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
        "peak_memory_bytes": peak_memory(),
        "versions": versions(),
    }


def _replace_all(
    folder: RunFolder, settings: InferSettings, run: RecordedRun, splat: Splat, summary: dict[str, Any], key: str
) -> None:
    """Write all new files next to the old ones, then replace those."""
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
        # Cameras come last, so that the folder never contains cameras that its scene was not fitted with.
        for name in (*_MADE, *((REFINED,) if splat.viewmats is not None else ())):
            target = folder.claim(name)
            with explained(target, folder.remedy):
                os.replace(part.path / name, target)
        if splat.viewmats is None:
            folder.remove([REFINED])
    finally:
        shutil.rmtree(part.path, ignore_errors=True)


def _write_refined(part: RunFolder, run: RecordedRun, viewmats: Tensor, out: Path) -> None:
    """The cameras of frames and photographs as optimised by the fit, at the frames' size."""
    photos = run.results.inputs.photos
    names = [os.path.relpath(photo.path.resolve(), out.resolve()) for photo in photos]
    cameras = replace(run.made.with_references()[2], viewmats=viewmats)
    outputs.write_refined(part, cameras, names, all(photo.upright for photo in photos), run.results.batch.origin)


def _target(run: RecordedRun, out: Path | None, *, resume: bool, overwrite: bool) -> RunFolder:
    """The locked folder for the fit: the run's own, or another one, which becomes a copy of it."""
    if out is None or out.resolve() == run.path.resolve():
        folder = RunFolder(run.path)
        folder.prepare(resume=True, overwrite=False)
        return folder
    if run.path.resolve() in out.resolve().parents:
        raise InputError(f"{out} lies inside the run {run.path}; name a folder next to it with --out")
    folder = RunFolder(out)
    photos = [photo.path for photo in run.results.inputs.photos]
    folder.prepare(resume=resume, overwrite=overwrite, inputs=[run.path, *photos])
    return folder


def _copy(source: Path, folder: RunFolder) -> None:
    """Copy the run's own files except those that the fit replaces; other files in its folder are not copied."""
    made = RunFolder(source)
    for name in made.made:
        if made.is_ours(name) and not name.endswith(("/", ".checkpoint")) and name not in (*_MADE, REFINED):
            folder.write(name, lambda part, name=name: shutil.copyfile(source / name, part))
    _repoint_photos(source, folder)


def _repoint_photos(source: Path, folder: RunFolder) -> None:
    """Paths of photographs are relative to the folder: adapt them to the copy."""
    content = read_json(source / "transforms.json")
    for photo in content.get("photos", []):
        photo["file_path"] = os.path.relpath((source / photo["file_path"]).resolve(), folder.path.resolve())
    folder.write_json("transforms.json", content)


def _recorded(path: Path, stage: str, device: torch.device | str, key: str | None) -> State:
    """A stage's result in the run of `run.json`; `key` is the fingerprint of its inputs, None if unknown."""
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
