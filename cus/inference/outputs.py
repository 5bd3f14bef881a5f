"""The output files of a run for people and other programs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from cus.cameras import Cameras, save_transforms
from cus.cameras.transforms_json import frame_entry, lens_entries
from cus.conditioning import FusedCloud
from cus.inference.fitting import Splat
from cus.inference.folder import REFINED, RunFolder
from cus.inference.photographs import Batch, Inputs
from cus.inference.settings import InferSettings
from cus.inference.stages import STAGES, Results
from cus.report.html import Pane, ReportData, colorize_confidence, colorize_depth, write_report_html
from cus.report.video import write_video
from cus.report.viewer import Splats, ViewerData, Views
from cus.scene import SceneEstimate
from cus.splats import save_ply, save_point_cloud


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of a run's `state/`, and of all its other files."""
    state = rest = 0
    for file in folder.rglob("*"):
        if file.is_file() and file.relative_to(folder).parts[0] == "state":
            state += file.stat().st_size
        elif file.is_file():
            rest += file.stat().st_size
    return state, rest


def to_bytes(images: Tensor) -> np.ndarray:
    """[..., 3, H, W] in [0, 1] -> [..., H, W, 3] uint8."""
    return (images.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).numpy()


def save_png(folder: RunFolder, path: str, pixels: np.ndarray) -> None:
    """Write [H, W, 3] uint8 RGB."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert ok, "PNG encoding of a uint8 picture cannot fail"
    folder.write(path, lambda part: part.write_bytes(encoded.tobytes()))


def view_names(views: tuple[Path, ...]) -> list[str]:
    """A name per view for files about it: the stem, numbered if several photographs share it."""
    stems = [view.stem for view in views]
    return [stem if stems.count(stem) == 1 else f"{stem}_{index}" for index, stem in enumerate(stems)]


def placed_names(settings: InferSettings, results: Results) -> list[str]:
    """`view_names` of the views that the run uses: all, or those that could be placed."""
    names = view_names(settings.views)
    return names if results.scene is None else [names[view] for view in results.scene.used]


def write_depths(folder: RunFolder, names: Sequence[str], scene: SceneEstimate) -> None:
    """`depth/`: each input view's depth (scene units, 0 = none) and confidence, as arrays and in colour."""
    folder.clear("depth")
    for index, name in enumerate(names):
        depth, confidence = scene.depths[index].cpu().numpy(), scene.confidences[index].cpu().numpy()
        folder.write(f"depth/{name}_depth.npy", lambda part, array=depth: np.save(part, array))
        folder.write(f"depth/{name}_confidence.npy", lambda part, array=confidence: np.save(part, array))
        save_png(folder, f"depth/{name}_depth.png", colorize_depth(depth))
        save_png(folder, f"depth/{name}_confidence.png", colorize_confidence(confidence))


def _photo_entries(folder: RunFolder, inputs: Inputs, batch: Batch, cameras: Cameras) -> list[dict[str, Any]]:
    """Cameras of the inputs in pixels of their own files."""
    entries = []
    for index, photo in enumerate(inputs.photos):
        K = cameras.Ks[index].cpu().clone()
        K[:2] /= batch.set.scales[index][:, None]
        path = os.path.relpath(photo.path.resolve(), folder.path.resolve())
        entry = frame_entry(cameras.viewmats[index].cpu(), K, photo.width, photo.height, path, batch.origin)
        entry["upright"] = photo.upright
        if inputs.posed is not None:
            entry |= lens_entries(inputs.posed.lenses[index])
        mask = inputs.masks[index] if inputs.masks else None
        if mask is not None:
            entry["mask_path"] = os.path.relpath(mask.resolve(), folder.path.resolve())
        entries.append(entry)
    return entries


def write_cameras(folder: RunFolder, inputs: Inputs, batch: Batch, placed: Cameras, targets: Cameras) -> None:
    """`transforms.json`: `frames` are the targets, `photos` the inputs at full resolution.

    `frames_at_photo_size` repeats the targets with intrinsics for pictures of the first photograph's size.

    Args:
        folder: folder of the run.
        inputs: V photographs.
        batch: decoded photographs.
        placed: V cameras of the batch.
        targets: T cameras of the frames.
    """
    names = [f"frames/{index:04d}.png" for index in range(len(targets))]
    photo, origin = inputs.photos[0], batch.origin
    large = targets.resized(photo.width, photo.height)
    extra = {
        "photos": _photo_entries(folder, inputs, batch, placed),
        "frames_at_photo_size": [
            frame_entry(viewmat, K, large.width, large.height, name, origin)
            for viewmat, K, name in zip(large.viewmats.cpu(), large.Ks.cpu(), names, strict=True)
        ],
    }
    folder.write("transforms.json", lambda part: save_transforms(part, targets, names, extra, origin))


def write_sequence(folder: RunFolder, name: str, video: str, images: Tensor, fps: int) -> None:
    """A folder of PNGs [T, 3, H, W] and a video of them."""
    pictures = to_bytes(images)
    folder.clear(name)
    for index, picture in enumerate(pictures):
        save_png(folder, f"{name}/{index:04d}.png", picture)
    folder.write(video, lambda part: write_video(part, pictures, fps))


def write_cloud(folder: RunFolder, cloud: FusedCloud) -> None:
    """`points.ply`: the global point cloud."""
    folder.write("points.ply", lambda part: save_point_cloud(part, cloud.points, cloud.colors))


def write_splat(folder: RunFolder, splat: Splat, fps: int, antialiased: bool = True) -> None:
    """`splat.ply` in the usual 3DGS layout, and `splat.mp4`, its renders along the path."""
    folder.write("splat.ply", lambda part: save_ply(part, splat.gaussians, antialiased=antialiased))
    folder.write("splat.mp4", lambda part: write_video(part, to_bytes(splat.renders), fps))


def write_refined(
    folder: RunFolder, cameras: Cameras, photos: list[str], upright: bool, origin: Tensor | None = None
) -> None:
    """`refined_cameras.json`: the cameras optimised by a fit, frames first, then the photographs.

    `upright` says whether these are for the photographs turned by EXIF.
    """
    frames = [f"frames/{index:04d}.png" for index in range(len(cameras) - len(photos))]
    folder.write(REFINED, lambda part: save_transforms(part, cameras, [*frames, *photos], {"upright": upright}, origin))


def viewer_cameras(cameras: Cameras, names: list[str], sizes: list[tuple[int, int]]) -> Views:
    """Cameras that the report's viewer offers, with the pictures' sizes in pixels."""
    return Views(names, cameras.viewmats.cpu().numpy(), cameras.Ks.cpu().numpy(), sizes)


def _viewer(settings: InferSettings, results: Results) -> ViewerData | None:
    """Data of the report's viewer, or None without a Gaussian scene (or with an empty one)."""
    scene, path, splat = results.scene, results.cameras, results.splat
    if scene is None or path is None or splat is None or len(splat.gaussians) == 0:
        return None
    gaussians = splat.gaussians
    arrays = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh)
    # A photograph smaller than the batch has padding, which is not part of its view.
    inside = [
        (round(photo.width * float(scale[0])), round(photo.height * float(scale[1])))
        for photo, scale in zip(results.inputs.photos, results.batch.set.scales, strict=True)
    ]
    return ViewerData(
        splats=Splats(*(array.cpu().numpy() for array in arrays)),
        path=viewer_cameras(
            path, [f"frame {index}" for index in range(len(path))], [(path.width, path.height)] * len(path)
        ),
        photos=viewer_cameras(scene.cameras, placed_names(settings, results), inside),
        poster=to_bytes(splat.renders[-1]),
        frames_per_second=settings.fps,
        antialiased=results.antialiased,
    )


def _timings(results: Results) -> dict[str, float]:
    loading = {"Loading": results.loading} if results.loading else {}
    return loading | {STAGES[name]: seconds for name, seconds in results.seconds.items()}


def _opening(results: Results) -> list[Pane]:
    """The plain crop of the best photograph next to the close-up; empty if no frame has been examined."""
    verdict, crop, warped = results.verdict, results.plain_crop, results.conditioning
    if verdict is None or warped is None:
        return []
    frame, panes = verdict.measures.frame, []
    if crop is not None:
        name = results.inputs.photos[verdict.measures.view].path.name
        panes.append(Pane(f"Plain crop of {name}", "the photograph's own pixels, cropped and resampled, no more", crop))
    generated = results.frames is not None
    picture = to_bytes((warped.images if results.frames is None else results.frames)[frame])
    told = f"frame {frame + 1} of {len(warped)}, which shows most magnification"
    return [*panes, Pane("Generated close-up" if generated else "Conditioning image, not yet generated", told, picture)]


def _shown_verdict(settings: InferSettings, results: Results) -> dict[str, Any] | None:
    verdict = results.verdict
    return verdict and verdict.to_json() | {"advice": verdict.advice, "forced": settings.force}


def write_report(folder: RunFolder, settings: InferSettings, results: Results, summary: dict[str, Any]) -> None:
    """`report.html`, from the results so far."""
    scene, warped = results.scene, results.conditioning
    sequences = {
        "Conditioning": None if warped is None else warped.images,
        "Generated frames": results.frames,
        "Gaussian scene": results.splat and results.splat.renders,
    }
    data = ReportData(
        title=f"CloseUpShot: {', '.join(view.name for view in settings.views)}",
        settings=summary["settings"],
        notes=summary["notes"],
        opening=_opening(results),
        verdict=_shown_verdict(settings, results),
        missing=summary["missing"],
        running=summary["status"] == "running",
        inputs=list(zip(placed_names(settings, results), to_bytes(results.batch.set.images), strict=True)),
        depths=None if scene is None else scene.depths.cpu().numpy(),
        confidences=None if scene is None else scene.confidences.cpu().numpy(),
        sequences={label: to_bytes(images) for label, images in sequences.items() if images is not None},
        coverage=None if warped is None else warped.coverage.cpu().numpy(),
        timings=_timings(results),
        seconds=summary["total_seconds"],
        reused=[STAGES[name] for name in results.reused],
        peak_memory_bytes=summary["peak_memory_bytes"],
        versions=summary["versions"],
        files=list(dict.fromkeys([*summary["files"], "report.html", "run.json"])),
        fps=settings.fps,
        viewer=_viewer(settings, results),
    )
    folder.write("report.html", lambda part: write_report_html(part, data))
