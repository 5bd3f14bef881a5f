"""Algorithm 1 in Numba kernels, for float32 on the CPU; tests compare them with the torch forms."""
