"""Seconds and peak memory of a piece of work, in a process of its own."""

import ctypes
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

# Children are forked from a process that has only imported: its modules cost each of them nothing, and what it holds is
# the same for all.
_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")


class Task(Protocol):
    """What is measured; it must survive pickling."""

    def tiny(self) -> Callable[[], object]:
        """The same work at its smallest: it loads compiled code and libraries, before anything is measured."""
        ...

    def work(self) -> Callable[[], object]:
        """Make the inputs; the result is what is timed, and may be called again and again."""
        ...


@dataclass(frozen=True)
class Measured:
    """Of one task.

    Attributes:
        seconds: Median of the calls.
        memory: Bytes at the peak, above what the process held before the inputs were made: inputs, weights and results
            are counted, imported code is not. On CUDA, what the allocator handed out at the peak, in all.
        error: Why there are no numbers, or None.
    """

    seconds: float = float("nan")
    memory: float = float("nan")
    error: str | None = None


def preload(modules: list[str]) -> None:
    """Name what the children's common ancestor imports; call before the first `measured`."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload(modules)


def measured(task: Task, repeats: int, patience: float) -> Measured:
    """Median seconds and peak memory of a task.

    Args:
        task: What to do.
        repeats: Calls that count, after one that warms up.
        patience: Seconds after which no further call is made; a first call that takes so long counts itself.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(task, repeats, patience, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return Measured(error=f"the process ended with {process.exitcode}, as one does that is out of memory")
    except KeyboardInterrupt:
        process.terminate()
        raise
    finally:
        process.join()


def _child(task: Task, repeats: int, patience: float, answer: Connection) -> None:
    try:
        answer.send(_measure(task, repeats, patience))
    except Exception as error:  # whatever it is, the other sizes are measured all the same, and the table says it
        answer.send(Measured(error=f"{type(error).__name__}: {str(error).splitlines()[0]}"))


def _measure(task: Task, repeats: int, patience: float) -> Measured:
    import psutil
    import torch

    from cus.inference.machine import peak_memory

    task.tiny()()
    _return_memory()
    before = psutil.Process().memory_info().rss
    work = task.work()
    _return_memory()
    _forget_peak()
    cuda = torch.cuda.is_initialized()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while len(seconds) <= repeats and sum(seconds) < patience:
        started = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() if cuda else max(peak_memory() - before, 0)
    return Measured(statistics.median(seconds[1:] or seconds), memory)


def _return_memory() -> None:
    """Give what is free back to the system, or the first megabytes of the work would seem to cost nothing."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # no glibc
        return


def _forget_peak() -> None:
    """Let the system's peak start anew, so that making inputs is no part of it; it stays elsewhere than on Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
