"""Writing a file so that it is whole or not there: an earlier file of that name stays until the new one is complete."""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cus.errors import InputError
from cus.files import replacing, require_regular


def write_whole(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through `write(stream)`, beside the target, and rename it when it is complete and on the disk.

    Raises:
        InputError: The place cannot be written to, or the disk is full; what was there before is as it was.
    """
    with replacing(path) as part, part.open("wb") as stream:
        write(stream)


def read_bytes(path: Path | str) -> bytes:
    """The content of an ordinary file. Raises InputError where it cannot be read."""
    require_regular(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
