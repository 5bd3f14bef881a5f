"""Pipeline calls: their settings, input checks, chunks, padding, precision and progress."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cus.diffusion.layers import Layers


@dataclass(frozen=True)
class Request:
    """One call, after defaults: the sampling settings, and the source of all noise."""

    steps: int
    guidance: float
    guidance_rescale: float
    eta: float
    generator: torch.Generator


@dataclass(frozen=True)
class ChunkEnd:
    """The last frame of a chunk, where the next one begins: its picture [1, 3, H, W] and latent [1, C, h, w]."""

    frame: Tensor
    latent: Tensor


class Progress:
    """Adds up the progress of successive loops."""

    def __init__(self, report: Callable[[int, int], None] | None, total: int) -> None:
        self.report, self.total, self.done = report, total, 0

    def counter(self) -> Callable[[int, int], None]:
        """Make a callback for one loop."""
        before = self.done

        def count(done: int, _: int) -> None:
            self.done = before + done
            if self.report is not None:
                self.report(self.done, self.total)

        return count


def check_pictures(images: Tensor, conditioning: Tensor, structure: Tensor | None) -> None:
    """Raise ValueError unless all are [N, 3, H, W] with matching sizes."""
    for name, value in (("images", images), ("conditioning", conditioning)):
        if value.ndim != 4 or value.shape[1] != 3 or len(value) < 1:
            raise ValueError(f"{name} must be [N, 3, H, W] with N >= 1, got {tuple(value.shape)}")
    if structure is not None and structure.shape != conditioning.shape:
        raise ValueError(f"structure must be {tuple(conditioning.shape)} as conditioning, got {tuple(structure.shape)}")


def chunks_of(length: int, longest: int) -> list[range]:
    """Ranges of at most `longest` frames, about equally long; each starts at the last frame of the previous one."""
    if length <= longest:
        return [range(length)]
    if longest < 2:
        raise ValueError("chunks that share a frame must be at least 2 frames long")
    count = -(-(length - 1) // (longest - 1))
    ends = [round(index * (length - 1) / count) for index in range(count + 1)]
    return [range(start, end + 1) for start, end in zip(ends[:-1], ends[1:], strict=True)]


def pad_to(images: Tensor, multiple: int) -> Tensor:
    """Pad images to sides that are multiples of a number by repeating the last rows and columns."""
    height, width = images.shape[-2:]
    right, below = -width % multiple, -height % multiple
    return F.pad(images, (0, right, 0, below), mode="replicate") if right or below else images


def padded_layers(layers: Layers, chunk: range, like: Tensor, multiple: int) -> Layers:
    """The layers of a chunk as floats, padded like its images."""

    def padded(values: Tensor) -> Tensor:
        part = values[chunk.start : chunk.stop].to(like)
        flat = pad_to(part.reshape(len(part), -1, *part.shape[-2:]), multiple)
        return flat.unflatten(1, part.shape[1:-2]) if part.ndim > 3 else flat[:, 0]

    return layers.map(padded)


def as_clip(frames: Tensor) -> Tensor:
    """[T, C, h, w] -> [1, C, T, h, w]."""
    return frames.transpose(0, 1)[None]


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to a precision; None and float32 compute in the weights' own."""
    if dtype in (None, torch.float32):
        return nullcontext()
    return torch.autocast(device.type, dtype)
