"""Matches cameras with the photographs on disk: their folder, their size, their masks."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cus.cameras import PosedPhotos
from cus.cameras.picture_files import PictureFinder
from cus.errors import InputError

# Data sets store shrunk copies next to the originals, under the same names; the largest available is used.
SCALES = ("images", "images_2", "images_4", "images_8")
FOLDERS = (*SCALES, "input")


def on_disk(posed: PosedPhotos, roots: Sequence[Path] = (), names: Sequence[Path] = ()) -> PosedPhotos:
    """The photographs that exist, with intrinsics in pixels of their files and with their masks.

    They are searched at the paths in `posed`; then with a folder `images` in these paths replaced by `images_2`,
    `images_4`, `images_8`; then by `names` in each of `roots`. The first of these with the most photographs is used;
    a note counts missing ones. Masks not given in `posed` are found by `masks_beside`.

    Args:
        posed: cameras with the listed paths.
        roots: additional folders to search.
        names: V paths relative to each of these.

    Raises:
        InputError: fewer than two photographs found, unreadable ones, or ones of another aspect ratio.
    """
    finder = PictureFinder()
    places = [list(posed.paths), *([_at_scale(path, scale) for path in posed.paths] for scale in SCALES)]
    places += [[root / name for name in names] for root in roots if root.is_dir()]
    best: list[Path | None] = []
    for place in places:
        found = [finder.find(path) for path in place]
        if not best or sum(path is not None for path in found) > sum(path is not None for path in best):
            best = found
        if all(best):
            break
    kept = [index for index, path in enumerate(best) if path is not None]
    lost = [path for path, found in zip(posed.paths, best, strict=True) if found is None]
    if lost and len(kept) < 2:
        raise InputError(
            f"{len(lost)} of {len(posed)} photographs that have cameras are missing, the first is {lost[0]} (looked in "
            f"the folders {', '.join(FOLDERS)}, too); two are needed: copy them there"
        )
    chosen = replace(posed.select(kept), paths=tuple(path for path in best if path is not None))
    if lost:
        note = f"{len(lost)} of {len(posed)} photographs that have cameras are missing and left out, e.g. {lost[0]}"
        chosen = replace(chosen, notes=(*chosen.notes, note))
    return with_masks(chosen.at_file_size())


def with_masks(posed: PosedPhotos) -> PosedPhotos:
    """Add the masks next to the photographs, and a note with their number.

    Raises:
        InputError: a mask given in the cameras' file does not exist.
    """
    for path, mask in zip(posed.paths, posed.masks, strict=True):
        if mask is not None and not os.path.isfile(mask):
            raise InputError(
                f"there is no mask {mask}, which {path} is said to have; copy it there or take mask_path out"
            )
    masks = tuple(own or beside for own, beside in zip(posed.masks, masks_beside(posed.paths), strict=True))
    count = sum(mask is not None for mask in masks)
    if not count:
        return posed
    return replace(posed, masks=masks, notes=(*posed.notes, mask_note(count, len(posed))))


def mask_note(count: int, photographs: int) -> str:
    """The note about masks in use."""
    return f"{count} of {photographs} photographs have masks: where they are black, a photograph counts for nothing"


def masks_beside(paths: Sequence[Path]) -> tuple[Path | None, ...]:
    """The mask of each photograph in a folder `masks` next to the photographs' folder, or None.

    `scene/images/a/b.jpg` has `scene/masks/a/b.png` (or another extension) or, as COLMAP names them,
    `scene/masks/a/b.jpg.png`.
    """
    finder = PictureFinder()
    found = []
    for path in paths:
        root = next((parent for parent in path.parents if parent.name in FOLDERS), path.parent)
        place = root.parent / "masks" / path.relative_to(root)
        colmap = place.with_name(place.name + ".png")
        exists = root.name != "masks" and os.path.isdir(root.parent / "masks")
        found.append((finder.find(colmap) or finder.find(place)) if exists else None)
    return tuple(found)


def _at_scale(path: Path, scale: str) -> Path:
    """The path with the folder `scale` instead of `images`; unchanged without such a folder."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part in SCALES]
    if places:
        parts[places[-1]] = scale
    return Path(*parts)
