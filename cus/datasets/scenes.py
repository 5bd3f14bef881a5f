"""Reads posed photographs in all layouts of common data sets; the single entry point of all commands.

| layout | recognised by |
| --- | --- |
| nerfstudio, instant-ngp | `transforms.json`; photographs in images, images_2, images_4 or images_8 |
| Blender (NeRF synthetic) | `transforms_train.json`, `transforms_test.json`, `transforms_val.json` |
| DL3DV (10K, Benchmark, Drone) | the same below `nerfstudio/`, `colmap/` or in the folder; or `gaussian_splat/` |
| COLMAP | a model in `sparse/0`, `sparse`, also below `colmap`, `dense`, `undistorted`; `images` .., `input` |
| LLFF | `poses_bounds.npy` beside `images` |
| RealEstate10K, ACID | camera text files, frames named by timestamp (`cus.datasets.realestate`) |
| KITTI | a drive with `image_02/data` and `oxts`, or a sequence with `image_2` and `calib.txt` (`cus.datasets.kitti`) |

If a folder matches several layouts, the first counts. A folder that matches none is searched for scenes, two levels
deep. Among several COLMAP models, the one with the most photographs is read; Blender scenes use the training files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

from cus.cameras import PosedPhotos, load_transforms
from cus.cameras.colmap import load_colmap
from cus.cameras.colmap_files import image_count, model_files
from cus.cameras.picture_files import picture_files
from cus.datasets.kitti import is_kitti, load_kitti
from cus.datasets.llff import FILE as LLFF_FILE
from cus.datasets.llff import load_llff
from cus.datasets.realestate import is_camera_file, load_realestate
from cus.datasets.stored_photos import FOLDERS, on_disk
from cus.errors import InputError

Kind = Literal["transforms", "colmap", "llff", "realestate", "kitti"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Possible folders of a COLMAP project in a scene's folder; models are in `sparse`, in its subfolders, or at the top.
PROJECTS = (".", "colmap", "colmap/colmap", "dense", "dense/0", "undistorted")
SPLITS = ("transforms_train.json", "transforms_test.json", "transforms_val.json")
SUBFOLDERS = ("nerfstudio", "colmap", "gaussian_splat")
LEVELS = 2
REMEDY = "; data/pose_scene.py gives photographs cameras"


@dataclass(frozen=True)
class SceneSource:
    """A scene that was found but not yet read.

    Attributes:
        name: its path below the searched folder, without the layout's own parts.
        kind: kind of layout.
        path: file or folder that `open_source` reads.
    """

    name: str
    kind: Kind
    path: Path


def find_scenes(path: Path | str) -> list[SceneSource]:
    """Find the scenes in a file or folder, sorted by name; reads only names and a few first lines.

    Raises:
        InputError: no such path, or nothing in it with cameras.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}; give a folder of photographs with cameras, or a folder of such folders")
    found = list(_search(path, path, LEVELS))
    if not found:
        has = "photographs but no cameras" if picture_files(path) else "no scene"
        has = "photographs but no cameras" if picture_files(path / "images") else has
        raise InputError(
            f"{path} has {has}: expected transforms.json, a COLMAP model (sparse/0), poses_bounds.npy, RealEstate10K "
            "camera files (ID.txt), or folders of such scenes" + (REMEDY if "photographs" in has else "")
        )
    return found


def open_source(source: SceneSource, images: Path | None = None) -> PosedPhotos:
    """Read a scene's cameras and find its photographs; intrinsics are scaled to the files.

    Args:
        source: scene to read.
        images: folder of the photographs; None: as in the layout.

    Raises:
        InputError: the layout's reader fails, or fewer than two photographs are on disk.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"there is no folder of photographs {images}")
    if source.kind == "transforms":
        posed = _open_transforms(source.path, images)
    elif source.kind == "colmap":
        posed = _open_colmap(source.path, images)
    elif source.kind == "llff":
        posed = on_disk(load_llff(source.path, images))
    elif source.kind == "kitti":
        posed = load_kitti(source.path, images)
    else:
        posed = on_disk(load_realestate(source.path, images))
    if len(posed) < 2:
        raise InputError(f"{source.path} has one photograph; a scene needs at least two, with overlap")
    return posed


def open_cameras(path: Path | str) -> PosedPhotos:
    """Read the cameras of the only scene in a file or folder, to be matched with photographs anywhere.

    Raises:
        InputError: as `find_scenes` and the layouts' readers, or there are several scenes.
    """
    source = _only(find_scenes(path), Path(path))
    if source.kind == "transforms":
        return _joined([load_transforms(file) for file in _transforms_files(source.path)])
    if source.kind == "colmap":
        model, project, notes = _best_model(source.path)
        posed = load_colmap(model, project / "images")
        return replace(posed, notes=(*posed.notes, *notes))
    return open_source(source)


def missing_photographs(source: SceneSource) -> list[str]:
    """Names of a scene's photographs that have cameras but are not on disk.

    Raises:
        InputError: the layout's reader fails.
    """
    if source.kind == "transforms":
        listed = load_transforms(_transforms_files(source.path)[0])
    elif source.kind == "colmap":
        model, project, _ = _best_model(source.path)
        listed = load_colmap(model, project / "images")
    else:
        return []
    # Shrunk copies may have another file type.
    there = {path.stem for path in open_source(source).paths}
    return [path.name for path in listed.paths if path.stem not in there]


def _only(found: list[SceneSource], path: Path) -> SceneSource:
    if len(found) > 1:
        names = ", ".join(source.name for source in found[:4])
        raise InputError(f"{path} holds {len(found)} scenes ({names}, ...); name one of them")
    return found[0]


def open_scene(path: Path | str, images: Path | None = None) -> PosedPhotos:
    """Read the only scene in a file or folder; `images` as for `open_source`.

    Raises:
        InputError: as `find_scenes` and `open_source`, or there are several scenes.
    """
    return open_source(_only(find_scenes(path), Path(path)), images)


def open_scenes(path: Path | str, failures: dict[str, str] | None = None) -> dict[str, PosedPhotos]:
    """All scenes in a file or folder, by name.

    Args:
        path: folder of a scene in any layout, or of several scenes.
        failures: receives name -> reason for scenes that cannot be read; None: the first failure raises.

    Raises:
        InputError: no scene at all or, without `failures`, one that cannot be read.
    """
    opened = {}
    for source in find_scenes(path):
        try:
            opened[source.name] = open_source(source)
        except InputError as error:
            if failures is None:
                raise
            failures[source.name] = str(error)
    return opened


def _search(path: Path, root: Path, levels: int) -> Iterator[SceneSource]:
    name = path.relative_to(root).as_posix() if path != root else path.resolve().name
    if path.is_file():
        if path.suffix.lower() == ".json":
            yield SceneSource(path.resolve().parent.name, "transforms", path)
        elif path.name == LLFF_FILE:
            yield SceneSource(path.resolve().parent.name, "llff", path.parent)
        elif is_camera_file(path):
            yield SceneSource(name.removesuffix(".txt"), "realestate", path)
        return
    source = _recognise(path)
    if source is not None:
        yield SceneSource(name, *source)
        return
    children = sorted(path.iterdir())
    sequences = [child for child in children if is_camera_file(child)]
    for child in sequences:
        yield from _search(child, root, 0)
    # Folders next to camera files contain their frames.
    if levels > 0 and not sequences:
        for child in children:
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, root, levels - 1)


def _recognise(folder: Path) -> tuple[Kind, Path] | None:
    """Kind and path of the scene that a folder contains, or None."""
    for place in (folder, *(folder / sub for sub in SUBFOLDERS)):
        if _transforms_files(place):
            return "transforms", place
    for place in (folder, *(folder / sub for sub in SUBFOLDERS)):
        if any(_models(place / project) for project in PROJECTS):
            return "colmap", place
    if (folder / LLFF_FILE).is_file():
        return "llff", folder
    if is_kitti(folder):
        return "kitti", folder
    return None


def _transforms_files(path: Path) -> list[Path]:
    """The files of a scene: the file itself, a folder's transforms.json, or Blender's, training first."""
    if path.is_file():
        return [path]
    if (path / "transforms.json").is_file():
        return [path / "transforms.json"]
    return [path / name for name in SPLITS if (path / name).is_file()]


def _open_transforms(path: Path, images: Path | None) -> PosedPhotos:
    files = _transforms_files(path)
    if not files:
        raise InputError(f"there is no transforms.json in {path}")
    posed = load_transforms(files[0])
    if len(files) > 1:
        others = " and ".join(file.name for file in files[1:])
        note = f"{files[0].name} is read, {others} next to it is not; name another one to use it"
        posed = replace(posed, notes=(*posed.notes, note))
    if images is None:
        return on_disk(posed)
    names = [_name_in_folder(photo) for photo in posed.paths]
    return on_disk(replace(posed, paths=tuple(images / name for name in names)))


def _name_in_folder(path: Path) -> Path:
    """A photograph's path relative to the folder of photographs in it, else its file name."""
    root = next((parent for parent in path.parents if parent.name in FOLDERS), path.parent)
    return path.relative_to(root)


def _joined(parts: Sequence[PosedPhotos]) -> PosedPhotos:
    """The photographs of several files of one world, relative to the first one's origin."""
    first = parts[0]
    if len(parts) == 1:
        return first
    parts = [part.moved(first.origin) for part in parts]
    return PosedPhotos(
        tuple(path for part in parts for path in part.paths),
        torch.cat([part.viewmats for part in parts]),
        torch.cat([part.Ks for part in parts]),
        tuple(size for part in parts for size in part.sizes),
        tuple(lens for part in parts for lens in part.lenses),
        masks=tuple(mask for part in parts for mask in part.masks),
        origin=first.origin,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _models(project: Path) -> list[Path]:
    """The COLMAP models in a project's folder, the one with the most photographs first."""
    sparse = project / "sparse"
    folders = sorted(sparse.iterdir()) if sparse.is_dir() else []
    found = [folder for folder in (*folders, sparse, project) if model_files(folder) is not None]
    return sorted(found, key=image_count, reverse=True)


def _best_model(folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """The model to read in a scene's folder, its project, and a note if there are several.

    Of several projects (original and undistorted) the first with its photographs on disk is used.
    """
    projects = [(folder / name, _models(folder / name)) for name in PROJECTS]
    projects = [(project, models) for project, models in projects if models]
    if not projects:
        raise InputError(f"no COLMAP model in {folder}; looked in {', '.join(PROJECTS)} and in sparse there")
    with_photos = [
        (project, models)
        for project, models in projects
        if any(_has_pictures(root) for root in _roots(project, folder)[: len(FOLDERS)])
    ]
    project, models = (with_photos or projects)[0]
    if len(models) == 1:
        return models[0], project, ()
    counts = ", ".join(f"{model.relative_to(project).as_posix()}: {image_count(model)}" for model in models)
    note = f"{project} holds {len(models)} COLMAP models; the largest is read (photographs: {counts})"
    return models[0], project, (note,)


def _has_pictures(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _roots(project: Path, folder: Path) -> list[Path]:
    """Possible folders of the photographs of a project in a scene's folder, the most likely first."""
    scene = folder.resolve()
    above = [scene.parent.parent] if scene.parent.name == "sparse" else [scene.parent] if scene.name == "sparse" else []
    places = list(dict.fromkeys([project, folder, *above]))
    return [place / name for place in places for name in FOLDERS] + places


def _open_colmap(folder: Path, images: Path | None) -> PosedPhotos:
    model, project, notes = _best_model(folder)
    posed = load_colmap(model, images or project / "images")
    posed = replace(posed, notes=(*posed.notes, *notes))
    if images is not None:
        return on_disk(posed)
    names = [path.relative_to(project / "images") for path in posed.paths]
    return on_disk(posed, _roots(project, folder), names)
