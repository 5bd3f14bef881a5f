"""What compiled kernels share: threads and vectors."""
