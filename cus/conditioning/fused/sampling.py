"""Pictures and depth maps sampled between their pixels, and photographs at the resolution that a target needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cus.conditioning.reliability import EDGE_THRESHOLD

# Photograph levels with fewer pixels than this along the shorter side are not used.
SMALLEST_LEVEL = 8
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Kernel:
    """A separable interpolation kernel.

    Attributes:
        weight: maps distances in pixels to weights.
        radius: distance in pixels beyond which the weight is 0.
    """

    weight: Callable[[Tensor], Tensor]
    radius: int


def _lanczos3(t: Tensor) -> Tensor:
    return torch.where(t.abs() < 3, torch.sinc(t) * torch.sinc(t / 3), 0.0)


def _catmull_rom(t: Tensor) -> Tensor:
    a = t.abs()
    near = (1.5 * a - 2.5) * a * a + 1
    far = ((-0.5 * a + 2.5) * a - 4) * a + 2
    return torch.where(a < 1, near, torch.where(a < 2, far, 0.0))


def _linear(t: Tensor) -> Tensor:
    return (1 - t.abs()).clamp(min=0)


LANCZOS3, CATMULL_ROM, LINEAR = Kernel(_lanczos3, 3), Kernel(_catmull_rom, 2), Kernel(_linear, 1)


def sample(image: Tensor, x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    """Sample a picture at points with a separable kernel of weights that sum to 1; border pixels are repeated.

    Args:
        image: [C, h, w] float, or uint8 where 0 .. 255 stands for 0 .. 1.
        x: [...] pixel coordinates; the centre of the first pixel is 0.5.
        y: [...] pixel coordinates, as x.
        kernel: interpolation kernel.

    Returns:
        [C, ...] in the coordinates' dtype, not clamped.
    """
    flat_x, flat_y = x.flatten(), y.flatten()
    parts = [_sample(image, a, b, kernel) for a, b in zip(flat_x.split(_CHUNK), flat_y.split(_CHUNK), strict=True)]
    return torch.cat(parts, dim=1).view(len(image), *x.shape)


def _sample(image: Tensor, x: Tensor, y: Tensor, kernel: Kernel) -> Tensor:
    h, w = image.shape[-2:]
    steps = torch.arange(1 - kernel.radius, kernel.radius + 1, device=x.device)
    columns, rows = (torch.floor(t - 0.5)[:, None] + steps for t in (x, y))
    wx, wy = kernel.weight((x - 0.5)[:, None] - columns), kernel.weight((y - 0.5)[:, None] - rows)
    weights = (wy / wy.sum(1, keepdim=True))[:, :, None] * (wx / wx.sum(1, keepdim=True))[:, None, :]
    index = rows.long().clamp(0, h - 1)[:, :, None] * w + columns.long().clamp(0, w - 1)[:, None, :]
    values = image.flatten(1)[:, index].to(x.dtype)
    if image.dtype == torch.uint8:
        values = values / 255
    return (values * weights).sum(dim=(2, 3))


def inverse_depth_at(inverse: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A reference's 1 / z at points: bilinear where the four pixels lie on one surface, else that of the nearest pixel.

    Args:
        inverse: [h, w], 0 = none.
        x: [...] pixel coordinates.
        y: [...] pixel coordinates.

    Returns:
        [...]; 0 outside the picture and where there is no depth.
    """
    h, w = inverse.shape
    inside = (x >= 0) & (x <= w) & (y >= 0) & (y <= h)
    column, row = (x - 0.5).floor().clamp(0, max(w - 2, 0)), (y - 0.5).floor().clamp(0, max(h - 2, 0))
    i, j = row.long(), column.long()
    right, below = (j + 1).clamp(max=w - 1), (i + 1).clamp(max=h - 1)
    around = torch.stack([inverse[i, j], inverse[i, right], inverse[below, j], inverse[below, right]])
    fx, fy = (x - 0.5 - column).clamp(0, 1), (y - 0.5 - row).clamp(0, 1)
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    most = around.amax(dim=0)
    one = most - around.amin(dim=0) <= EDGE_THRESHOLD * most
    nearest = inverse[y.floor().long().clamp(0, h - 1), x.floor().long().clamp(0, w - 1)]
    return torch.where(inside, torch.where(one, (weights * around).sum(dim=0), nearest), 0.0)


def levels_of(photograph: Tensor) -> list[Tensor]:
    """A photograph [3, h, w] and its halvings, each the mean of 2 x 2 pixels of the previous level, rounded if uint8.

    An odd last row or column counts twice, so level l has 2^-l of the size, rounded up.
    """
    levels = [photograph]
    while min(levels[-1].shape[-2:]) >= 2 * SMALLEST_LEVEL:
        levels.append(_halved(levels[-1]))
    return levels


def _halved(image: Tensor) -> Tensor:
    h, w = image.shape[-2:]
    halves = []
    for channel in image:  # one at a time, because floats of a large photograph take four times its memory
        values = channel[None, None].float()
        if h % 2 or w % 2:
            values = F.pad(values, (0, w % 2, 0, h % 2), mode="replicate")
        half = F.avg_pool2d(values, 2)[0, 0]
        halves.append(half.round().to(torch.uint8) if image.dtype == torch.uint8 else half.to(image.dtype))
    return torch.stack(halves)


def sample_levels(levels: list[Tensor], x: Tensor, y: Tensor, footprint: Tensor) -> Tensor:
    """Sample a photograph's colours at points with Lanczos3, neither aliased nor needlessly blurred.

    Where a target pixel covers more than one of the photograph's, two neighbouring levels are mixed by the logarithm of
    the footprint.

    Args:
        levels: the photograph's levels, from `levels_of`.
        x: [...] pixel coordinates in level 0.
        y: [...] pixel coordinates in level 0.
        footprint: [...] side length in pixels of level 0 that a target pixel covers.

    Returns:
        [3, ...] RGB, not clamped.
    """
    wanted = torch.log2(footprint.clamp(min=1)).clamp(max=len(levels) - 1)
    colors = torch.zeros((3, *x.shape), dtype=x.dtype, device=x.device)
    for level, image in enumerate(levels):
        share = (1 - (wanted - level).abs()).clamp(min=0)
        chosen = share > 0
        if bool(chosen.any()):
            scale = 0.5**level
            found = sample(image, x[chosen] * scale, y[chosen] * scale, LANCZOS3)
            colors[:, chosen] += share[chosen] * found
    return colors


def blur(values: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [..., H, W], cut off at three sigma, with mirrored borders; a tiny sigma is a no-op."""
    for axis in (-1, -2):
        weights = blur_weights(sigma).to(values)
        radius = len(weights) // 2
        length = values.shape[axis]
        places = torch.arange(-radius, length + radius, device=values.device)
        mirrored = values.index_select(axis, mirror(places, length))
        values = sum(g * mirrored.narrow(axis, k, length) for k, g in enumerate(weights.tolist()))  # type: ignore
    return values


def blur_weights(sigma: float) -> Tensor:
    """[2 r + 1] float64 weights with sum 1, r = 3 sigma."""
    radius = max(0, math.ceil(3 * sigma - 0.5))
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / max(sigma, 1e-6)) ** 2)
    return weights / weights.sum()


def mirror(places: Tensor, length: int) -> Tensor:
    """Indices reflected into 0 .. length - 1, about the first and last elements."""
    if length == 1:
        return torch.zeros_like(places)
    period = 2 * (length - 1)
    places = places.remainder(period)
    return torch.where(places < length, places, period - places)
