"""Threads for kernels that release the GIL.

Numba's own pools do not fit: its portable one aborts when two Python threads use it at once (a viewer that renders
while a fit runs), the others want system libraries.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

# More pieces than threads, so that none waits long for the last; more cost the interpreter's time between them.
_PIECES_A_THREAD = 16


def in_pieces(work: Callable[[int, int], object], count: int, pieces_a_thread: int = _PIECES_A_THREAD) -> None:
    """Call work(first, last) over 0..count on as many threads as torch uses, the caller's among them.

    Pieces are handed out as threads become free; what a piece is does not depend on that, so that results do not either
    as long as pieces write to places of their own. The first error is raised after all threads have stopped.
    """
    threads = torch.get_num_threads()
    size = max(1, -(-count // (threads * pieces_a_thread)))
    starts = itertools.count(0, size)  # its next() is atomic under the GIL

    def worker() -> None:
        while (first := next(starts)) < count:
            work(first, min(first + size, count))

    others = [_pool(threads).submit(worker) for _ in range(threads - 1)]
    try:
        worker()
    finally:
        for other in others:
            other.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="cus-splats")
