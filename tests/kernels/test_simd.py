"""Vectors of four pixels with four channels each."""

import numpy as np
from numba import njit

from cus.kernels.simd import (
    extract,
    load,
    load_pixel,
    next_pixel_weights,
    pixel_weights,
    store,
    store_pixel,
    sum_of_pixels,
)


@njit
def _results(values, stored, bytes_, into):
    four = load(values, 0)
    store(into, 0, sum_of_pixels(four))
    store(into, 16, pixel_weights(four))
    store(into, 32, next_pixel_weights(four))
    store(into, 48, load_pixel(values, 3))
    store(into, 64, load(bytes_, 1))
    store_pixel(stored, 2, four)
    return extract(four, 5)


def test_a_vector_holds_four_pixels():
    values = np.arange(20, dtype=np.float32) ** 2
    bytes_ = np.arange(240, 257).clip(max=255).astype(np.uint8)
    stored, into = np.zeros(8, np.float32), np.zeros(80, np.float32)
    assert _results(values, stored, bytes_, into) == 25
    sums, first, second, repeated, converted = into.reshape(5, 4, 4)
    np.testing.assert_array_equal(sums, np.tile(values[:16].reshape(4, 4).sum(axis=0), (4, 1)))
    np.testing.assert_array_equal(first, np.repeat(values[:4], 4).reshape(4, 4))
    np.testing.assert_array_equal(second, np.repeat(values[4:8], 4).reshape(4, 4))
    np.testing.assert_array_equal(repeated, np.tile(values[3:7], (4, 1)))
    np.testing.assert_array_equal(converted.ravel(), bytes_[1:].astype(np.float32))
    np.testing.assert_array_equal(stored, [0, 0, *values[:4], 0, 0])
