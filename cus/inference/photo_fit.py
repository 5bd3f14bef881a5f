"""Fits a Gaussian scene to posed photographs only, without generated frames, scored at held-out photographs."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, PhotoSet, PosedPhotos
from cus.cameras.photos import large_pictures
from cus.conditioning import FusedCloud
from cus.conditioning.fusion import fused_photos
from cus.datasets.scenes import find_scenes, open_scene
from cus.errors import InputError
from cus.estimators import SceneEstimate, estimate_scene
from cus.inference.fit_options import FitOptions
from cus.inference.folder import RunFolder
from cus.inference.outputs import save_png, to_bytes, view_names, write_refined
from cus.inference.photographs import LARGEST_PHOTOGRAPH, oversized
from cus.inference.progress import STAGES, Progress, timed_stage
from cus.inference.refinement import vsd
from cus.inference.refinement.settings import RefineSettings
from cus.inference.refinement.work import Enlargeable
from cus.inference.settings import fingerprint
from cus.refinement.pseudo_labels import PseudoLabels
from cus.runtime import peak_memory, versions
from cus.splats import FitConfig, FitRecord, FitResult, Views, fit_views, render, save_ply, ssim

DEFAULT_SIZE = 512


@dataclass(frozen=True)
class PhotoScene:
    """Checked posed photographs to fit.

    Attributes:
        posed: all photographs with cameras.
        held_out: indices of held-out photographs, used only for scoring.
        size: longest side of the images in pixels.
        source: file or folder of the scene, and the folder of the pictures if given.
    """

    posed: PosedPhotos
    held_out: tuple[int, ...]
    size: int
    source: tuple[Path, Path | None]

    @property
    def training(self) -> list[int]:
        """Indices of the photographs that are fitted."""
        return [i for i in range(len(self.posed)) if i not in self.held_out]


@dataclass(frozen=True)
class Score:
    """The match between a render and a photograph.

    Attributes:
        name: name of the photograph.
        psnr: PSNR in dB over its valid pixels.
        ssim: SSIM, at most 1, with invalid pixels treated as equal.
    """

    name: str
    psnr: float
    ssim: float


def is_posed(path: Path) -> bool:
    """Whether a folder or file holds posed photographs, in a layout of `cus.datasets.scenes`."""
    try:
        return bool(find_scenes(path))
    except InputError:
        return False


def read_posed(
    path: Path, images: Path | None = None, hold_out: tuple[str, ...] = (), size: int = DEFAULT_SIZE
) -> PhotoScene:
    """Find the photographs of a folder and their cameras, and check each file's header.

    Args:
        path: folder of a scene in one of the layouts of `cus.datasets.scenes`.
        images: folder of the photographs; None: as in the layout.
        hold_out: names or trailing path parts of photographs, with or without extensions.
        size: longest side of the images in pixels.

    Raises:
        InputError: no cameras, unknown names, too few photographs, or files of another aspect ratio than their
            cameras'.
    """
    posed = open_scene(path, images)
    indices = tuple(posed.find(name) for name in hold_out)
    if len(set(indices)) != len(indices):
        raise InputError("a photograph is named twice with --hold-out")
    scene = PhotoScene(posed, indices, size, (path, images))
    if len(scene.training) < 2:
        raise InputError(
            f"depth needs at least two photographs, got {len(scene.training)} after holding out {len(indices)}"
        )
    return scene


def fit_photos(
    scene: PhotoScene,
    options: FitOptions,
    folder: RunFolder,
    progress: Progress,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
) -> dict[str, Any]:
    """Estimate depth, fuse a cloud, fit and score; writes `splat.ply`, `fit.json` and `renders/`.

    Args:
        scene: photographs to fit.
        options: options of the fit.
        folder: output folder, prepared.
        progress: callback for each stage.
        device: device to compute on.
        resume: whether to continue an interrupted fit of the same photographs and options.

    Returns:
        Content of `fit.json`.

    Raises:
        InputError: photographs that have nothing in common, or a full disk.
    """
    seconds: dict[str, float] = {}
    if options.super_resolve:
        vsd.check_enlargement(max(map(max, scene.posed.sizes)), options.super_resolve, scene.size)
    config, photos, cameras = _prepared(scene, options, device)
    images, valid = photos.images, photos.valid
    train, held_out = scene.training, list(scene.held_out)
    with timed_stage(progress, STAGES["scene"], "scene", seconds) as on_depth:
        estimate = estimate_scene(images[train], cameras[train], valid=valid[train], on_progress=on_depth)
    with timed_stage(progress, STAGES["cloud"], "cloud", seconds) as on_cloud:
        cloud = fused_photos(estimate, on_cloud)
    made_from = [[str(scene.posed.paths[i]) for i in train], repr(config), options.seed, scene.size]
    made_from += ["pseudo-labels"] if options.pseudo_labels else []
    made_from += [f"enlarged {options.super_resolve} times"] if options.super_resolve else []
    checkpoint = folder.checkpoint("photos", fingerprint(made_from), keep=resume)
    anew: list[str] = []
    with timed_stage(progress, STAGES["splat"], "splat", seconds) as on_fit:
        record = FitRecord(
            on_status=lambda now: on_fit(now.iteration, now.iterations, str(now)),
            checkpoint=checkpoint,
            on_unusable=lambda reason: anew.append(f"Gaussian scene: {reason}, so the fit started from scratch"),
        )
        own = _own_photographs(scene, photos, folder.path) if config.crops else None
        views = replace(photo_views(estimate, valid[train]), photographs=own or ())
        labels = PseudoLabels.beside(estimate, own, views, config) if options.pseudo_labels else None
        found = fit_views(views, cloud, config, options.seed, record, labels)
    work = None
    if options.super_resolve:
        work = Enlargeable(
            given=found.gaussians,
            settings=RefineSettings("vsd", factor=options.super_resolve, size=scene.size, seed=options.seed),
            views=replace(views, cameras=found.cameras),
            config=config,
            folder=folder,
            made_from=fingerprint(made_from),
            resume=resume,
            estimate=replace(estimate, cameras=found.cameras),
        )
        with timed_stage(progress, STAGES["enlarged"], "enlarged", seconds) as on_round:
            found = replace(found, gaussians=vsd.rounds(work, on_round))
    everything = Cameras.cat([found.cameras, cameras[held_out]]) if held_out else found.cameras
    renders = render(found.gaussians, everything, antialiased=config.antialiased)
    names = view_names(scene.posed.paths)
    scores = [
        scored(names[i], picture, images[i], valid[i]) for i, picture in zip([*train, *held_out], renders, strict=True)
    ]
    summary = _summary(scene, config, options, found, cloud, scores, seconds) | {
        **_origin(scene, folder.path),
        "notes": [*scene.posed.notes, *photos.notes, *estimate.notes, *anew, *_shrunk(scene, config)]
        + ([] if labels is None else [f"Gaussian scene: {labels.note}"])
        + ([] if work is None else work.notes),
    }
    # fit.json is removed before anything is replaced and written last: while it exists, all files belong to one fit.
    folder.remove(["fit.json"])
    folder.write("splat.ply", lambda part: save_ply(part, found.gaussians, antialiased=config.antialiased))
    _write_renders(folder, [names[i] for i in held_out], renders[len(train) :], images[held_out])
    if config.refine_cameras:
        paths = [os.path.relpath(scene.posed.paths[i].resolve(), folder.path.resolve()) for i in train]
        write_refined(folder, found.cameras, paths, all(scene.posed.upright), scene.posed.origin)
    folder.write_json("fit.json", summary)
    for path in [checkpoint, *([] if work is None else work.unfinished)]:
        folder.discard(path)
    folder.drop_earlier(states=True)
    folder.rewrite()
    return summary


def scored(name: str, picture: Tensor, truth: Tensor, valid: Tensor) -> Score:
    """Score a render [3, H, W] against a photograph where `valid` [H, W] bool: PSNR and SSIM."""
    mask = valid.to(picture)
    error = float(((picture - truth).square().mean(dim=0) * mask).sum() / mask.sum().clamp_min(1))
    same = torch.where(valid, picture, truth)
    return Score(name, -10 * float(np.log10(max(error, 1e-12))), float(ssim(same, truth)))


def _prepared(
    scene: PhotoScene, options: FitOptions, device: torch.device | str
) -> tuple[FitConfig, PhotoSet, Cameras]:
    """The fit's settings, and all photographs at the working size with their cameras."""
    widths, heights = zip(*scene.posed.sizes, strict=True)
    scale = min(1.0, scene.size / max(*widths, *heights))
    photos, cameras = scene.posed.read(round(max(widths) * scale), round(max(heights) * scale))
    # Relocation helps with photographs from all around, which the cloud samples unevenly.
    strategy = options.strategy or "mcmc"
    options = replace(options, size=max(cameras.width, cameras.height), strategy=strategy)
    config = options.config(torch.device(device), cameras.width, cameras.height)
    photos = replace(photos, images=photos.images.to(device), valid=photos.valid.to(device))
    return config, photos, cameras.to(device)


def _own_photographs(scene: PhotoScene, photos: PhotoSet, folder: Path) -> tuple[Tensor, ...]:
    """The photographs to fit at full resolution; those that exceed the memory are stored in `folder`."""
    height, width = photos.images.shape[-2:]
    own, train = scene.posed.at_file_size(), scene.training
    pictures = (own.straight_picture(index).pixels for index in train)
    return tuple(large_pictures(pictures, photos.scales[train], width, height, LARGEST_PHOTOGRAPH, folder=folder))


def _shrunk(scene: PhotoScene, config: FitConfig) -> list[str]:
    """A note if photographs are too large to be fitted at full resolution."""
    own = scene.posed.at_file_size()
    note = oversized([own.sizes[index] for index in scene.training]) if config.crops else None
    return [] if note is None else [note]


def photo_views(estimate: SceneEstimate, valid: Tensor) -> Views:
    """Photographs count wherever they have valid pixels; the first one's exposure and camera are the gauge."""
    weights = valid.to(estimate.images)
    references = torch.arange(len(estimate), device=weights.device) == 0
    return Views(
        estimate.images, estimate.cameras, weights, weights.new_ones(len(estimate)), estimate.depths, references
    )


def _summary(
    scene: PhotoScene,
    config: FitConfig,
    options: FitOptions,
    found: FitResult,
    cloud: FusedCloud,
    scores: list[Score],
    seconds: dict[str, float],
) -> dict[str, Any]:
    count = len(scene.training)
    return {
        "settings": asdict(config)
        | {
            "seed": options.seed,
            "size": scene.size,
            "pseudo_labels": options.pseudo_labels,
            "super_resolve": options.super_resolve,
        },
        "photographs": [str(path) for path in scene.posed.paths],
        "gaussians": len(found.gaussians),
        "points": len(cloud.points),
        "training": [asdict(score) for score in scores[:count]],
        "held_out": [asdict(score) for score in scores[count:]],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_memory_bytes": peak_memory(),
        "versions": versions(),
    }


def _origin(scene: PhotoScene, folder: Path) -> dict[str, Any]:
    """The photographs' location relative to the folder, for `cus-refine`."""
    source, images = (path and os.path.relpath(path.resolve(), folder.resolve()) for path in scene.source)
    held_out = [str(scene.posed.paths[index]) for index in scene.held_out]
    return {"scene": source, "images": images, "held_out_photographs": held_out}


def _write_renders(folder: RunFolder, names: list[str], renders: Tensor, truths: Tensor) -> None:
    """`renders/<name>.png`: render on the left, photograph on the right."""
    folder.clear("renders")
    for name, picture, truth in zip(names, renders, truths, strict=True):
        save_png(folder, f"renders/{name}.png", np.concatenate([to_bytes(picture), to_bytes(truth)], axis=1))
