"""Files of Gaussians by their suffix: .ply, .spz, .splat."""

import warnings
from pathlib import Path

from cus.errors import InputError
from cus.splats.dot_splat import read_dot_splat, save_dot_splat
from cus.splats.gaussians import Gaussians
from cus.splats.ply import read_ply, save_ply
from cus.splats.spz import read_spz, save_spz
from cus.splats.stored_values import StoredSplats

SUFFIXES = (".ply", ".spz", ".splat")


def splat_suffix(path: str | Path) -> str:
    """The suffix in lower case. Raises InputError if it is not that of a known format."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: unknown format {suffix or 'without a suffix'}; expected {', '.join(SUFFIXES)}")
    return suffix


def read_splats(path: str | Path) -> StoredSplats:
    """Read Gaussians from a .ply (INRIA, nerfstudio or SuperSplat layout), .spz or .splat file.

    Gaussians that cannot be rendered are left out; the notes say which and how many: print them.

    Raises:
        InputError: an unknown suffix, content that does not match it, or nothing that can be rendered.
    """
    readers = {".ply": read_ply, ".spz": read_spz, ".splat": read_dot_splat}
    return readers[splat_suffix(path)](path)


def load_splats(path: str | Path) -> Gaussians:
    """The Gaussians of `read_splats`; its notes become warnings (`UserWarning`).

    Raises:
        InputError: as `read_splats`.
    """
    stored = read_splats(path)
    for note in stored.notes:
        warnings.warn(note, stacklevel=2)
    return stored.gaussians


def save_splats(path: str | Path, gaussians: Gaussians, *, antialiased: bool = False) -> None:
    """Write Gaussians in the format of the suffix, atomically.

    Args:
        path: Ends in .ply (exact to float32), .spz or .splat (compressed; their modules state what is lost).
        gaussians: At least one Gaussian.
        antialiased: Whether they were fitted for antialiased rendering; .splat cannot record this.

    Raises:
        InputError: An unknown suffix, nothing to write, or a path that is not writable.
    """
    suffix = splat_suffix(path)
    if suffix == ".ply":
        save_ply(path, gaussians, antialiased=antialiased)
    elif suffix == ".spz":
        save_spz(path, gaussians, antialiased=antialiased)
    else:
        save_dot_splat(path, gaussians)
