"""Threads for kernels that release the GIL.

They are torch's own where those can be had. A second pool beside them would be slowed by them: OpenMP's threads keep
their core busy for milliseconds after each operation of torch, waiting for the next. Numba's pools do not fit either:
its portable one aborts when two Python threads use it at once (a viewer that renders while a fit runs), the others want
system libraries.
"""

import ctypes
import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

# More pieces than threads, so that none waits long for the last; more cost the interpreter's time between them.
_PIECES_A_THREAD = 16
_OPENMP_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_pieces(work: Callable[[int, int], object], count: int, pieces_a_thread: int = _PIECES_A_THREAD) -> None:
    """Call work(first, last) over 0..count on as many threads as torch uses, the caller's among them.

    Pieces are handed out as threads become free; what a piece is does not depend on that, so that results do not either
    as long as pieces write to places of their own. The first error is raised after all threads have stopped.
    """
    yield_cores()
    threads = torch.get_num_threads()
    size = max(1, -(-count // (threads * pieces_a_thread)))
    starts = itertools.count(0, size)  # its next() is atomic under the GIL
    errors: list[BaseException] = []

    def worker() -> None:
        try:
            while not errors and (first := next(starts)) < count:
                work(first, min(first + size, count))
        except BaseException as error:
            errors.append(error)

    if threads == 1:
        worker()
    else:
        _on_threads(worker, threads)
    if errors:
        raise errors[0]


def _on_threads(worker: Callable[[], None], threads: int) -> None:
    """Call worker, which does not raise, once on each of several threads; return when all have returned."""
    parallel = _openmp_parallel()
    if parallel is not None:
        parallel(_OPENMP_TASK(lambda _: worker()), None, threads, 0)
        return
    others = [_pool(threads).submit(worker) for _ in range(threads - 1)]
    worker()
    for other in others:
        other.result()


def yield_cores() -> None:
    """Have torch's threads give their cores away while they wait for work, which GNU's OpenMP leaves to chance.

    Its threads watch for work for milliseconds before they sleep, unless the process has more of them than the machine
    has cores; on a machine where others compute too, that makes torch two to four times slower. So a thread of ours
    holds some that never do anything. `OMP_WAIT_POLICY=PASSIVE` does the same, but is read only when torch is loaded;
    where that or `GOMP_SPINCOUNT` is set, it holds. Called by whatever computes long; once is enough.
    """
    if torch.get_num_threads() > 1 and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        _hold_idle_threads()


@functools.cache
def _hold_idle_threads() -> None:
    parallel = _openmp_parallel()
    if parallel is None:
        return
    started = threading.Event()

    def hold() -> None:
        # The threads of a team stay with the thread that made it.
        parallel(_OPENMP_TASK(lambda _: None), None, os.cpu_count() or 1, 0)
        started.set()
        threading.Event().wait()

    threading.Thread(target=hold, name="cus-idle", daemon=True).start()
    started.wait()


@functools.cache
def _openmp_parallel() -> Callable[..., None] | None:
    """What runs a task on the threads of the OpenMP library that torch brings, GNU's or one that speaks its interface.

    None where torch brings none (macOS, Windows, some distributions).
    """
    for library in sorted((Path(torch.__file__).parent / "lib").glob("lib[gi]*omp*.so*")):
        try:
            parallel = ctypes.CDLL(str(library)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        parallel.argtypes = [_OPENMP_TASK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel
    return None


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="cus-kernels")
