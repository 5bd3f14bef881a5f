"""Writing a file so that it is whole or not there: an earlier file of that name stays until the new one is complete."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cus.errors import InputError
from cus.files import require_regular


def write_whole(path: Path | str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through `write(stream)`, beside the target, and rename it when it is complete and on the disk.

    Raises:
        InputError: The place cannot be written to, or the disk is full; what was there before is as it was.
    """
    path = Path(path)
    # Beside the target, so that the rename stays inside one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            # Some file systems say only now that they are full.
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Choose another place or free some space; "
            "a file that was there is unchanged"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename, never there in a folder that does not exist
            temporary.unlink()


def read_bytes(path: Path | str) -> bytes:
    """The content of an ordinary file. Raises InputError where it cannot be read."""
    require_regular(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
