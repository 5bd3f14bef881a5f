"""The process of a command: an orderly end on Ctrl-C and SIGTERM, whatever native libraries do to signals; its memory,
and the versions that it runs.
"""

import _thread
import ctypes
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import FrameType, TracebackType
from typing import Any

import cus

ENDING = (signal.SIGINT, signal.SIGTERM)
# Signals that a library may take over when it is loaded. Not every system has all of them.
_TAKEN_OVER = [getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "ILL", "ABRT", "FPE", "SEGV")]
# One key press reaches a whole process group, and a launcher forwards signals that its children already have.
_SAME_PRESS_SECONDS = 0.3
_SLOW_SECONDS = 2.0
# Python's `signal.getsignal` only knows handlers set through Python.
_GETSIG, _SETSIG = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
_GETSIG.restype = _SETSIG.restype = ctypes.c_void_p
_GETSIG.argtypes, _SETSIG.argtypes = [ctypes.c_int], [ctypes.c_int, ctypes.c_void_p]
PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "pycolmap", "opencv-python-headless", "numba", "gsplat")


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command like Ctrl-C."""


@contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Restore the signal handlers after the code inside, usually an import.

    When loaded, COLMAP's library installs its own handlers under Python's: SIGTERM then prints a stack trace, and no
    handler of the importing program is called.
    """
    handlers = {number: _GETSIG(number) for number in _TAKEN_OVER}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            _SETSIG(number, handler)


def interruption(number: int) -> KeyboardInterrupt:
    """The exception for a signal."""
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def exit_status(error: KeyboardInterrupt) -> int:
    """128 + the number of the signal, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


class Interrupts:
    """In a `with` block, Ctrl-C and SIGTERM raise KeyboardInterrupt and `Terminated` in the main thread.

    The first signal raises once. The second ends the process immediately, even if the main thread is in native code
    where Python's handlers cannot run. Signals ignored by the parent process's choice (nohup) stay ignored. Outside
    the main thread the block has no effect.

    Args:
        final: whether the block is all that the process does: a signal after it ends the process silently.

    Attributes:
        received: number of the signal received, or None.
    """

    def __init__(self, *, final: bool = False) -> None:
        self.final = final
        self.received: int | None = None
        self.previous: dict[int, Any] = {}
        self.hook = sys.unraisablehook
        self.wakeup = -1
        self.writer: socket.socket | None = None

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                self.previous[number] = signal.signal(number, self._raise)
        self.hook, sys.unraisablehook = sys.unraisablehook, self._deliver_again
        self._watch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is None:
            return
        signal.set_wakeup_fd(self.wakeup)
        sys.unraisablehook = self.hook
        for number, handler in self.previous.items():
            signal.signal(number, signal.SIG_DFL if self.final else handler)
        # This also ends the watch.
        self.writer.close()
        self.writer = None

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            raise interruption(number)

    def _deliver_again(self, lost: Any) -> None:
        """Repeat an interrupt that hit a finalizer, where Python drops exceptions, a moment later."""
        if not isinstance(lost.exc_value, KeyboardInterrupt) or self.received is None:
            self.hook(lost)
            return
        number, self.received = self.received, None
        timer = threading.Timer(0.05, _signal_main_thread, [number])
        timer.daemon = True
        timer.start()

    def _watch(self) -> None:
        """Start a thread that reads the signals that Python's own C handler writes down."""
        _end_watch_in_children()
        reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        self.wakeup = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_watch_signals, args=(reader,), name="cus-signals", daemon=True).start()


def _signal_main_thread(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        # Unlike the alternative, this also wakes it up.
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _watch_signals(reader: socket.socket) -> None:
    """End the process at the second signal of a kind."""
    seen: dict[int, float] = {}
    with reader:
        while True:
            try:
                read = reader.recv(1)
            except TimeoutError:
                reader.settimeout(None)
                say_to_terminal("\nstopping; Ctrl-C once more ends at once\n")
                continue
            if not read:
                return
            number, now = read[0], time.monotonic()
            if number not in ENDING:
                continue
            if now - seen.setdefault(number, now) > _SAME_PRESS_SECONDS:
                # Restore the cursor, which a progress bar has hidden.
                say_to_terminal("\x1b[?25h\n")
                os._exit(128 + number)
            reader.settimeout(_SLOW_SECONDS)


def say_to_terminal(text: str) -> None:
    """Write directly to standard error, unbuffered, if it is a terminal."""
    if os.isatty(2):
        os.write(2, text.encode())


@cache
def _end_watch_in_children() -> None:
    """Keep a forked child from writing its signals into its parent's watch."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def exit_soon(status: int, seconds: float = 1.0) -> None:
    """End the process after `seconds`, if threads that cannot be stopped keep it alive until then."""

    def end() -> None:
        time.sleep(seconds)
        os._exit(status)

    threading.Thread(target=end, name="cus-exit", daemon=True).start()


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions() -> dict[str, str]:
    """Versions of Python, the platform, CloseUpShot and the packages that results depend on."""
    found = {"closeupshot": cus.__version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
