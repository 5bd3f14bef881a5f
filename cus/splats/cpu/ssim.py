"""Structural similarity on the CPU: one kernel forward, one backward, sixteen pixels at a time.

Each row of the window averages is computed independently, first down the columns, then along the row, so threads share
nothing and the intermediate maps never reach main memory. With S = a b / (c d) of the means mx, my and the averages of
xx, yy, xy as in `cus.splats.losses`, the forward pass also stores dS/dmx, dS/dxx and dS/dxy at each pixel; the backward
pass averages these three over the windows that contain a pixel: the transpose, whose weights differ near the borders,
where windows are mirrored.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from cus.kernels.simd import LANES, lanes, load, multiply_add, store
from cus.kernels.threads import in_pieces

SMALLEST_WIDTH = LANES
"""Smallest width of the pictures in pixels."""
_ZERO, _TWO = np.float32(0), np.float32(2)


def ssim_cpu(images: Tensor, targets: Tensor, window: np.ndarray, constants: tuple[float, float]) -> Tensor:
    """SSIM at each pixel, differentiable in `images`.

    Args:
        images: [..., H, W] float32 on the CPU, H at least the window's radius + 1, W at least
            `SMALLEST_WIDTH`.
        targets: Images of the same shape.
        window: Weights [2 radius + 1] float32 with sum 1, used along rows and columns.
        constants: C1 and C2 of the definition.

    Returns:
        [..., H, W].
    """
    return _Similarity.apply(images, targets, window, constants)  # type: ignore[return-value]


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, targets: Tensor, window: np.ndarray, constants: tuple[float, float]):
        x, y = (np.ascontiguousarray(tensor.detach().numpy()) for tensor in (images, targets))
        height, width = x.shape[-2:]
        values, slopes = np.empty(x.size, dtype=np.float32), np.empty(3 * x.size, dtype=np.float32)
        x, y, shape = x.reshape(-1), y.reshape(-1), x.shape
        rows = _mirrored(height, len(window) // 2)
        limits = np.array(constants, dtype=np.float32)

        def work(first: int, last: int) -> None:
            _forward(x, y, width, rows, window, limits, values, slopes, first, last)

        in_pieces(work, x.size // width)
        ctx.arrays, ctx.window = (x, y, slopes), window
        return torch.from_numpy(values.reshape(shape))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        (x, y, slopes), window = ctx.arrays, ctx.window
        upstream = np.ascontiguousarray(grad.numpy())
        height, width = upstream.shape[-2:]
        grads, weights = np.empty(upstream.size, dtype=np.float32), _transposed(height, window)

        def work(first: int, last: int) -> None:
            _backward(x, y, width, window, weights, slopes, upstream.reshape(-1), grads, first, last)

        in_pieces(work, upstream.size // width)
        return torch.from_numpy(grads.reshape(upstream.shape)), None, None, None


def _mirrored(size: int, radius: int) -> np.ndarray:
    """The positions covered by the window around each position [size, 2 radius + 1] int64, mirrored at the ends."""
    places = np.arange(size)[:, None] + np.arange(-radius, radius + 1)
    return (size - 1) - np.abs((size - 1) - np.abs(places))


def _transposed(size: int, window: np.ndarray) -> np.ndarray:
    """Weight of each position in the windows around positions -radius to radius from it, 0 where there are none."""
    radius = len(window) // 2
    weights = np.zeros((size, len(window)), dtype=np.float32)
    centers = np.arange(size)[:, None].repeat(len(window), axis=1)
    covered = _mirrored(size, radius)
    # A mirrored position is no further from the centre than the one it stands for.
    np.add.at(weights, (covered, centers - covered + radius), np.broadcast_to(window, centers.shape))
    return weights


@njit(cache=True, nogil=True, error_model="numpy")
def _forward(x, y, width, rows, window, limits, values, slopes, first, last):  # pragma: no cover - compiled
    """SSIM in the rows first to last of all pictures, and its derivatives in the three averages that contain x."""
    height, taps = rows.shape
    radius, count = taps // 2, len(values)
    span = width + 2 * radius
    buffer = np.empty(5 * span + LANES, dtype=np.float32)
    c1, c2 = limits[0], limits[1]
    for row in range(first, last):
        here, top = row % height, row // height * height
        for step in range(0, width, LANES):
            column = min(step, width - LANES)
            m_x, m_y, m_xx, m_yy, m_xy = lanes(_ZERO), lanes(_ZERO), lanes(_ZERO), lanes(_ZERO), lanes(_ZERO)
            for k in range(taps):
                at, weight = (top + rows[here, k]) * width + column, window[k]
                a, b = load(x, at), load(y, at)
                w_a, w_b = a * weight, b * weight
                m_x, m_y = m_x + w_a, m_y + w_b
                m_xx, m_yy, m_xy = multiply_add(w_a, a, m_xx), multiply_add(w_b, b, m_yy), multiply_add(w_a, b, m_xy)
            at = radius + column
            store(buffer, at, m_x)
            store(buffer, at + span, m_y)
            store(buffer, at + 2 * span, m_xx)
            store(buffer, at + 3 * span, m_yy)
            store(buffer, at + 4 * span, m_xy)
        for m in range(5):
            start = m * span + radius
            for k in range(1, radius + 1):
                buffer[start - k], buffer[start + width - 1 + k] = buffer[start + k], buffer[start + width - 1 - k]
        for step in range(0, width, LANES):
            column = min(step, width - LANES)
            m_x, m_y, m_xx, m_yy, m_xy = lanes(_ZERO), lanes(_ZERO), lanes(_ZERO), lanes(_ZERO), lanes(_ZERO)
            for k in range(taps):
                at, weight = column + k, window[k]
                m_x = multiply_add(load(buffer, at), weight, m_x)
                m_y = multiply_add(load(buffer, at + span), weight, m_y)
                m_xx = multiply_add(load(buffer, at + 2 * span), weight, m_xx)
                m_yy = multiply_add(load(buffer, at + 3 * span), weight, m_yy)
                m_xy = multiply_add(load(buffer, at + 4 * span), weight, m_xy)
            squares, cross = m_x * m_x + m_y * m_y, m_x * m_y
            a, b = cross * _TWO + c1, (m_xy - cross) * _TWO + c2
            c, d = squares + c1, m_xx + m_yy - squares + c2
            size = c * d
            similarity, at = a * b / size, row * width + column
            store(values, at, similarity)
            tilt = m_y * (b - a) / size + m_x * similarity * (c - d) / size
            store(slopes, at, tilt * _TWO)
            store(slopes, at + count, (_ZERO - similarity) / d)
            store(slopes, at + 2 * count, a * _TWO / size)


@njit(cache=True, nogil=True)
def _backward(x, y, width, window, weights, slopes, upstream, grads, first, last):  # pragma: no cover - compiled
    """Gradients with respect to x in the rows first to last of all pictures."""
    height, taps = weights.shape
    radius, count = taps // 2, len(grads)
    # Windows reach `radius` beyond the picture and lie twice that around the positions that have any.
    span, folded = width + 4 * radius, width + 2 * radius
    buffer, sums = np.zeros(3 * span + LANES, dtype=np.float32), np.empty(3 * folded + LANES, dtype=np.float32)
    for row in range(first, last):
        here, top = row % height, row // height * height
        for step in range(0, width, LANES):
            column = min(step, width - LANES)
            g_mean, g_square, g_product = lanes(_ZERO), lanes(_ZERO), lanes(_ZERO)
            for k in range(max(0, radius - here), min(taps, height + radius - here)):
                at = (top + here + k - radius) * width + column
                weight = load(upstream, at) * weights[here, k]
                g_mean = multiply_add(load(slopes, at), weight, g_mean)
                g_square = multiply_add(load(slopes, at + count), weight, g_square)
                g_product = multiply_add(load(slopes, at + 2 * count), weight, g_product)
            at = 2 * radius + column
            store(buffer, at, g_mean)
            store(buffer, at + span, g_square)
            store(buffer, at + 2 * span, g_product)
        for step in range(0, folded, LANES):
            column = min(step, folded - LANES)
            g_mean, g_square, g_product = lanes(_ZERO), lanes(_ZERO), lanes(_ZERO)
            for k in range(taps):
                at, weight = column + k, window[k]
                g_mean = multiply_add(load(buffer, at), weight, g_mean)
                g_square = multiply_add(load(buffer, at + span), weight, g_square)
                g_product = multiply_add(load(buffer, at + 2 * span), weight, g_product)
            store(sums, column, g_mean)
            store(sums, column + folded, g_square)
            store(sums, column + 2 * folded, g_product)
        for m in range(3):
            start = m * folded + radius
            for k in range(1, radius + 1):
                sums[start + k] += sums[start - k]
                sums[start + width - 1 - k] += sums[start + width - 1 + k]
        for step in range(0, width, LANES):
            column = min(step, width - LANES)
            at, place = row * width + column, radius + column
            g_square = load(sums, place + folded) * _TWO
            g = multiply_add(load(x, at), g_square, load(sums, place))
            store(grads, at, multiply_add(load(y, at), load(sums, place + 2 * folded), g))
