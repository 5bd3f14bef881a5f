"""Time and peak memory of a task, in a separate process."""

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

# Children are forked from a process that only imports: modules cost each child nothing, and its memory is the same for
# all.
_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in _METHODS else "spawn")


class Task(Protocol):
    """A task to measure; it must be picklable."""

    def tiny(self) -> Callable[[], object]:
        """The same work at its smallest: it loads compiled code and libraries before the measurement."""
        ...

    def work(self) -> Callable[[], object]:
        """Make the inputs; the returned function is timed, and may be called repeatedly."""
        ...


@dataclass(frozen=True)
class Measured:
    """Measurements of one task.

    Attributes:
        seconds: Median duration of the calls.
        memory: Peak bytes above the process's memory before the inputs were made: inputs, weights and results count,
            imported code does not. On CUDA, the allocator's total peak.
        error: Reason why there are no numbers, or None.
    """

    seconds: float = float("nan")
    memory: float = float("nan")
    error: str | None = None


def preload(modules: list[str]) -> None:
    """Set the imports of the children's common ancestor; call before the first `measured`."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload(modules)


def measured(task: Task, repeats: int, patience: float) -> Measured:
    """Median seconds and peak memory of a task.

    Args:
        task: Task to measure.
        repeats: Number of calls that count, after a warm-up call.
        patience: Seconds after which no further call is made; a first call that takes this long counts itself.
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
    except Exception as error:  # whatever it is, measure the other sizes, and report it in the table
        answer.send(Measured(error=f"{type(error).__name__}: {str(error).splitlines()[0]}"))


def _measure(task: Task, repeats: int, patience: float) -> Measured:
    import psutil
    import torch

    from cus.runtime import peak_memory

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
    """Return free memory to the system; otherwise the first megabytes of the work would seem to cost nothing."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return


def _forget_peak() -> None:
    """Reset the system's peak, so that making inputs is not included; only possible on Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
