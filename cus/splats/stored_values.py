"""What all formats of Gaussians share: reading and writing whole files, and leaving out what cannot be rendered."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from cus.errors import InputError
from cus.files import replacing, require_regular
from cus.splats.gaussians import Gaussians


@dataclass(frozen=True)
class StoredSplats:
    """The result of reading a file of Gaussians.

    Attributes:
        gaussians: Gaussians that can be rendered, at least one, in the order of the file.
        antialiased: whether the file says that they were fitted for antialiased rendering.
        notes: messages for the user, one line each: what was left out, and how much of it.
    """

    gaussians: Gaussians
    antialiased: bool = False
    notes: tuple[str, ...] = ()


def usable_gaussians(
    path: Path | str,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    sh: Tensor,
    rates: Tensor | None = None,
) -> tuple[Gaussians, tuple[str, ...]]:
    """Leave out Gaussians that cannot be drawn; opacities of 0 and 1 move inside the range.

    Args:
        path: file name for messages.
        means: centres [N, 3].
        quats: orientations [N, 4], wxyz, of any length.
        scales: linear standard deviations [N, 3].
        opacities: opacities [N] in [0, 1].
        sh: harmonics coefficients [N, K, 3].
        rates: levels of detail [N, 2] (`Gaussians.rates`), or None.

    Returns:
        The others, and a note with the number and the reasons if any were left out.

    Raises:
        InputError: no Gaussian is left.
    """
    count = len(means)
    # A Gaussian with several faults is counted for the first.
    faults = {
        "a position that is NaN or infinite": ~means.isfinite().all(dim=1),
        "a scale that is NaN, infinite, zero or below": ~(scales.isfinite() & (scales > 0)).all(dim=1),
        "a rotation that is zero, NaN or infinite": ~(quats.isfinite().all(dim=1) & (quats.square().sum(dim=1) > 0)),
        "an opacity that is NaN": opacities.isnan(),
        "a colour that is NaN or infinite": ~sh.flatten(1).isfinite().all(dim=1),
    }
    if rates is not None:
        faults["a level of detail that is NaN, infinite or below zero"] = ~(rates.isfinite() & (rates >= 0)).all(dim=1)
    kept = torch.ones(count, dtype=torch.bool)
    reasons = []
    for words, bad in faults.items():
        if hit := int((bad & kept).sum()):
            reasons.append(f"{words} ({hit:,})")
        kept &= ~bad
    if not bool(kept.any()):
        raise InputError(
            f"{path}: none of its {count:,} Gaussians can be rendered; they have {', '.join(reasons)}. "
            "Export it again, or fit the scene again"
        )
    if reasons:
        means, quats, scales, opacities, sh = (values[kept] for values in (means, quats, scales, opacities, sh))
        rates = None if rates is None else rates[kept]
    limits = torch.finfo(torch.float32)
    gaussians = Gaussians(means, quats, scales, opacities.clamp(limits.tiny, 1 - limits.eps / 2), sh, rates)
    left_out = count - len(gaussians)
    note = f"{Path(path).name}: {left_out:,} of {count:,} Gaussians left out, for {', '.join(reasons)}"
    return gaussians, (note,) if left_out else ()


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
