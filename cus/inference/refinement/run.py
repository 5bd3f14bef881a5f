"""Refines a Gaussian scene with its photographs, and shows it before and after."""

import os
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, trajectories
from cus.cameras.photos import large_pictures
from cus.cameras.transforms_json import ORIGIN, frame_entry, lens_entries
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.inference.fit_options import FitOptions
from cus.inference.folder import RunFolder
from cus.inference.photo_fit import photo_views
from cus.inference.photographs import LARGEST_PHOTOGRAPH, oversized
from cus.inference.progress import OnProgress, Progress, timed_stage
from cus.inference.recorded import scene_from
from cus.inference.refinement.looks import RefinementVerdict, Viewpoints, judge_refinement, look, probes_of
from cus.inference.refinement.methods import METHODS
from cus.inference.refinement.report import STAGES, WALK_FRAMES, Shown, write_pictures, write_refinement_report
from cus.inference.refinement.settings import PATH_SHARE, RefineSettings
from cus.inference.refinement.subject import Subject, check_belongs
from cus.inference.refinement.work import Work
from cus.inference.settings import fingerprint
from cus.refinement.poses import PoseOptions
from cus.refinement.pseudo_labels import LabelOptions, PseudoLabels
from cus.runtime import peak_memory, versions
from cus.splats import FitConfig, Gaussians, save_ply
from cus.splats.parameters import LearningRates
from cus.viewer.paths import view_depth
from cus.viewer.scene import ViewScene, camera_of

# A scene that is nearly right moves by smaller steps than one that begins as a cloud.
RATES = 0.5
# Longest side in pixels of the pictures along the path towards the target.
WALK_SIDE = 512
# A surface this many times as far as most Gaussians is the sky, or equivalent to it.
SKY = 50.0


@dataclass(frozen=True)
class Refined:
    """Result of a refinement.

    Attributes:
        folder: output folder.
        summary: content of `refine.json`.
        verdict: quality of the refined scene.
    """

    folder: Path
    summary: dict[str, Any]
    verdict: RefinementVerdict


def walk_of(subject: Subject, settings: RefineSettings) -> Cameras:
    """Cameras from the first photograph to `1 / factor` of its distance from the target.

    Raises:
        InputError: there is no surface, or one as far away as the sky.
    """
    scene = ViewScene(subject.splat.name, subject.stored.gaussians, subject.posed)
    start = camera_of(subject.posed, subject.training[0])
    scale = min(1.0, WALK_SIDE / max(start.width, start.height))
    start = start.resized(max(2, round(start.width * scale)), max(2, round(start.height * scale)))
    depth = view_depth(scene.gaussians, start, settings.target, near_plane=scene.near_plane())
    if depth > SKY * scene.unit():
        (u, v), name = settings.target or (0.5, 0.5), subject.posed.paths[subject.training[0]].name
        raise InputError(
            f"what lies at {u:g},{v:g} of {name} is {depth / scene.unit():.0f} times as far as the scene: the sky "
            "cannot be walked to; choose another --target"
        )
    return trajectories.dolly(start, settings.times, settings.target, WALK_FRAMES, depth=depth)


def refine(
    subject: Subject,
    settings: RefineSettings,
    folder: RunFolder,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
) -> Refined:
    """Refine a scene by the method of the settings; writes `splat.ply`, `refine.json`, `report.html` and pictures.

    Args:
        subject: scene with its photographs.
        settings: settings of the refinement.
        folder: output folder, prepared.
        progress: callback for each stage.
        device: device to compute on.
        resume: whether to continue an interrupted refinement of the same scene and settings.

    Raises:
        InputError: a scene of other photographs, a target without a surface, photographs that do not overlap,
            or a full disk.
    """
    seconds: dict[str, float] = {}
    method = METHODS[settings.method]
    with timed_stage(progress, STAGES["check"], "check", seconds):
        method.check(subject, settings)
        check_belongs(subject)
        walk = walk_of(subject, settings)
    with timed_stage(progress, STAGES["depth"], "depth", seconds) as told:
        estimate, photos = _estimate(subject, settings, device, told)
        own, notes = _own_size(subject, photos, folder.path)
    given = subject.stored.gaussians.to(device)
    config = _config(given, subject, settings, estimate)
    views = replace(photo_views(estimate, photos.valid), photographs=tuple(own))
    labels = _labels(estimate, own, views, config, walk, settings)
    with timed_stage(progress, STAGES["before"], "before", seconds):
        points = _viewpoints(subject, settings, labels, given, walk, estimate, photos)
        before = look(given, points, config.antialiased)
    made_from = [str(subject.splat.resolve()), os.stat(subject.splat).st_size, repr(config), repr(settings)]
    work = Work(
        given=given,
        settings=settings,
        views=views,
        labels=labels,
        walk=walk,
        config=config,
        folder=folder,
        made_from=fingerprint(made_from),
        resume=resume,
        estimate=estimate,
    )
    with timed_stage(progress, STAGES["fit"], "fit", seconds) as on_fit:
        found = method.run(work, on_fit)
    with timed_stage(progress, STAGES["after"], "after", seconds):
        after = look(found, points, config.antialiased)
    verdict = judge_refinement(before, after, bool(subject.held_out))
    summary = {
        "settings": asdict(settings) | {"scene": str(subject.splat)},
        "held_out_photographs": [str(subject.posed.paths[index].resolve()) for index in subject.held_out],
        "gaussians": [len(given), len(found)],
        "before": before.to_json(),
        "after": after.to_json(),
        "verdict": verdict.to_json(),
        "notes": [*subject.stored.notes, *subject.posed.notes, *estimate.notes, *notes, *work.notes],
        "versions": versions(),
    }
    progress.start(STAGES["report"], False)
    started = time.perf_counter()
    # refine.json is removed before anything is replaced and written last: while it exists, all files belong together.
    folder.remove(["refine.json"])
    folder.write("splat.ply", lambda part: save_ply(part, found, antialiased=config.antialiased))
    _write_cameras(subject, folder)
    write_pictures(folder, settings, before, after)
    summary |= {"seconds": {name: round(value, 2) for name, value in seconds.items()}}
    summary |= {"peak_memory_bytes": peak_memory()}
    shown = Shown(settings, found, walk, photos.images, before, after, verdict)
    write_refinement_report(folder, subject, shown, summary)
    progress.finish(STAGES["report"], time.perf_counter() - started)
    folder.write_json("refine.json", summary)
    for path in work.unfinished:
        folder.discard(path)
    folder.drop_earlier(states=True)
    folder.rewrite()
    return Refined(folder.path, summary, verdict)


def _estimate(
    subject: Subject, settings: RefineSettings, device: torch.device | str, on_progress: OnProgress
) -> tuple[SceneEstimate, PhotoSet]:
    """Depths of the supervising photographs: those recorded by a run, else estimated with their cameras."""
    chosen = subject.training
    recorded = None if subject.run is None else RunFolder(subject.run).recorded("scene")
    if recorded is not None and "valid" in recorded.tensors:
        scene = scene_from(recorded)
        if len(scene) == len(subject.posed):
            scales = (scene.cameras.Ks / subject.posed.Ks)[:, (0, 1), (0, 1)]
            return scene.to(device), PhotoSet(scene.images.to(device), recorded.tensors["valid"].bool(), scales)
    photos, cameras = subject.read(settings.size)
    images, valid, placed = (
        photos.images[chosen].to(device),
        photos.valid[chosen].to(device),
        cameras[chosen].to(device),
    )
    estimate = estimate_scene(images, placed, valid=valid, on_progress=on_progress)
    if estimate.left_out:
        raise InputError(f"{len(estimate.left_out)} photographs have nothing in common with the others; leave them out")
    return estimate, PhotoSet(images, valid, photos.scales[chosen])


def _own_size(subject: Subject, photos: PhotoSet, folder: Path) -> tuple[list[Tensor], list[str]]:
    """The photographs at full resolution, and a note if they are too large for that."""
    height, width = photos.images.shape[-2:]
    posed, chosen = subject.posed.at_file_size(), subject.training
    pictures = (posed.straight_picture(index).pixels for index in chosen)
    note = oversized([posed.sizes[index] for index in chosen])
    own = large_pictures(pictures, photos.scales, width, height, LARGEST_PHOTOGRAPH, folder=folder)
    return own, [] if note is None else [note]


def _config(gaussians: Gaussians, subject: Subject, settings: RefineSettings, estimate: SceneEstimate) -> FitConfig:
    options = FitOptions(
        iterations=settings.steps,
        strategy="fixed",
        size=settings.size,
        seed=settings.seed,
        antialiased=subject.stored.antialiased,
        sh_degree=gaussians.sh_degree,
    )
    config = options.config(gaussians.device, estimate.cameras.width, estimate.cameras.height)
    rates = {item.name: RATES * getattr(LearningRates(), item.name) for item in fields(LearningRates)}
    return replace(config, coarse_share=0.0, sh_warmup=0.0, rates=LearningRates(**rates))


def _labels(
    estimate: SceneEstimate, own: list[Tensor], views: Any, config: FitConfig, walk: Cameras, settings: RefineSettings
) -> PseudoLabels:
    """Pseudo-labels from poses as close as the factor requires; with a target, some of them on the way to it."""
    share = PATH_SHARE if settings.path_share is None else settings.path_share
    options = LabelOptions(PoseOptions(closer=(2.0, max(2.0, settings.times))), path_share=share)
    path = None if settings.target is None else walk[range(WALK_FRAMES // 4, WALK_FRAMES)]
    return PseudoLabels.beside(estimate, own, views, config, options, path)


def _viewpoints(
    subject: Subject,
    settings: RefineSettings,
    labels: PseudoLabels,
    gaussians: Gaussians,
    walk: Cameras,
    estimate: SceneEstimate,
    photos: PhotoSet,
) -> Viewpoints:
    """Held-out photographs are best for far views; without them, the supervising ones are used."""
    probes = probes_of(labels, gaussians)
    if not probes:
        raise InputError(
            "the photographs agree on nothing from nearer by: no virtual close-up could be made of them; use "
            "photographs that are nearer to each other, or check their cameras (cus-check-scene)"
        )
    if not subject.held_out:
        return Viewpoints(walk, probes, estimate.cameras, estimate.images, photos.valid)
    everything, cameras = subject.read(settings.size)
    chosen, device = list(subject.held_out), gaussians.device
    images, valid = everything.images[chosen].to(device), everything.valid[chosen].to(device)
    return Viewpoints(walk, probes, cameras[chosen].to(device), images, valid)


def _write_cameras(subject: Subject, folder: RunFolder) -> None:
    """`transforms.json`: the photographs with their cameras, for `cus-view` and `cus-refine`."""
    posed, entries = subject.posed, []
    for index, path in enumerate(posed.paths):
        name = os.path.relpath(path.resolve(), folder.path.resolve())
        entry = frame_entry(posed.viewmats[index], posed.Ks[index], *posed.sizes[index], name, posed.origin)
        mask = posed.masks[index]
        masked = {} if mask is None else {"mask_path": os.path.relpath(mask.resolve(), folder.path.resolve())}
        entries.append(entry | {"upright": posed.upright[index]} | lens_entries(posed.lenses[index]) | masked)
    origin = {ORIGIN: posed.origin.tolist()} if bool(posed.origin.any()) else {}
    folder.write_json("transforms.json", {"camera_model": "OPENCV", **origin, "frames": entries})
