"""Atomic file writes: an earlier file of the same name stays until the new one is complete."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cus.errors import InputError
from cus.files import replacing, require_regular


def write_whole(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through `write(stream)` next to the target, and rename it once it is complete and on disk.

    Raises:
        InputError: The path is not writable, or the disk is full; an existing file is unchanged.
    """
    with replacing(path) as part, part.open("wb") as stream:
        write(stream)


def read_bytes(path: Path | str) -> bytes:
    """The content of a file. Raises InputError if it cannot be read."""
    require_regular(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
