"""Shared parts of compiled kernels: threads and vectors."""
