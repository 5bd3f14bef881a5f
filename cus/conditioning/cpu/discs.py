"""Alpha-composited discs on the CPU, one thread per target; semantics match `cus.conditioning.discs`."""

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor

from cus.conditioning.conditioning import Conditioning
from cus.conditioning.cpu.warp import EMPTY, winner
from cus.kernels.threads import in_pieces

_ZERO, _HALF, _ONE, _TINY = np.float32(0), np.float32(0.5), np.float32(1), np.float32(1e-12)


class _Scratch:
    """One thread's buffers.

    Attributes:
        keys: [H, W, K] int64, each pixel's nearest discs in order; a key is the depth's bits above the point's index.
        x, y: [N] float32, pixel coordinates of the points.
    """

    def __init__(self, points: int, shape: tuple[int, int], points_per_pixel: int) -> None:
        self.keys = np.empty((*shape, points_per_pixel), dtype=np.int64)
        self.x, self.y = np.empty(points, dtype=np.float32), np.empty(points, dtype=np.float32)


def render_discs_cpu(
    points: Tensor,
    colors: Tensor,
    matrices: Tensor,
    radius: float,
    points_per_pixel: int,
    conditioning: Conditioning,
    on_target: Callable[[int], None],
) -> None:
    """Render the discs of a point cloud into a blank conditioning [T, ...].

    Args:
        points: [N, 3] float32 on the CPU.
        colors: [N, 3] float32 on the CPU.
        matrices: [T, 3, 4] float32, world point to homogeneous pixel.
        radius: radius of the discs in pixels.
        points_per_pixel: number of nearest discs that a pixel blends.
        conditioning: the conditioning to fill, all holes.
        on_target: called in the caller's thread with the number of targets done.
    """
    cloud, paints = (t.detach().contiguous().numpy() for t in (points, colors))
    images, masks, depths = conditioning.images.numpy(), conditioning.masks.numpy(), conditioning.depths.numpy()
    count, height, width = depths.shape
    many = min(torch.get_num_threads(), count)
    spare = [_Scratch(len(cloud), (height, width), points_per_pixel) for _ in range(many)]
    projections = matrices.detach().contiguous().numpy()
    size = np.float32(radius)

    def work(first: int, last: int) -> None:
        scratch = spare.pop()
        for index in range(first, last):
            _nearest(cloud, projections[index], size, scratch.keys, scratch.x, scratch.y)
            _blend(scratch.keys, scratch.x, scratch.y, paints, size, images[index], masks[index], depths[index])
        spare.append(scratch)

    # As many targets at a time as there are threads, so that progress is reported from the caller's thread.
    for first in range(0, count, many):
        last = min(first + many, count)
        in_pieces(lambda a, b, first=first: work(first + a, first + b), last - first)
        on_target(last)


@njit(cache=True, nogil=True, error_model="numpy")
def _nearest(cloud, M, radius, keys, xs, ys):  # pragma: no cover - compiled
    """Sort the nearest K discs that reach each pixel into `keys`, and write the points' positions to xs, ys."""
    height, width, _ = keys.shape
    keys[:] = EMPTY
    limit = radius * radius
    right, bottom = np.float32(width) + radius, np.float32(height) + radius
    depth = np.empty(1, dtype=np.float32)
    bits = depth.view(np.int32)
    for point in range(len(cloud)):
        a, b, c = cloud[point, 0], cloud[point, 1], cloud[point, 2]
        z = M[2, 0] * a + M[2, 1] * b + (M[2, 2] * c + M[2, 3])
        if not z > _ZERO:
            continue
        safe = max(z, _TINY)
        x = (M[0, 0] * a + M[0, 1] * b + (M[0, 2] * c + M[0, 3])) / safe
        y = (M[1, 0] * a + M[1, 1] * b + (M[1, 2] * c + M[1, 3])) / safe
        if not ((x > -radius) & (x < right) & (y > -radius) & (y < bottom)):
            continue
        xs[point], ys[point] = x, y
        depth[0] = z
        key = (np.int64(bits[0]) << 32) | point
        top, left = int(np.ceil(y - radius - _HALF)), int(np.ceil(x - radius - _HALF))
        for row in range(max(top, 0), min(int(np.ceil(y + radius - _HALF)) + 1, height)):
            dy = np.float32(row) + _HALF - y
            for column in range(max(left, 0), min(int(np.ceil(x + radius - _HALF)) + 1, width)):
                dx = np.float32(column) + _HALF - x
                if dx * dx + dy * dy < limit:
                    _insert(keys[row, column], key)


@njit(cache=True, nogil=True, inline="always")
def _insert(line, key):  # pragma: no cover - compiled
    """Insert a key into an ascending list; the largest drops out."""
    place = len(line) - 1
    if key >= line[place]:
        return
    while place > 0 and line[place - 1] > key:
        line[place] = line[place - 1]
        place -= 1
    line[place] = key


@njit(cache=True, nogil=True, error_model="numpy")
def _blend(keys, xs, ys, colors, radius, image, mask, depths):  # pragma: no cover - compiled
    """Composite the sorted discs of each pixel front to back."""
    height, width, many = keys.shape
    depth = np.empty(1, dtype=np.float32)
    bits = depth.view(np.int32)
    for row in range(height):
        for column in range(width):
            line = keys[row, column]
            if line[0] == EMPTY:
                continue
            mask[row, column] = True
            bits[0] = np.int32(line[0] >> 32)
            depths[row, column] = depth[0]
            transmittance = _ONE
            for layer in range(many):
                if line[layer] == EMPTY:
                    break
                point = winner(line[layer])
                dx, dy = np.float32(column) + _HALF - xs[point], np.float32(row) + _HALF - ys[point]
                weight = _ONE - (dx * dx + dy * dy) / (radius * radius)
                for channel in range(3):
                    image[channel, row, column] += transmittance * weight * colors[point, channel]
                transmittance *= _ONE - weight
