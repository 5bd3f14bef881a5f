"""Cameras matched with the photographs that lie on disk: at which scale, of which size, and which are missing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cus.cameras import PosedPhotos
from cus.cameras.photos import inspect_photo
from cus.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
# Data sets store shrunk copies beside the originals, under the same names; the largest that is there is taken.
SCALES = ("images", "images_2", "images_4", "images_8")


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder by name, without those of its subfolders."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def on_disk(posed: PosedPhotos) -> PosedPhotos:
    """The same cameras with the files that exist and with intrinsics in pixels of those files.

    Where the named photographs are missing, a folder `images` in their paths stands for `images_2`, `images_4` and
    `images_8` too; the largest scale that has them all is taken. A file of another size than its camera's moves the
    intrinsics to its own size, as long as the shape is the same.

    Raises:
        InputError: photographs that are missing at every scale, unreadable ones, or ones of another shape.
    """
    return at_file_size(replace(posed, paths=_existing(posed.paths)))


def at_file_size(posed: PosedPhotos) -> PosedPhotos:
    """Cameras moved from the size that they were made for to that of their files; errors as `on_disk`."""
    Ks, sizes = posed.Ks.clone(), []
    for index, (path, (width, height)) in enumerate(zip(posed.paths, posed.sizes, strict=True)):
        photo = inspect_photo(path)
        # Shrunk copies are rounded to whole pixels.
        if (
            abs(photo.height - height * photo.width / width) > 1.5
            and abs(photo.width - width * photo.height / height) > 1.5
        ):
            raise InputError(
                f"{path} is {photo.width}x{photo.height} pixels, but its camera is for {width}x{height}, which is "
                "another shape; give the photographs that the cameras were made for (turned? cropped?)"
            )
        Ks[index, 0] *= photo.width / width
        Ks[index, 1] *= photo.height / height
        sizes.append((photo.width, photo.height))
    return replace(posed, Ks=Ks, sizes=tuple(sizes))


def _existing(paths: Sequence[Path]) -> tuple[Path, ...]:
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return tuple(paths)
    for scale in SCALES:
        moved = [_at_scale(path, scale) for path in paths]
        if all(found for _, found in moved):
            return tuple(path for path, _ in moved)
        lost = [path for path, found in moved if not found]
        missing = lost if len(lost) < len(missing) else missing
    raise InputError(
        f"{len(missing)} of {len(paths)} photographs that have cameras are missing, the first is {missing[0]} (of the "
        f"folders {', '.join(SCALES)} the fullest); copy the photographs there, or remove their cameras"
    )


def _at_scale(path: Path, scale: str) -> tuple[Path, bool]:
    """The file of the same name in the folder `scale` in place of `images`, with any extension; whether it exists."""
    parts = list(path.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part in SCALES]
    if not places:
        return path, path.is_file()
    parts[places[-1]] = scale
    moved = Path(*parts)
    candidates = [moved, *(moved.with_suffix(s) for suffix in SUFFIXES for s in (suffix, suffix.upper()))]
    return next(((candidate, True) for candidate in candidates if candidate.is_file()), (moved, False))
