"""The rasterizer for CPUs: Numba kernels in explicit SIMD, under threads of our own."""
