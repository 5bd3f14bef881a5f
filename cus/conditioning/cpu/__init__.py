"""Algorithm 1 in Numba kernels, for float32 on the CPU; they are held to the torch forms of `cus.conditioning`."""
