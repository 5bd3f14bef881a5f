"""Options of the warp: backend, resolutions, suppression and merging."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cus.errors import InputError

Backend = Literal["auto", "cpu", "torch"]
Merge = Literal["nearest", "depth"]
LARGEST_SCALE = 64
# Points closer together than this, in target pixels, are averaged; about one per pixel is best left as it is.
WIDE_SPACING = 0.75


@dataclass(frozen=True)
class WarpOptions:
    """Options shared by all targets of a warp.

    Attributes:
        scales: divisors of the resolution, ascending; None chooses them by the spacing of the projected points.
        tolerance: tau_D in scene units, how far behind a dilated foreground a point may lie; infinity accepts all.
        merge: which reference wins where several have a pixel.
    """

    scales: tuple[int, ...] | None
    tolerance: float
    merge: Merge

    def levels(self, spacing: float) -> tuple[int, ...]:
        """The scales for points that are `spacing` target pixels apart."""
        return self.scales or scales_for_spacing(spacing)


def resolved_backend(backend: Backend, tensors: Sequence[Tensor], what: str) -> Backend:
    """The backend that "auto" stands for. Raises InputError if "cpu" cannot process the tensors; `what` names them."""
    unfit = [t for t in tensors if t.device.type != "cpu" or t.dtype != torch.float32]
    if backend == "cpu" and unfit:
        kind = f"{unfit[0].dtype} on {unfit[0].device}".removeprefix("torch.")
        raise InputError(f"backend 'cpu' needs {what} on the CPU, got {kind}; use backend='torch' there")
    if backend == "auto":
        return "torch" if unfit else "cpu"
    return backend


def check_scales(scales: Sequence[int]) -> tuple[int, ...]:
    """The scales as a tuple. Raises ValueError unless they are ascending positive whole numbers."""
    checked = tuple(int(scale) for scale in scales)
    if not checked or checked[0] < 1 or list(checked) != sorted(set(checked)) or checked != tuple(scales):
        raise ValueError(f"scales must be ascending positive whole numbers such as (1, 4), got {tuple(scales)}")
    return checked


def scales_for_spacing(spacing: float) -> tuple[int, ...]:
    """1, 2, 4, ... up to the first scale whose cells are at least as large as the spacing of the points in pixels.

    A hundredth smaller is fine: rounding alone puts the spacing of a view warped onto itself a little above 1.
    """
    scales = [1]
    while scales[-1] < min(0.99 * spacing, LARGEST_SCALE):
        scales.append(scales[-1] * 2)
    return tuple(scales)
