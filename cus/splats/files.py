"""Files of Gaussians by their suffix: .ply, .spz, .splat."""

from pathlib import Path

from cus.errors import InputError
from cus.splats.dot_splat import load_dot_splat, save_dot_splat
from cus.splats.gaussians import Gaussians
from cus.splats.ply import load_ply, ply_is_antialiased, save_ply
from cus.splats.spz import load_spz, read_spz_header, save_spz

SUFFIXES = (".ply", ".spz", ".splat")


def splat_suffix(path: str | Path) -> str:
    """The suffix in lower case. Raises InputError for one that stands for no format."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: unknown format {suffix or 'without a suffix'}; expected {', '.join(SUFFIXES)}")
    return suffix


def load_splats(path: str | Path) -> Gaussians:
    """Read Gaussians from a .ply (INRIA layout), .spz or .splat file.

    Raises:
        InputError: An unknown suffix, a file that is not what its suffix says, or values that cannot be rendered.
    """
    loaders = {".ply": load_ply, ".spz": load_spz, ".splat": load_dot_splat}
    return loaders[splat_suffix(path)](path)


def save_splats(path: str | Path, gaussians: Gaussians, *, antialiased: bool = False) -> None:
    """Write Gaussians as the suffix says, atomically.

    Args:
        path: Ends in .ply (exact to float32), .spz or .splat (compressed; their modules state what is lost).
        gaussians: At least one.
        antialiased: Whether they were fitted for antialiased rendering; .splat cannot say so.

    Raises:
        InputError: An unknown suffix, nothing to write, or a place that cannot be written to.
    """
    suffix = splat_suffix(path)
    if suffix == ".ply":
        save_ply(path, gaussians, antialiased=antialiased)
    elif suffix == ".spz":
        save_spz(path, gaussians, antialiased=antialiased)
    else:
        save_dot_splat(path, gaussians)


def says_antialiased(path: str | Path) -> bool:
    """Whether the file says that its Gaussians were fitted for antialiased rendering; False where it cannot say."""
    suffix = splat_suffix(path)
    if suffix == ".ply":
        return ply_is_antialiased(path)
    return suffix == ".spz" and read_spz_header(path).antialiased
