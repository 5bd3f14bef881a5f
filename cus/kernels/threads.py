"""Threads for kernels that release the GIL.

These are torch's own threads if available. A second pool would be slowed by them: after each torch operation, OpenMP's
threads keep their cores busy for milliseconds, waiting for the next. Numba's pools do not fit either: its portable one
aborts if two Python threads use it at once (a viewer that renders while a fit runs), the others need system libraries.
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

# More pieces than threads, so that no thread waits long for the last; too many cost the interpreter's time.
_PIECES_A_THREAD = 16
_OPENMP_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_pieces(work: Callable[[int, int], object], count: int, pieces_a_thread: int = _PIECES_A_THREAD) -> None:
    """Call work(first, last) over 0..count on as many threads as torch uses, including the caller's.

    Pieces are handed out as threads become free, but their boundaries are fixed, so results are deterministic if pieces
    write to separate places. The first error is raised after all threads have stopped.
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
    """Call worker, which must not raise, once on each of several threads; return when all have returned."""
    parallel = _openmp_parallel()
    if parallel is not None:
        parallel(_OPENMP_TASK(lambda _: worker()), None, threads, 0)
        return
    others = [_pool(threads).submit(worker) for _ in range(threads - 1)]
    worker()
    for other in others:
        other.result()


def yield_cores() -> None:
    """Make torch's threads release their cores while they wait for work, which GNU's OpenMP does not guarantee.

    Its threads poll for work for milliseconds before they sleep, unless the process has more threads than the machine
    has cores; on a machine with other load, this makes torch two to four times slower. So one of our threads holds some
    that never do anything. `OMP_WAIT_POLICY=PASSIVE` does the same, but is read only when torch is loaded; if that or
    `GOMP_SPINCOUNT` is set, it takes precedence. Called by every long computation; one call is enough.
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
        # A team's threads belong to the thread that created it.
        parallel(_OPENMP_TASK(lambda _: None), None, os.cpu_count() or 1, 0)
        started.set()
        threading.Event().wait()

    threading.Thread(target=hold, name="cus-idle", daemon=True).start()
    started.wait()


@functools.cache
def _openmp_parallel() -> Callable[..., None] | None:
    """The function that runs a task on the threads of torch's OpenMP library, GNU's or a compatible one.

    None if torch has none (macOS, Windows, some distributions).
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
