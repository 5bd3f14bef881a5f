"""Exports a finished run for other programs: a COLMAP model or a nerfstudio folder with its pictures and points.

Both contain the photographs at full resolution, undistorted if necessary, and the generated frames, with pinhole
cameras in the run's world and unit, and the global point cloud.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image
from torch import Tensor

from cus.cameras import Cameras, PosedPhotos, load_transforms
from cus.cameras.colmap import save_colmap, visible_points
from cus.cameras.lenses import Lens, filling_K, undistort
from cus.cameras.photos import inspect_photo
from cus.cameras.pictures import read_header
from cus.cameras.transforms_json import frame_entry
from cus.errors import InputError
from cus.inference.progress import STAGES
from cus.inference.run_record import read_record
from cus.output_folder import check_replaceable, new_folder
from cus.splats.ply import load_point_cloud, save_point_cloud

FOLDER_FORMATS = ("colmap", "nerfstudio")
CAMERAS = ("all", "photos", "frames")
EXPORT = "an export"
_COPIED = (".jpg", ".jpeg", ".png")
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class View:
    """A picture to export.

    Attributes:
        name: its file name in `images/`.
        source: path of the original file.
        camera: one pinhole camera at the picture's resolution; for a distorted photograph, before undistortion.
        lens: lens that distorts the picture.
        upright: whether the camera is for the picture turned by EXIF, not as stored.
    """

    name: str
    source: Path
    camera: Cameras
    lens: Lens
    upright: bool


@dataclass(frozen=True)
class Exported:
    """Summary of an export.

    Attributes:
        path: path of the written folder.
        photos: number of photographs.
        frames: number of generated frames.
        points: number of points.
        off_centre: number of pictures whose principal point is more than a pixel from the middle; some trainers
            (INRIA's) ignore it.
    """

    path: Path
    photos: int
    frames: int
    points: int
    off_centre: int


def check_stage(folder: Path, stage: str, made: Sequence[str]) -> None:
    """Refuse a run without the files `made` by a stage. Raises InputError that says how to make them."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; name the output folder of a cus-infer run, or a .ply, .spz or .splat file"
        )
    if not any((folder / name).exists() for name in ("run.json", "transforms.json")):
        raise InputError(f"{folder} is no output folder of cus-infer: it has neither run.json nor transforms.json")
    missing = [name for name in made if not (folder / name).exists()]
    if missing:
        remedy = "run cus-infer once more with the same options and --resume, without --conditioning-only"
        if stage == "splat":
            remedy = f"cus-fit {folder} makes it, or cus-infer with the same options and --resume, without --no-splat"
        raise InputError(f"{folder} has no {missing[0]}: the stage '{STAGES[stage]}' is missing; {remedy}")


def collect_views(folder: Path, cameras: str = "all", photo_folder: Path | None = None) -> list[View]:
    """Collect the pictures of a run, photographs first, and check that they exist and match their cameras' sizes.

    Args:
        folder: folder of the run.
        cameras: "all", "photos" or "frames".
        photo_folder: folder of the photographs, if they have moved since the run.

    Raises:
        InputError: a stage or picture is missing, or a picture does not match its camera.
    """
    check_stage(folder, "conditioning", ["transforms.json"])
    views: list[View] = []
    if cameras in ("all", "photos"):
        posed = load_transforms(folder, "photos")
        posed = replace(posed, paths=_find_photos(folder, posed, photo_folder))
        stems = [path.stem for path in posed.paths]
        names = [s if stems.count(s) == 1 else f"{s}_{i}" for i, s in enumerate(stems)]
        views += [_view(posed, i, f"photo_{name}{posed.paths[i].suffix.lower()}") for i, name in enumerate(names)]
    if cameras in ("all", "frames"):
        posed = load_transforms(folder)
        check_stage(folder, "frames", [os.path.relpath(path, folder) for path in posed.paths])
        views += [_view(posed, i, f"frame_{path.name}") for i, path in enumerate(posed.paths)]
    return views


def export_run(
    folder: Path,
    out: Path,
    file_format: str,
    *,
    cameras: str = "all",
    photo_folder: Path | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write a run as a COLMAP model (`images/`, `sparse/0/`) or a nerfstudio folder (`images/`, `transforms.json`).

    The folder appears when it is complete; on failure an earlier one is unchanged.

    Args:
        folder: folder of the run.
        out: folder to write.
        file_format: "colmap" or "nerfstudio".
        cameras: "all", "photos" or "frames".
        photo_folder: folder of the photographs, if they have moved since the run.
        overwrite: whether to replace an earlier export in `out`.
        on_progress: called with (pictures done, total pictures).

    Raises:
        InputError: a stage or picture is missing, `out` must not be replaced, or the disk is full.
    """
    if file_format not in FOLDER_FORMATS or cameras not in CAMERAS:
        raise ValueError(f"expected one of {FOLDER_FORMATS} and of {CAMERAS}, got {file_format!r} and {cameras!r}")
    check_stage(folder, "scene", [])
    check_replaceable(out, EXPORT, overwrite=overwrite, inputs=[folder])
    views = collect_views(folder, cameras, photo_folder)
    check_stage(folder, "cloud", ["points.ply"])
    points, colors = load_point_cloud(folder / "points.ply")
    origin = load_transforms(folder).origin
    inputs = [folder, *(view.source for view in views)]
    with new_folder(out, EXPORT, overwrite=overwrite, inputs=inputs) as part, _encoded(out):
        (part / "images").mkdir()
        pinholes, names = [], []
        for done, view in enumerate(views, start=1):
            name, camera = write_picture(view, part / "images")
            names.append(name)
            pinholes.append(camera)
            if on_progress:
                on_progress(done, len(views))
        if file_format == "colmap":
            seen = visible_points(pinholes, points)
            save_colmap(part / "sparse" / "0", pinholes, names, points, colors, seen, origin)
        else:
            # Far from zero, single precision cannot hold the points.
            points = points.double() + origin if bool(origin.any()) else points
            save_point_cloud(part / "points.ply", points, colors)
            (part / "transforms.json").write_text(json.dumps(_nerfstudio(pinholes, names, origin), indent=1))
    photos = sum(view.name.startswith("photo_") for view in views)
    off_centre = sum(_is_off_centre(camera) for camera in pinholes)
    return Exported(out, photos, len(views) - photos, len(points), off_centre)


def write_picture(view: View, images: Path) -> tuple[str, Cameras]:
    """Write a picture to the folder `images`, undistorted and upright; returns its name there and its pinhole camera.

    A JPEG or PNG that needs no change is copied byte for byte; any other becomes a PNG with the same stem.

    Raises:
        InputError: a photograph that cannot be decoded.
    """
    upright = read_header(view.source).orientation == 1
    bent = view.lens.bends
    if upright and not bent and view.source.suffix.lower() in _COPIED:
        shutil.copyfile(view.source, images / view.name)
        return view.name, view.camera
    camera = view.camera
    pixels = inspect_photo(view.source, view.upright).pixels()
    if bent:
        K = camera.Ks[0].double().numpy()
        new_K = filling_K(K, view.lens, camera.width, camera.height)
        pixels, _ = undistort(pixels, K, view.lens, new_K)
        camera = replace(camera, Ks=torch.from_numpy(new_K).float()[None])
    name = f"{Path(view.name).stem}.png"
    Image.fromarray(pixels).save(images / name)
    return name, camera


def _view(posed: PosedPhotos, index: int, name: str) -> View:
    path, (width, height) = posed.paths[index], posed.sizes[index]
    photo = posed.photo(index)
    if (photo.width, photo.height) != (width, height):
        raise InputError(
            f"{path} is {photo.width}x{photo.height} pixels, but the run used one of {width}x{height}; give that one"
        )
    camera = Cameras(posed.viewmats[index : index + 1], posed.Ks[index : index + 1], width, height)
    return View(name, path, camera, posed.lenses[index], photo.upright)


def _find_photos(folder: Path, posed: PosedPhotos, photo_folder: Path | None) -> tuple[Path, ...]:
    """Find the photographs: in the run's folder, at the paths given to its command, or in `photo_folder`."""
    named: dict[str, Path] = {}
    if (folder / "run.json").exists():
        views = read_record(folder)["settings"]["views"]
        named = {Path(view).name: Path(view) for view in views}
    found = []
    for path in posed.paths:
        candidates = [path, named.get(path.name, path)] if photo_folder is None else [photo_folder / path.name]
        existing = [candidate for candidate in candidates if candidate.is_file()]
        if not existing:
            raise InputError(
                f"no photograph {os.path.normpath(candidates[0])}: the run or the photographs have moved; name their "
                "folder with --photos, or leave them out with --cameras frames"
            )
        found.append(existing[0])
    return tuple(found)


def _is_off_centre(camera: Cameras) -> bool:
    middle = camera.Ks.new_tensor([camera.width / 2, camera.height / 2])
    return bool(((camera.Ks[0, :2, 2] - middle).abs() > 1).any())


def _nerfstudio(cameras: Sequence[Cameras], names: Sequence[str], origin: Tensor) -> dict[str, Any]:
    frames = [
        frame_entry(camera.viewmats[0], camera.Ks[0], camera.width, camera.height, f"images/{name}", origin)
        for camera, name in zip(cameras, names, strict=True)
    ]
    return {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}


@contextmanager
def _encoded(out: Path) -> Iterator[None]:
    """Name the folder in the error if a picture cannot be encoded."""
    try:
        yield
    except cv2.error as error:
        raise InputError(f"cannot write {out}: {error}") from error
