"""Any number of photographs at full resolution: in memory up to a limit, the rest in a file."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cus.cameras.photos import own_resolution
from cus.files import explained

# Total number of bytes of photographs kept in memory: seven of 50 megapixels.
IN_MEMORY = 2**30


def large_pictures(
    pictures: Iterable[np.ndarray],
    scales: Tensor,
    width: int,
    height: int,
    longest_side: int,
    *,
    in_memory: int = IN_MEMORY,
    folder: Path | None = None,
) -> list[Tensor]:
    """The photographs of a batch at full resolution (`own_resolution`); each is decoded once.

    If together they exceed `in_memory`, the excess is stored in a nameless file, which the system reads on demand and
    which disappears with the last reference to it.

    Args:
        pictures: V of [h, w, 3] uint8 RGB; only one is held at a time.
        scales: [V, 2] pixels of the batch per pixel of the photograph (`PhotoSet.scales`).
        width: width of the batch in pixels.
        height: height of the batch in pixels.
        longest_side: limit in pixels; larger photographs are shrunk to it.
        in_memory: maximum number of bytes to keep in memory.
        folder: folder of the file; None: the system's temporary folder.

    Returns:
        V of [3, H, W] uint8, black in the padding.

    Raises:
        InputError: the disk is full.
    """
    kept: list[Tensor] = []
    stored: list[tuple[int, torch.Size]] = []
    held, file = 0, None
    for picture, scale in zip(pictures, scales, strict=True):
        large = own_resolution(picture, scale, width, height, longest_side)
        if held + large.numel() <= in_memory:
            held += large.numel()
        else:
            with explained(folder or tempfile.gettempdir(), "free some space, or lower the size of the photographs"):
                file = file or tempfile.TemporaryFile(dir=folder)
                # Written, not mapped: with a mapping, a full disk would end the process instead of raising an error.
                file.write(large.numpy().tobytes())
                file.flush()
            stored.append((len(kept), large.shape))
            large = large[:, :0]
        kept.append(large)
    if file is not None:
        with file:
            content = torch.from_numpy(np.memmap(file, np.uint8, mode="c"))
        sizes = [shape.numel() for _, shape in stored]
        for (index, shape), part in zip(stored, content.split(sizes), strict=True):
            kept[index] = part.view(shape)
    return kept
