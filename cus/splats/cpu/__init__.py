"""The rasterizer for CPUs: Numba kernels with explicit SIMD, run by our own threads."""
