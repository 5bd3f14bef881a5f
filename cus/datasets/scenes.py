"""Posed photographs on disk, in any of the layouts that data sets come in, behind one entry.

| layout | recognised by |
| --- | --- |
| nerfstudio | `transforms.json`; photographs at the scale that is there (images, images_2, images_4, images_8) |
| DL3DV (10K, Benchmark, Drone) | the same below `nerfstudio/`, `colmap/` or in the scene folder; or `gaussian_splat/` |
| COLMAP | a model in `sparse/0`, `sparse` or `colmap/sparse/0`, photographs in `images` or another scale |
| LLFF | `poses_bounds.npy` beside `images` |
| RealEstate10K, ACID | camera text files, frames named by timestamp (`cus.datasets.realestate`) |

Where a folder fits several, the first counts. A folder that fits none is searched for scenes, two levels down.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from cus.cameras import PosedPhotos, load_transforms
from cus.cameras.colmap import load_colmap
from cus.datasets.llff import FILE as LLFF_FILE
from cus.datasets.llff import load_llff
from cus.datasets.realestate import is_camera_file, load_realestate
from cus.datasets.stored_photos import on_disk, picture_files
from cus.errors import InputError

Kind = Literal["transforms", "colmap", "llff", "realestate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MODELS = ("sparse/0", "sparse", "colmap/sparse/0", "colmap/colmap/sparse/0", ".")
SUBFOLDERS = ("nerfstudio", "colmap", "gaussian_splat")
LEVELS = 2


@dataclass(frozen=True)
class SceneSource:
    """A scene that was found, not yet read.

    Attributes:
        name: its path below the folder that was searched, without the layout's own parts.
        kind: of layout.
        path: of the file or folder that `open_source` reads.
    """

    name: str
    kind: Kind
    path: Path


def find_scenes(path: Path | str) -> list[SceneSource]:
    """The scenes in a file or folder, by name. Nothing but names and a few first lines is read.

    Raises:
        InputError: no such path, or nothing in it that gives cameras.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}; give a folder of photographs with cameras, or a folder of such folders")
    found = list(_search(path, path, LEVELS))
    if not found:
        has = f"{len(picture_files(path))} photographs but no cameras" if picture_files(path) else "no scene"
        has = "photographs but no cameras" if picture_files(path / "images") else has
        raise InputError(
            f"{path} has {has}: expected transforms.json, a COLMAP model (sparse/0), poses_bounds.npy, RealEstate10K "
            "camera files (ID.txt), or folders of such scenes"
        )
    return found


def open_source(source: SceneSource) -> PosedPhotos:
    """Read a scene's cameras and look for its photographs; intrinsics are those of the files.

    Raises:
        InputError: what the layout's reader refuses, missing photographs, or fewer than two.
    """
    if source.kind == "transforms":
        posed = on_disk(load_transforms(source.path))
    elif source.kind == "colmap":
        posed = _open_colmap(source.path)
    elif source.kind == "llff":
        posed = load_llff(source.path)
    else:
        posed = load_realestate(source.path)
    if len(posed) < 2:
        raise InputError(f"{source.path} has one photograph; a scene needs at least two, with overlap")
    return posed


def open_scene(path: Path | str) -> PosedPhotos:
    """The one scene in a file or folder.

    Raises:
        InputError: as `find_scenes` and `open_source`, or several scenes.
    """
    found = find_scenes(path)
    if len(found) > 1:
        names = ", ".join(source.name for source in found[:4])
        raise InputError(f"{path} holds {len(found)} scenes ({names}, ...); name one of them")
    return open_source(found[0])


def open_scenes(path: Path | str, failures: dict[str, str] | None = None) -> dict[str, PosedPhotos]:
    """All scenes in a file or folder, by name.

    Args:
        path: a scene in any of the layouts, or a folder of scenes.
        failures: receives name -> reason of the scenes that cannot be read; None: the first one raises.

    Raises:
        InputError: no scene at all, or, without `failures`, one that cannot be read.
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
        if path.name == "transforms.json":
            yield SceneSource(path.resolve().parent.name, "transforms", path)
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
    # Beside camera files, folders hold their frames.
    if levels > 0 and not sequences:
        for child in children:
            if child.is_dir() and not child.name.startswith("."):
                yield from _search(child, root, levels - 1)


def _recognise(folder: Path) -> tuple[Kind, Path] | None:
    """Kind and place of the scene that a folder is, or None."""
    for place in (folder, *(folder / sub for sub in SUBFOLDERS)):
        if (place / "transforms.json").is_file():
            return "transforms", place
    for place in (folder, *(folder / sub for sub in SUBFOLDERS)):
        if _model_of(place) is not None:
            return "colmap", place
    if (folder / LLFF_FILE).is_file():
        return "llff", folder
    return None


def _model_of(folder: Path) -> Path | None:
    for name in MODELS:
        for suffix in (".bin", ".txt"):
            if (folder / name / f"images{suffix}").is_file() and (folder / name / f"cameras{suffix}").is_file():
                return folder / name
    return None


def _open_colmap(folder: Path) -> PosedPhotos:
    model = _model_of(folder)
    if model is None:
        raise InputError(f"no COLMAP model in {folder}; looked in {', '.join(MODELS)}")
    posed = load_colmap(model, folder / "images")
    if not any(path.is_file() for path in posed.paths):
        # Names in a model may begin with the photographs' folder, or lie beside the model.
        names = [path.relative_to(folder / "images") for path in posed.paths]
        beside = tuple(folder / name for name in names)
        if all(path.is_file() for path in beside):
            posed = replace(posed, paths=beside)
    return on_disk(posed)
